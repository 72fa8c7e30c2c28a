"""The routes of the API: what each path answers, by method.

    GET    /livez  /readyz  /metrics  /openapi.json
    GET    /v1/status  /v1/peers  /v1/channels  /v1/engines
    POST   /v1/gc                                                   {"dry_run": false}, or no body
    GET    /v1/channels/{channel}/events[?since=ID][&timeout=S]     a long poll, or with Accept: text/event-stream a stream
    POST   /v1/channels/{channel}/rollback                          a stream of lines; see `api_streams`
    POST   /v1/channels/{channel}/follow                            the engines, which take up the newest version again
    POST   /v1/channels/{channel}/spool                             201; a directory for a publisher of the same user
    DELETE /v1/spools/{id}                                          204
    GET    /v1/channels/{channel}/versions
    POST   /v1/channels/{channel}/versions                          publish; see `api_streams`
    GET    /v1/channels/{channel}/versions/{selector}[?wait=S]      with `wait`: once it is complete, or after S seconds
    GET    /v1/channels/{channel}/versions/{selector}/tree          who feeds whom with it
    GET    /v1/channels/{channel}/versions/{selector}/manifest      the encoded manifest, named by its ETag
    GET    /v1/channels/{channel}/versions/{selector}/files/{path}  bytes; conditions as in `api_ranges`
    POST   /v1/channels/{channel}/versions/{selector}/activate      a stream of lines; see `api_streams`
    POST   /v1/channels/{channel}/versions/{selector}/lease         201
    POST   /v1/channels/{channel}/versions/{selector}/pin           the version; so does DELETE
    POST   /v1/channels/{channel}/versions/{selector}/verify        a stream of lines; see `api_streams`
    DELETE /v1/leases/{id}                                          204
    GET    /api/models/shardcast/{channel}                          the Hugging Face Hub's routes; see `api_hub`
    GET    /api/models/shardcast/{channel}/revision/{revision}
    GET    /api/models/shardcast/{channel}/tree/{revision}[?recursive=true][&expand=true]
    GET    /api/models/shardcast/{channel}/tree/{revision}/{path}
    GET    /shardcast/{channel}/resolve/{revision}/{path}           bytes, or a redirect to them

Lists come inside an object under the name of their route: {"peers": […]}, {"channels": […]}, {"versions": […]}. All else
is the view that `shardcast.http.facade` describes. `HEAD` answers wherever `GET` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from aiohttp import web

from shardcast.http.api_answers import FIELDS, Answer, Resource, json_response
from shardcast.http.api_body import (
    activation_request,
    follow_request,
    gc_request,
    lease_request,
    no_request,
    publish_request,
    read_object,
)
from shardcast.http.api_events import Events
from shardcast.http.api_files import FileSender
from shardcast.http.api_hub import HubRoutes
from shardcast.http.api_openapi import openapi_bytes
from shardcast.http.api_streams import Line, Streams, TellFn, Work
from shardcast.http.api_target import EXPAND, RECURSIVE, SINCE, TIMEOUT, WAIT, Target
from shardcast.http.facade import EnginesView, NodeFacade, VerifyView
from shardcast.http.peer_user import is_own_user
from shardcast.http.problems import problem_of_status
from shardcast.metrics import CONTENT_TYPE as METRICS_TYPE
from shardcast_proto.errors import ConfigError, NotFound, RemoteProtocolError
from shardcast_proto.ids import DIGEST_PREFIX
from shardcast_proto.paths import check_path

#: Paths that say only whether the node lives.
PROBES: Final = frozenset({("livez",), ("readyz",)})
_LEASE = re.compile(r"[0-9]{1,18}")


class ApiRoutes:
    """Finds the resource that a target names.

    Args:
        body_timeout_s: How long a request's body may take to arrive.
        has_token: Whether callers present a token; then nobody is taken for the node's own user.
    """

    def __init__(
        self,
        facade: NodeFacade,
        *,
        files: FileSender,
        streams: Streams,
        events: Events,
        body_timeout_s: float,
        has_token: bool,
    ) -> None:
        self._facade = facade
        self._files = files
        self._hub = HubRoutes(facade, files)
        self._streams = streams
        self._events = events
        self._body_timeout_s = body_timeout_s
        self._has_token = has_token

    def find(self, target: Target) -> Resource:
        """Return the resource's answers by method.

        Raises:
            NotFound: The API has no such path.
            ConfigError: The path takes no query.
        """
        resource = self._resource(target)
        if resource is None:
            raise NotFound("this API has no such path", hint="it serves /v1/status, /v1/channels and what is below")
        if unknown := [name for name in target.query if name not in _parameters_of(target)]:
            raise ConfigError(f"this path takes no parameter {unknown[0]}")
        return resource

    def _resource(self, target: Target) -> Resource | None:
        facade = self._facade
        match target.segments:
            case ("livez",):
                return {"GET": _reading(lambda: {"live": True})}
            case ("readyz",):
                return {"GET": self._answer_ready}
            case ("v1", "status"):
                return {"GET": _reading(facade.status)}
            case ("v1", "peers"):
                return {"GET": _reading(lambda: {"peers": facade.peers()})}
            case ("v1", "channels"):
                return {"GET": _reading(lambda: {"channels": facade.channels()})}
            case ("v1", "engines"):
                return {"GET": _reading(lambda: {"engines": facade.engines()})}
            case ("metrics",):
                return {"GET": self._answer_metrics}
            case ("openapi.json",):
                return {"GET": _answer_openapi}
            case ("v1", "gc"):
                return {"POST": self._gc}
            case ("v1", "spools", spool) if spool:
                return {"DELETE": lambda request: self._drop_spool(spool)}
            case ("v1", "channels", channel, "events"):
                since, timeout_s = target.query.get(SINCE), target.seconds(TIMEOUT)
                return {"GET": lambda request: self._events.answer(request, channel, since=since, timeout_s=timeout_s)}
            case ("v1", "channels", channel, "rollback"):
                return {"POST": lambda request: self._roll_back(request, channel)}
            case ("v1", "channels", channel, "follow"):
                return {"POST": lambda request: self._follow(request, channel)}
            case ("v1", "channels", channel, "spool"):
                return {"POST": lambda request: self._lend_spool(request, channel)}
            case ("v1", "channels", channel, "versions"):
                return {
                    "GET": _reading(lambda: {"versions": facade.versions(channel)}),
                    "POST": lambda request: self._publish(request, channel),
                }
            case ("v1", "channels", channel, "versions", selector, *below) if selector:
                return self._version_resource(channel, selector, below, target.seconds(WAIT))
            case ("v1", "leases", lease) if _LEASE.fullmatch(lease):
                return {"DELETE": lambda request: self._release(int(lease))}
        return self._hub.find(target)

    def _version_resource(self, channel: str, selector: str, below: list[str], wait_s: float | None) -> Resource | None:
        match below:
            case []:
                return {"GET": lambda request: self._answer_version(channel, selector, wait_s)}
            case ["tree"]:
                return {"GET": _reading(lambda: self._facade.tree(channel, selector))}
            case ["manifest"]:
                return {"GET": lambda request: self._answer_manifest(request, channel, selector)}
            case ["activate"]:
                return {"POST": lambda request: self._activate(request, channel, selector)}
            case ["lease"]:
                return {"POST": lambda request: self._lease(request, channel, selector)}
            case ["pin"]:
                return {
                    "POST": lambda request: self._pin(request, channel, selector),
                    "DELETE": lambda request: self._unpin(channel, selector),
                }
            case ["verify"]:
                return {"POST": lambda request: self._verify(request, channel, selector)}
            case ["files", *parts] if parts:
                return {"GET": lambda request: self._answer_file(request, channel, selector, "/".join(parts))}
        return None

    async def _answer_ready(self, request: web.BaseRequest) -> web.StreamResponse:
        is_ready, reason = self._facade.is_ready()
        if not is_ready:
            return problem_of_status(503, reason, headers={"Retry-After": "1"})
        return json_response({"ready": True, "reason": reason})

    async def _answer_version(self, channel: str, selector: str, wait_s: float | None) -> web.StreamResponse:
        if wait_s is None:
            return json_response(self._facade.version(channel, selector))
        return json_response(await self._facade.wait(channel, selector, wait_s))

    async def _answer_manifest(self, request: web.BaseRequest, channel: str, selector: str) -> web.StreamResponse:
        name = self._facade.version(channel, selector)["manifest"]
        data = self._facade.manifest_bytes(channel, name)
        return await self._files.send_manifest(request, data, f'"blake3:{name.removeprefix(DIGEST_PREFIX)}"')

    async def _answer_file(
        self, request: web.BaseRequest, channel: str, selector: str, path: str
    ) -> web.StreamResponse:
        try:
            check_path(path)
        except RemoteProtocolError as error:
            raise NotFound(f"no version has such a file: {error.message}") from error
        opened = await self._facade.open_file(channel, selector, path)
        try:
            return await self._files.send_file(request, opened)
        finally:
            opened.close()

    async def _publish(self, request: web.BaseRequest, channel: str) -> web.StreamResponse:
        wanted = publish_request(channel, await read_object(request, timeout_s=self._body_timeout_s))
        is_own = not self._has_token and await is_own_user(request.transport)
        wanted = replace(wanted, is_own_user=is_own)
        work = Work(
            name=f"publish {channel}@{wanted.step}",
            last="published",
            run=lambda tell: self._facade.publish(wanted, tell),
            survives=_is_being_published,
        )
        return await self._streams.answer(request, work)

    async def _verify(self, request: web.BaseRequest, channel: str, selector: str) -> web.StreamResponse:
        no_request(await self._read_optional(request))

        async def run(tell: TellFn) -> VerifyView:
            return await self._facade.verify(
                channel, selector, lambda done, total: tell({"event": "verifying", "done": done, "total": total})
            )

        return await self._streams.answer(request, Work(name=f"verify {channel}@{selector}", last="verified", run=run))

    async def _activate(self, request: web.BaseRequest, channel: str, selector: str) -> web.StreamResponse:
        wanted = activation_request(await self._read_optional(request))

        async def run(tell: TellFn) -> EnginesView:
            return await self._facade.activate(channel, selector, engine=wanted.engine, timeout_s=wanted.timeout_s)

        work = Work(name=f"activate {channel}@{selector}", last="activated", run=run)
        return await self._streams.answer(request, work)

    async def _roll_back(self, request: web.BaseRequest, channel: str) -> web.StreamResponse:
        wanted = activation_request(await self._read_optional(request))

        async def run(tell: TellFn) -> EnginesView:
            return await self._facade.roll_back(channel, engine=wanted.engine, timeout_s=wanted.timeout_s)

        return await self._streams.answer(request, Work(name=f"rollback {channel}", last="rolled_back", run=run))

    async def _follow(self, request: web.BaseRequest, channel: str) -> web.StreamResponse:
        engine = follow_request(await self._read_optional(request))
        return json_response(await self._facade.follow(channel, engine=engine))

    async def _pin(self, request: web.BaseRequest, channel: str, selector: str) -> web.StreamResponse:
        no_request(await self._read_optional(request))
        return json_response(await self._facade.pin(channel, selector))

    async def _unpin(self, channel: str, selector: str) -> web.StreamResponse:
        return json_response(await self._facade.unpin(channel, selector))

    async def _gc(self, request: web.BaseRequest) -> web.StreamResponse:
        dry_run = gc_request(await self._read_optional(request))
        return json_response(await self._facade.gc(dry_run=dry_run))

    async def _lend_spool(self, request: web.BaseRequest, channel: str) -> web.StreamResponse:
        no_request(await self._read_optional(request))
        view = await self._facade.spool(channel)
        return json_response(view, status=201, headers={"Location": f"/v1/spools/{view['spool']}"})

    async def _drop_spool(self, spool: str) -> web.StreamResponse:
        await self._facade.drop_spool(spool)
        return web.Response(status=204, headers=FIELDS)

    async def _read_optional(self, request: web.BaseRequest) -> dict[str, object]:
        return await read_object(request, timeout_s=self._body_timeout_s, is_optional=True)

    async def _answer_metrics(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=self._facade.metrics(), headers={**FIELDS, "Content-Type": METRICS_TYPE})

    async def _lease(self, request: web.BaseRequest, channel: str, selector: str) -> web.StreamResponse:
        wanted = lease_request(await read_object(request, timeout_s=self._body_timeout_s))
        view = await self._facade.lease(channel, selector, holder=wanted.holder, ttl_s=wanted.ttl_s)
        return json_response(view, status=201, headers={"Location": f"/v1/leases/{view['lease']}"})

    async def _release(self, lease: int) -> web.StreamResponse:
        self._facade.release_lease(lease)
        return web.Response(status=204, headers=FIELDS)


def _reading(read: Callable[[], object]) -> Answer:
    """Return the answer that shows what `read` returns."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return json_response(read())

    return answer


async def _answer_openapi(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=openapi_bytes(), content_type="application/json", headers=FIELDS)


def _is_being_published(line: Line | None) -> bool:
    """Say whether a publication goes on without its caller: one that waits for a marker or for neighbours does not."""
    return line is None or (line["event"] != "spreading" and "marker" not in line)


def _parameters_of(target: Target) -> tuple[str, ...]:
    match target.segments:
        case ("v1", "channels", _, "versions", _):
            return (WAIT,)
        case ("v1", "channels", _, "events"):
            return (SINCE, TIMEOUT)
        case ("api" | "shardcast", *_):
            return (RECURSIVE, EXPAND)
    return ()
