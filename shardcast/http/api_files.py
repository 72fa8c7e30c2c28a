"""The file answers of the API: bytes of one file, or a manifest, under the conditions of the request.

aiohttp's own file response answers `If-Range` and several ranges wrongly, so the rules are ours (`api_ranges`). Bytes leave
by `loop.sendfile` with an exact length; a body that cannot be finished is cut (`upload`).
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import BinaryIO, Final, NamedTuple

from aiohttp import web

from shardcast.http.api_answers import FIELDS
from shardcast.http.api_ranges import Selection, content_range, select
from shardcast.http.bucket import TokenBucket
from shardcast.http.facade import OpenFile
from shardcast.http.problems import problem_of_status
from shardcast.http.upload import Uploader

#: A step can be published again, so its files are asked for again each time; the validator makes that cheap.
_CACHE: Final = {"Cache-Control": "no-cache"}
_CONDITIONS: Final = ("If-Match", "If-None-Match", "If-Range", "Range")


class _Span(NamedTuple):
    """Bytes of an open file, as the uploader takes them."""

    file: BinaryIO
    offset: int
    length: int


class FileSender:
    """Sends files and manifests, as fast as their readers take them.

    Args:
        stall_timeout_s: A reader that takes nothing for so long is cut off.
    """

    def __init__(self, stall_timeout_s: float) -> None:
        self._uploader = Uploader(
            # the API's readers are on this host, or nearly: the node's uplink is not what they use
            bucket=TokenBucket(None),
            stall_timeout_s=stall_timeout_s,
            on_sent=lambda peer_hint, size_bytes: None,
        )

    async def send_file(
        self, request: web.BaseRequest, opened: OpenFile, more: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        """Answer a request for a file, with more fields in the answer. The caller closes it."""
        selection = select(
            conditions_of(request), size=opened.size, etag=opened.etag, is_range_allowed=request.method == "GET"
        )
        fields = {"ETag": opened.etag, "Accept-Ranges": "bytes", **_CACHE, **(more or {})}
        if selection.status in (206, 416):
            fields["Content-Range"] = content_range(selection, opened.size)
        if selection.status not in (200, 206):
            return _without_content(selection.status, fields)
        response = await _begin(request, selection, fields)
        if request.method == "GET":
            run = [_Span(opened.file, selection.offset, selection.length)]
            await self._uploader.send_run(request, response, run)
        return response

    async def send_manifest(self, request: web.BaseRequest, data: bytes, etag: str) -> web.StreamResponse:
        """Answer a request for an encoded manifest."""
        selection = select(conditions_of(request), size=len(data), etag=etag, is_range_allowed=False)
        fields = {"ETag": etag, **_CACHE}
        if selection.status != 200:
            return _without_content(selection.status, fields)
        response = await _begin(request, selection, fields)
        if request.method == "GET":
            await self._uploader.send_memory(request, response, data)
        return response


def conditions_of(request: web.BaseRequest) -> dict[str, str]:
    """Return the fields that make a request conditional, repeated ones joined."""
    return {name: ", ".join(request.headers.getall(name)) for name in _CONDITIONS if name in request.headers}


async def _begin(request: web.BaseRequest, selection: Selection, fields: Mapping[str, str]) -> web.StreamResponse:
    response = web.StreamResponse(
        status=selection.status, headers={**FIELDS, "Content-Type": "application/octet-stream", **fields}
    )
    response.content_length = selection.length
    await response.prepare(request)
    return response


def _without_content(status: int, fields: Mapping[str, str]) -> web.Response:
    if status == HTTPStatus.NOT_MODIFIED:
        return web.Response(status=status, headers={**FIELDS, **fields})
    detail = "the range lies outside the file" if status == 416 else "the file is another one than If-Match names"
    return problem_of_status(status, detail, headers=fields)
