"""Bulk links: the TCP connections that carry payload between neighbours.

`BulkLinks` is the table; `preamble` brings a connection up, `outlet` sends, `inlet` reads, `link` and `receiving` know what is under
way. `tcp_info` and `uplink` find the rate at which to send.
"""

from __future__ import annotations

from .events import LinkEvents
from .limits import LinkLimits
from .links import BulkLinks
from .meter import LinkStats

__all__ = ["BulkLinks", "LinkEvents", "LinkLimits", "LinkStats"]
