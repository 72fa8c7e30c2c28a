"""The thresholds of the allocator."""

from __future__ import annotations

import ctypes

import pytest

from shardcast.allocator import keep_buffers


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt")
def test_glibc_takes_the_thresholds():
    assert keep_buffers()
