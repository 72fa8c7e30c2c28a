"""The health of an engine that answers `GET /health`."""

from __future__ import annotations

from .calls import ASK_TIMEOUT_S, EngineHttp
from .port import EngineFault, Health


async def health_of(http: EngineHttp, *, timeout_s: float = ASK_TIMEOUT_S) -> Health:
    """Return what an engine says of itself."""
    try:
        reply = await http.call("GET", "/health", timeout_s=timeout_s)
    except EngineFault:
        return Health.UNREACHABLE
    return Health.HEALTHY if reply.status == 200 else Health.UNHEALTHY
