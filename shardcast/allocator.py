"""The C library's allocator, told to keep the buffers that a transfer needs again at once.

Left alone glibc gives each buffer of a quarter of a megabyte back to the kernel, which clears new pages for the next one: about 7 % of a
node's CPU time while it receives (measured on loopback). Other C libraries have no such call, and are left alone.
"""

from __future__ import annotations

import ctypes
from typing import Final

from shardcast_proto.limits import MIB

#: Parameters of `mallopt` (malloc.h).
_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_THRESHOLD: Final = -3

#: Larger blocks (a manifest, at most 32 MiB) still come from the kernel and go back to it.
BLOCK_BYTES_MAX: Final = 16 * MIB
#: Freed memory is kept up to what may be on its way into a node at once (`RelayConfig.receive_budget_bytes`), and some more.
KEPT_BYTES_MAX: Final = 64 * MIB
#: The heap grows by this at a time.
GROWTH_BYTES: Final = 4 * MIB


def keep_buffers() -> bool:
    """Set the thresholds of this process, and return whether the C library has taken them."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = {_MMAP_THRESHOLD: BLOCK_BYTES_MAX, _TRIM_THRESHOLD: KEPT_BYTES_MAX, _TOP_PAD: GROWTH_BYTES}
    taken = [mallopt(parameter, value) == 1 for parameter, value in settings.items()]
    return all(taken)
