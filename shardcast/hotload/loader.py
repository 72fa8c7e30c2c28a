"""The loader: a version that is complete on this host becomes what an engine samples from.

    loader = HotLoader(model)                                  # or a mapping of names to tensors
    with subscriber.hold(version):                             # not deleted meanwhile
        loader.load(version)                                   # the old weights serve; everything that can fail, fails here
        loader.commit()                                        # the pause: one copy in place
    with loader.serving():                                     # round each batch, where the engine runs in this process
        rollouts = sample(model), loader.current

**What is promised.** The live tensors are wholly one version whenever `serving` lets a reader in. Their addresses never change, so captured
CUDA graphs stay valid. No byte reaches them that has not the digest of the manifest. A `load` writes none of them. A `commit` that fails,
at whatever point, writes the old weights back before it raises; where even that fails it raises `TornWeights`, and `current` is None.

**States.** Nothing staged → `load` → staged → `commit` → current. A load of another version replaces the staged one, a load of the current
one stages that nothing is to do. After a failed `load` nothing is staged (what does not fit is refused before, and what was staged stays);
after a failed `commit` the version still is, and can be committed again. One call is carried out at a time; another one meanwhile is
refused, from whatever thread. Nobody else may write to the live tensors between `load` and `commit`.

**The old weights** are copied at the end of `load`, into memory (`rollback_copies=1`), for a commit that fails and for `rollback`, which
goes back one version, from a commit until the next load has staged. With `rollback_copies=0` the files of the version before take their
place: they stay open, and are read, and verified, again. Where there are none, because what an engine started with came from elsewhere,
a commit that fails in the middle leaves torn weights; `Staged.can_restore` says so before.

**In place** (`staging="inplace"`) there is no image of the new weights. `load` reads and verifies everything once and copies nothing;
`commit` reads, verifies and writes slab by slab. After a fault in the middle (a file was changed since `load`, for one) the old weights
are written back as above, which takes as long again.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from shardcast_proto.errors import ConfigError, HotLoadError
from shardcast_proto.manifest import Manifest

from .backend import Backend, backend_for
from .errors import TornWeights
from .memory import MemoryPlan, MemoryWish
from .pause import Pause
from .plan import Plan, RenameFn
from .results import Committed, Staged
from .slots import Slot, device_of, slots_of
from .stager import Stager
from .swap import go_back, replace
from .updates import Update
from .versions import VersionLike, VersionOnDisk, on_disk

#: Four chunks of the largest kind: read ahead far enough for a disk, and small beside any model.
SLAB_BYTES: Final = 32 * 1024 * 1024
SLABS: Final = 3


@dataclass(frozen=True)
class _Old:
    """Old weights: what writes them back, into which tensors, and which version they are, where that is known."""

    update: Update
    slots: list[Slot]
    version: VersionOnDisk | None


@dataclass(frozen=True)
class _Ready:
    """What a load left for the commit. `update` is None when there is nothing to do."""

    staged: Staged
    version: VersionOnDisk
    slots: list[Slot]
    update: Update | None
    old: _Old | None


class HotLoader:
    """Loads versions into live tensors. All methods may be called from any thread."""

    def __init__(
        self,
        target: object,
        *,
        backend: Backend | None = None,
        staging: Literal["auto", "device", "host", "inplace"] = "auto",
        slab_bytes: int = SLAB_BYTES,
        slabs: int = SLABS,
        names: RenameFn | None = None,
        rollback_copies: int = 1,
        current: VersionLike | None = None,
    ) -> None:
        """Look at the tensors; no memory is taken yet.

        Args:
            target: A `torch.nn.Module`, whose parameters and persistent buffers are loaded, or a mapping of names to tensors. All on
                one device. Names of the same memory are one tensor.
            backend: The device; by default that of the tensors.
            staging: Where new weights wait (`shardcast.hotload.memory`); `auto` is the fastest that free memory allows.
            slab_bytes: The size of a slab; at least a chunk of any version, so 8 MiB is enough for all.
            slabs: How many slabs; at least 3.
            names: Gives published names the names they have here; None leaves a tensor out.
            rollback_copies: Whether the old weights are kept in memory, 0 or 1.
            current: The version that the tensors hold already, for an engine that started from one.

        Raises:
            ConfigError: The tensors cannot be loaded into, or an argument is none of these.
            What `load` says of a version that is none, of `current`.
        """
        if staging not in ("auto", "device", "host", "inplace"):
            raise ConfigError(f"staging is auto, device, host or inplace, not {staging!r}")
        if rollback_copies not in (0, 1):
            raise ConfigError(f"{rollback_copies} copies of old weights", hint="keep 0 or 1")
        if slabs < 3 or slab_bytes < 1:
            raise ConfigError(
                f"a ring of {slabs} slabs of {slab_bytes} bytes", hint="3 are needed: read, verified, copied"
            )
        slots = slots_of(target)
        self._backend = backend or backend_for(device_of(slots))
        self._stager = Stager(target, self._backend, MemoryWish(staging, rollback_copies, slab_bytes, slabs), names)
        self._busy = threading.Lock()
        self._pause = Pause()
        self._ready: _Ready | None = None
        #: What is live, and in which tensors; a model that was moved or replaced has others.
        self._current = None if current is None else on_disk(current)
        self._slots = slots
        #: What was live before the last commit.
        self._old: _Old | None = None
        self._is_torn = False
        self._is_closed = False

    # --- what there is ---

    @property
    def current(self) -> str | None:
        """The version that is live, `b3:HEX`; None before the first commit, and while the weights are torn."""
        version = self._current
        return None if version is None else version.digest

    @property
    def staged(self) -> Staged | None:
        """What `commit` would make current."""
        ready = self._ready
        return None if ready is None else ready.staged

    @property
    def is_torn(self) -> bool:
        """Whether the live tensors are a mixture, after a `TornWeights`."""
        return self._is_torn

    @property
    def memory(self) -> MemoryPlan | None:
        """The memory that is held; None before the first load."""
        return self._stager.memory

    def serving(self) -> AbstractContextManager[None]:
        """Keep the weights, and `current`, as they are for the length of a block; a commit waits for its end."""
        return self._pause.serving()

    # --- what can be done ---

    def plan(self, version: VersionLike, *, manifest: Manifest | bytes | None = None) -> Plan:
        """Return what `load` would do, from headers alone; no memory is taken.

        Raises: as `load`.
        """
        with self._alone("plan"):
            disk = on_disk(version, manifest)
            with self._stager.files_of(disk) as files:
                return self._stager.plan(disk, files)

    def load(self, version: VersionLike, *, manifest: Manifest | bytes | None = None) -> Staged:
        """Stage a version: plan, read, verify, keep the old weights. Nothing live is written.

        Args:
            version: A complete `shardcast.Version`, a `VersionOnDisk`, or the path of a version's directory.
            manifest: What must be in that directory, where `version` does not say it.

        Raises:
            DoesNotFit: The version is not one of these tensors.
            IntegrityError: Its files are not what was signed.
            StoreError: They cannot be read.
            HotLoadError: There is not enough memory, the device fails, the version is not complete, or another call is under way.
            ConfigError: There is no manifest, or a slab is smaller than a chunk.
            NotFound, NotReady, DaemonUnreachable: From the node that a `shardcast.Version` asks.
        """
        with self._alone("load"):
            return self._load(on_disk(version, manifest))

    def commit(self, *, timeout_s: float | None = None) -> Committed:
        """Make the staged version current: wait for `serving` to be free, copy, check.

        Args:
            timeout_s: How long batches under way are waited for; None for as long as they take.

        Raises:
            HotLoadError: Nothing is staged, a batch did not end in time, the tensors were replaced since `load`, or the device failed; the
                old weights are live.
            IntegrityError: With in-place staging: the files changed since `load`. The old weights are live.
            TornWeights: It failed in the middle, and the old weights could not be written back.
        """
        with self._alone("commit"):
            return self._commit(timeout_s)

    def rollback(self, *, timeout_s: float | None = None) -> Committed:
        """Make the version before current again. What is staged is given up.

        Raises:
            HotLoadError: There is none to go back to; else as `commit`.
            TornWeights: As `commit`.
        """
        with self._alone("rollback"):
            return self._go_back(timeout_s)

    def verify(self) -> int:
        """Compare every byte of the live tensors with the files of the current version, and return how many bytes were read.

        Raises:
            HotLoadError: They differ, or no version is current.
            IntegrityError, StoreError: The files are not what was signed, or cannot be read.
        """
        with self._alone("verify"):
            if self._current is None:
                raise HotLoadError("no version is known to be live, so there is nothing to compare with")
            with self._stager.files_of(self._current) as files:
                return self._stager.compare(self._stager.plan(self._current, files), files)

    def close(self) -> None:
        """Give all memory back. The live tensors stay as they are; a staged version is given up."""
        with self._busy:
            self._is_closed = True
            self._drop_ready()
            self._forget_old()
            self._stager.close()

    def __enter__(self) -> HotLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # page-locked memory that is only forgotten stays locked, and open files stay open
        with contextlib.suppress(Exception):
            self.close()

    # --- how ---

    @contextmanager
    def _alone(self, call: str) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise HotLoadError(
                f"{call} was called while another call is under way", hint="call one after another", reason="busy"
            )
        try:
            if self._is_closed:
                raise HotLoadError(f"{call} was called after close", reason="closed")
            yield
        finally:
            self._busy.release()

    def _load(self, version: VersionOnDisk) -> Staged:
        ready = self._ready
        if ready is not None and ready.staged.digest == version.digest and self._is_in_place(ready.slots):
            return ready.staged
        began_s = time.monotonic()
        if self.current == version.digest and self._is_in_place(self._slots):
            self._drop_ready()
            staged = Staged(digest=version.digest, bytes=0, memory=self.memory, seconds=0.0, can_restore=True)
            self._ready = _Ready(staged, version, [], None, None)
            return staged
        files = self._stager.files_of(version)
        update: Update | None = None
        try:
            plan = self._stager.plan(version, files)
            self._drop_ready()
            if not self._stager.has_memory_for(plan):
                self._forget_old()
            update = self._stager.stage(plan, files)
            old = self._keep_old(plan)
        except BaseException:
            files.close()
            raise
        if plan.memory.staging != "inplace":
            files.close()
        staged = Staged(
            digest=version.digest,
            bytes=plan.bytes,
            memory=plan.memory,
            seconds=time.monotonic() - began_s,
            can_restore=old is not None,
        )
        self._ready = _Ready(staged, version, plan.slots, update, old)
        return staged

    def _keep_old(self, plan: Plan) -> _Old | None:
        if self._is_torn and self._old is not None and self._is_in_place(self._old.slots):
            # what could not be written back may be next time
            return self._old
        self._forget_old()
        # what is live is worth nothing when it is torn
        update = None if self._is_torn else self._stager.keep_old(plan, self._current)
        return None if update is None else _Old(update, plan.slots, self._current)

    def _commit(self, timeout_s: float | None) -> Committed:
        ready, before = self._ready, self.current
        if ready is None:
            raise HotLoadError("nothing is staged", hint="load a version first", reason="nothing_staged")
        if ready.update is None:
            self._ready = None
            return Committed(digest=before, previous=before, bytes=0, pause_seconds=0.0, waited_seconds=0.0)
        self._refuse_moved(ready.slots)
        with self._pause.alone(timeout_s) as waited_s:
            began_s = time.monotonic()
            try:
                replace(self._backend, ready.update, None if ready.old is None else ready.old.update)
            except TornWeights:
                self._current, self._is_torn, self._old = None, True, ready.old
                raise
            self._current, self._slots, self._old = ready.version, ready.slots, ready.old
            self._is_torn, self._ready = False, None
            pause_s = time.monotonic() - began_s
        ready.update.release()
        return Committed(
            digest=self.current,
            previous=before,
            bytes=ready.staged.bytes,
            pause_seconds=pause_s,
            waited_seconds=waited_s,
        )

    def _go_back(self, timeout_s: float | None) -> Committed:
        old, before = self._old, self.current
        if old is None:
            raise HotLoadError(
                "there is no version to go back to",
                hint="one is kept from a commit until the next load; load an older version instead",
                reason="no_previous",
            )
        self._refuse_moved(old.slots)
        with self._pause.alone(timeout_s) as waited_s:
            began_s = time.monotonic()
            try:
                interruption = go_back(self._backend, old.update)
            except TornWeights:
                self._current, self._is_torn = None, True
                raise
            self._current, self._is_torn = old.version, False
            pause_s = time.monotonic() - began_s
        self._drop_ready()
        self._forget_old()
        if interruption is not None:
            raise interruption
        return Committed(
            digest=self.current,
            previous=before,
            bytes=sum(slot.size_bytes for slot in old.slots),
            pause_seconds=pause_s,
            waited_seconds=waited_s,
        )

    def _refuse_moved(self, slots: list[Slot]) -> None:
        if not self._is_in_place(slots):
            raise HotLoadError(
                "the live tensors are not those that the weights were made ready for: the model was moved or replaced",
                hint="load a version again",
            )

    def _is_in_place(self, slots: list[Slot]) -> bool:
        """Whether the live tensors are still the ones, where they were."""
        now = self._stager.slots()
        return [(slot.names, slot.pointer) for slot in slots] == [(slot.names, slot.pointer) for slot in now]

    def _drop_ready(self) -> None:
        ready, self._ready = self._ready, None
        if ready is not None and ready.update is not None:
            ready.update.release()
        if ready is not None and ready.old is not None and ready.old is not self._old:
            ready.old.update.release()

    def _forget_old(self) -> None:
        old, self._old = self._old, None
        if old is not None:
            old.update.release()
