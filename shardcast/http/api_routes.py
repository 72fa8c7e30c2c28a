"""The routes of the API: what each path answers, by method.

    GET    /livez  /readyz
    GET    /v1/status  /v1/peers  /v1/channels
    GET    /v1/channels/{channel}/versions
    POST   /v1/channels/{channel}/versions                          publish; see `api_publish`
    GET    /v1/channels/{channel}/versions/{selector}[?wait=S]      with `wait`: once it is complete, or after S seconds
    GET    /v1/channels/{channel}/versions/{selector}/manifest      the encoded manifest, named by its ETag
    GET    /v1/channels/{channel}/versions/{selector}/files/{path}  bytes; conditions as in `api_ranges`
    POST   /v1/channels/{channel}/versions/{selector}/lease         201
    DELETE /v1/leases/{id}                                          204

Lists come inside an object under the name of their route: {"peers": […]}, {"channels": […]}, {"versions": […]}. All else
is the view that `shardcast.http.facade` describes. `HEAD` answers wherever `GET` does.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from aiohttp import web

from shardcast.http.api_answers import FIELDS, json_response
from shardcast.http.api_body import lease_request, publish_request, read_object
from shardcast.http.api_files import FileSender
from shardcast.http.api_publish import Publishing
from shardcast.http.api_target import Target
from shardcast.http.facade import NodeFacade
from shardcast.http.problems import problem_of_status
from shardcast_proto.errors import ConfigError, NotFound, RemoteProtocolError
from shardcast_proto.ids import DIGEST_PREFIX
from shardcast_proto.paths import check_path

Answer: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Resource: TypeAlias = Mapping[str, Answer]

#: Paths that say only whether the node lives.
PROBES: Final = frozenset({("livez",), ("readyz",)})
_LEASE = re.compile(r"[0-9]{1,18}")


class ApiRoutes:
    """Finds the resource that a target names.

    Args:
        body_timeout_s: How long a request's body may take to arrive.
    """

    def __init__(self, facade: NodeFacade, *, files: FileSender, publishing: Publishing, body_timeout_s: float) -> None:
        self._facade = facade
        self._files = files
        self._publishing = publishing
        self._body_timeout_s = body_timeout_s

    def find(self, target: Target) -> Resource:
        """Return the resource's answers by method.

        Raises:
            NotFound: The API has no such path.
            ConfigError: The path takes no query.
        """
        resource = self._resource(target)
        if resource is None:
            raise NotFound("this API has no such path", hint="it serves /v1/status, /v1/channels and what is below")
        if target.wait_s is not None and not _may_wait(target):
            raise ConfigError("this path takes no query")
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
            case ("v1", "channels", channel, "versions"):
                return {
                    "GET": _reading(lambda: {"versions": facade.versions(channel)}),
                    "POST": lambda request: self._publish(request, channel),
                }
            case ("v1", "channels", channel, "versions", selector, *below) if selector:
                return self._version_resource(channel, selector, below, target.wait_s)
            case ("v1", "leases", lease) if _LEASE.fullmatch(lease):
                return {"DELETE": lambda request: self._release(int(lease))}
        return None

    def _version_resource(self, channel: str, selector: str, below: list[str], wait_s: float | None) -> Resource | None:
        match below:
            case []:
                return {"GET": lambda request: self._answer_version(channel, selector, wait_s)}
            case ["manifest"]:
                return {"GET": lambda request: self._answer_manifest(request, channel, selector)}
            case ["lease"]:
                return {"POST": lambda request: self._lease(request, channel, selector)}
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
        return await self._publishing.answer(request, wanted)

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


def _may_wait(target: Target) -> bool:
    return len(target.segments) == 5 and target.segments[3] == "versions"
