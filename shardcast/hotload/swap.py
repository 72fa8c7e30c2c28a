"""The moment in which live tensors change: all of them, or none.

Whatever interrupts it, Ctrl-C included, the old weights are written back before the error goes on. Where that fails too, the error says
that the weights are torn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shardcast_proto.errors import HotLoadError, ShardcastError

from .backend import Backend
from .errors import TornWeights
from .updates import Update


def replace(backend: Backend, update: Update, undo: Update | None) -> None:
    """Write new weights; the pause has begun.

    Args:
        backend: The device.
        update: The new weights.
        undo: The old ones; None when nobody has them.

    Raises:
        TornWeights: It failed in the middle, and so did writing back the old weights.
        HotLoadError: The device failed, or the tensors do not hold what was written. The old weights are live.
        IntegrityError, StoreError: From an update that reads files. The old weights are live.
    """
    with device_errors("waiting for the device"):
        backend.quiesce()
    try:
        _write(update)
    except BaseException as error:
        _write_back(backend, undo, error)
        raise


def go_back(backend: Backend, old: Update) -> BaseException | None:
    """Write old weights, once more if that fails; the pause has begun. Return what interrupted it and is the caller's to raise.

    Raises:
        TornWeights: It failed twice.
        HotLoadError: The device does not come to rest; nothing was written.
    """
    with device_errors("waiting for the device"):
        backend.quiesce()
    try:
        _write(old)
    except BaseException as error:  # noqa: BLE001  it is not dropped: what is no failure of the device goes back to the caller
        _write_back(backend, old, error)
        return None if isinstance(error, Exception) else error
    return None


@contextmanager
def device_errors(action: str) -> Iterator[None]:
    """Raise what a backend or the operating system raises inside as a `HotLoadError` that says what was being done."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        raise HotLoadError(
            f"{type(error).__name__} while {action}: {str(error).strip().partition(chr(10))[0] or 'no reason given'}",
            hint="the old weights serve; if it goes on, look at the device and at free memory",
        ) from error


def _write(update: Update) -> None:
    with device_errors("writing the live tensors"):
        update.write()
        update.samples.check()


def _write_back(backend: Backend, undo: Update | None, error: BaseException) -> None:
    why = error.message if isinstance(error, ShardcastError) else type(error).__name__
    hint = "sample nothing from them; load and commit a version, or start the engine anew"
    if undo is None:
        raise TornWeights(f"the live tensors are torn: {why}, and nobody kept the old weights", hint=hint) from error
    try:
        backend.quiesce()
        _write(undo)
    except BaseException as second:
        raise TornWeights(
            f"the live tensors are torn: {why}, and the old weights could not be written back", hint=hint
        ) from second
