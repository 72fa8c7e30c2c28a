"""The pytest rules of every room: a device test skips itself and says why, a test never reads this user's settings."""

from __future__ import annotations

import importlib.util
import os
import signal

import pytest
from hypothesis import settings

# How long one example takes says how busy the machine is, not whether the code is right.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_configure() -> None:
    """Hear of Ctrl-C: what a shell runs behind `&` ignores it, and so does every program that it starts, to be interrupted or not."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need what this machine lacks, with the reason."""
    for item in items:
        if item.get_closest_marker("gpu") is not None and not _has_cuda():
            item.add_marker(pytest.mark.skip(reason="needs torch and a CUDA device"))
        if item.get_closest_marker("lab") is not None and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root for network namespaces"))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep `SHARDCAST_*` variables of the caller's shell out of every test."""
    for name in [name for name in os.environ if name.startswith("SHARDCAST_")]:
        monkeypatch.delenv(name)


def _has_cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())
