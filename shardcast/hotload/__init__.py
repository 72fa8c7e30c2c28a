"""Hot-loading: a version's verified bytes become the live tensors of an engine, without a restart and without a mixture.

Start with `loader` for what is promised and which states there are. `layout` and `plan` decide from headers what goes where, `memory` where
it waits, `ring` and `verified` bring it there, `updates` and `swap` make it live. The device is behind `backend`. It refuses, before
it writes anything, what does not fit the live tensors.
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("hot-loading needs torch: install shardcast-node[torch]") from error

from .backend import Backend, CpuBackend
from .errors import DoesNotFit, TornWeights
from .loader import SLAB_BYTES, SLABS, HotLoader
from .memory import MemoryPlan
from .plan import Plan
from .results import Committed, Staged
from .updates import Update
from .versions import VersionLike, VersionOnDisk

__all__ = [
    "HotLoader",
    "Staged",
    "Committed",
    "VersionOnDisk",
    "VersionLike",
    "Plan",
    "MemoryPlan",
    "DoesNotFit",
    "TornWeights",
    "Backend",
    "CpuBackend",
    "Update",
    "SLAB_BYTES",
    "SLABS",
]
