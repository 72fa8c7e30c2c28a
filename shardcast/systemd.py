"""The service manager's view of a daemon: sd_notify, without its library.

A service of `Type=notify` counts as started when it says READY=1; one with `WatchdogSec=` is killed, and started again, when it says
WATCHDOG=1 too rarely. Messages are datagrams to the socket that `NOTIFY_SOCKET` names. Without a manager nothing here does anything.
See sd_notify(3).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

#: A manager says at least twice in its interval that it wants to hear something (sd_watchdog_enabled(3)).
_SHARE: Final = 0.5

_log = structlog.get_logger("shardcast.daemon")


def notify(*assignments: str) -> bool:
    """Tell the manager some `NAME=value`; return whether there is one that was told."""
    name = os.environ.get("NOTIFY_SOCKET")
    if not name:
        return False
    # a name that begins with @ stands for one outside the file system
    address = f"\0{name[1:]}" if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as messages:
            messages.setblocking(False)
            messages.sendto("\n".join(assignments).encode(), address)
    except OSError as error:
        _log.warning("manager_not_told", socket=name, error=error.strerror or str(error))
        return False
    return True


def watchdog_interval_s() -> float | None:
    """Return how often the manager wants to hear that this process lives; None when it does not."""
    interval_us, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not interval_us.isascii() or not interval_us.isdecimal() or pid != str(os.getpid()):
        return None
    return int(interval_us) / 1e6 * _SHARE or None


async def keep_watchdog(pulse: Callable[[], Awaitable[None]]) -> None:
    """Tell the manager again and again that this process lives, as long as `pulse` returns; without a watchdog return at once.

    Raises:
        Exception: What `pulse` raises.
    Cancellation: nothing is left behind.
    """
    interval_s = watchdog_interval_s()
    while interval_s is not None:
        await pulse()
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)
