"""The silencer of libp2p's log records.

libp2p reports what peers do wrong as warnings and errors, with tracebacks and often through the root logger. For us
that is daily traffic: every record of it becomes a DEBUG record of `shardcast.p2p.libp2p`, and none reaches a handler
by another way. What an operator should know is logged by this room itself.
"""

from __future__ import annotations

import logging
import sys
from types import ModuleType
from typing import Any, Final

LOGGER_NAME: Final = "shardcast.p2p.libp2p"
_TARGET: Final = logging.getLogger(LOGGER_NAME)


class _Demoted(logging.Handler):
    """Hands each record on as a DEBUG record of our own logger."""

    def emit(self, record: logging.LogRecord) -> None:
        if _TARGET.isEnabledFor(logging.DEBUG):
            _TARGET.debug("%s: %s", record.name, record.getMessage(), exc_info=record.exc_info)


class _QuietLogging(ModuleType):
    """Stands in for `logging` in modules that log through the root logger, and so would configure it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(logging, name)


def _build_stand_in() -> _QuietLogging:
    stand_in = _QuietLogging("logging")
    for name in ("debug", "info", "warning", "error", "exception", "critical"):
        setattr(stand_in, name, getattr(logging.getLogger("libp2p"), name))
    return stand_in


def quiet_libp2p() -> None:
    """Route everything that libp2p logs to our logger. Call after importing libp2p; calling again does no harm."""
    logger = logging.getLogger("libp2p")
    logger.handlers = [_Demoted()]
    logger.propagate = False
    # Its own DEBUG records are thousands a second and its INFO records say nothing about peers that misbehave.
    logger.setLevel(logging.WARNING)
    stand_in = _build_stand_in()
    for name, module in list(sys.modules.items()):
        if name.startswith("libp2p.") and getattr(module, "logging", None) is logging:
            module.logging = stand_in  # type: ignore[attr-defined]
