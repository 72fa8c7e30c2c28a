"""The HTTP API of a node: the port that commands, trainers and engines on this host talk to.

This module owns the port: who may connect for how long (`gate`), whose requests are answered (`api_guard`), and that
every failure becomes a problem document (`problems`). What is answered stands in `api_routes`; what a node can be asked,
in `facade`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final, Self

import structlog
from aiohttp import web

from shardcast.descriptors import at_most
from shardcast.http.api_answers import Resource
from shardcast.http.api_body import BodyRefused
from shardcast.http.api_events import ALIVE_INTERVAL_S, Events
from shardcast.http.api_files import FileSender
from shardcast.http.api_guard import Guard
from shardcast.http.api_routes import PROBES, ApiRoutes
from shardcast.http.api_streams import REPEAT_INTERVAL_S, Streams
from shardcast.http.api_target import parse_target
from shardcast.http.facade import NodeFacade
from shardcast.http.gate import Door, Gate, GateLimits, listen
from shardcast.http.problems import problem_of_fault, problem_of_status, problem_response
from shardcast.http.upload import open_transport
from shardcast_proto.errors import ConfigError, NotReady, ShardcastError

#: A path of 1 KiB, each byte %-encoded, with the names before it.
_LINE_BYTES_MAX: Final = 4096
_FIELD_BYTES_MAX: Final = 4096
_FIELDS_MAX: Final = 64
#: How long what is left of a refused body is read, so that its sender can read the refusal.
_LINGER_S: Final = 1.0
#: Running handlers that have not ended by then, after their connections were cut, are cancelled.
_SHUTDOWN_S: Final = 1.0
_RETRY: Final = {"Retry-After": "1"}

_log = structlog.get_logger(__name__)


def _gate_limits() -> GateLimits:
    # behind one address, 127.0.0.1, stand all the callers there are: an engine per device, each waiting
    return GateLimits(connections_max=at_most(256, share=0.2), connections_per_address_max=256)


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiLimits:
    """What the API puts up with."""

    #: A body is 64 KiB at most.
    body_timeout_s: float = 10.0
    #: A reader that takes nothing for so long is cut off.
    stall_timeout_s: float = 30.0
    #: A caller that publishes hears something this often.
    repeat_interval_s: float = REPEAT_INTERVAL_S
    #: So does one that reads events.
    alive_interval_s: float = ALIVE_INTERVAL_S
    gate: GateLimits = field(default_factory=_gate_limits)


class ApiServer:
    """The listening end of the API.

    Args:
        facade: The node that is asked.
        token: What callers must present as a bearer; None admits every program on this host, and loopback only.

    Raises:
        ConfigError: The token is too weak to be one.
    """

    def __init__(self, facade: NodeFacade, *, token: bytes | None, limits: ApiLimits | None = None) -> None:
        self.limits = limits or ApiLimits()
        self._guard = Guard(token)
        stall_timeout_s = self.limits.stall_timeout_s
        self._streams = Streams(stall_timeout_s=stall_timeout_s, repeat_interval_s=self.limits.repeat_interval_s)
        self._routes = ApiRoutes(
            facade,
            files=FileSender(stall_timeout_s),
            streams=self._streams,
            events=Events(facade, stall_timeout_s=stall_timeout_s, alive_interval_s=self.limits.alive_interval_s),
            body_timeout_s=self.limits.body_timeout_s,
            has_token=token is not None,
        )
        self._http: web.Server | None = None
        self._gate: Gate | None = None
        self._listener: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen, and return the address that was bound (`port` 0 picks a free one).

        Raises:
            ConfigError: The address cannot be bound, or must not be without a token.
        """
        self._guard.check_bind(host)
        self._http = web.Server(
            self._handle,
            handler_cancellation=True,  # a caller that leaves ends its wait at once
            access_log=None,
            lingering_time=_LINGER_S,
            keepalive_timeout=self.limits.gate.idle_timeout_s,
            max_line_size=_LINE_BYTES_MAX,
            max_field_size=_FIELD_BYTES_MAX,
            max_headers=_FIELDS_MAX,
            auto_decompress=False,
        )
        gate = Gate(self._http, self.limits.gate)
        try:
            self._listener = await listen(gate, host, port)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror or error}", hint="name a free address with --api"
            ) from error
        self._gate = await gate.__aenter__()
        bound = self._listener.sockets[0].getsockname()
        return str(bound[0]), int(bound[1])

    @property
    def connection_count(self) -> int:
        """How many connections are open."""
        return 0 if self._gate is None else self._gate.connection_count

    async def aclose(self) -> None:
        """Stop listening, cancel what is running, and wait until nothing of it is left."""
        if self._listener is not None:
            self._listener.close()
        if self._gate is not None:
            await self._gate.__aexit__()
        if self._http is not None:
            await self._http.shutdown(_SHUTDOWN_S)
        await self._streams.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        door = _door_of(request)
        door.request_started()
        try:
            return await self._answer(request)
        except BodyRefused as error:
            return _closing(problem_response(error, status=error.status))
        except ShardcastError as error:
            may_retry = isinstance(error, NotReady) or error.http_status == 503
            return problem_response(error, headers=_RETRY if may_retry else None)
        except ConnectionError:
            raise
        except Exception:  # noqa: BLE001 - the HTTP boundary: whatever a request runs into ends that request only
            _log.exception("api_request_failed", method=request.method, path=request.raw_path)
            return problem_of_fault()
        finally:
            door.request_ended()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        # judged on the text as it was sent: nothing is decoded for a caller who may not ask
        is_probe = tuple(request.raw_path[1:].split("/")) in PROBES
        if refusal := self._guard.refusal(request, is_probe=is_probe):
            return _closing(refusal)
        resource = self._routes.find(parse_target(request.raw_path))
        answer = resource.get("GET" if request.method == "HEAD" else request.method)
        if answer is None:
            return _closing(_method_problem(resource))
        if request.body_exists and request.method != "POST":
            return _closing(problem_of_status(400, f"a {request.method} request has no body here"))
        return await answer(request)


def _method_problem(resource: Resource) -> web.Response:
    allowed = ", ".join([*resource, *(["HEAD"] if "GET" in resource else [])])
    return problem_of_status(405, f"this path answers {allowed}", headers={"Allow": allowed})


def _closing(response: web.Response) -> web.Response:
    """Make a response the last one on its connection: what follows it there may be a body that nobody wants."""
    response.force_close()
    return response


def _door_of(request: web.BaseRequest) -> Door:
    door = open_transport(request).get_protocol()
    if not isinstance(door, Door):
        raise TypeError(f"a request came in by {door!r}, not by a door of the gate")
    return door
