"""The swarm of SHARDCAST as decisions only: facts in, orders out.

Read `machine` for the theory of operation, `events` for what it is told, `commands` for what it orders.
"""

from __future__ import annotations

from .config import RelayConfig
from .machine import Machine
from .randomness import Rng

__all__ = ["Machine", "RelayConfig", "Rng"]
