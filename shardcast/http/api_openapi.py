"""The description of the API for machines (OpenAPI 3.1), one operation per route and method.

The table is kept by hand beside `api_routes`; a test asks each of the two for what the other names, and schemathesis compares what is
described with what a real node answers. Schemas of answers come from the facade (`api_schemas`), limits of requests from `api_body`.
`HEAD`, which answers wherever `GET` does, is not listed.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from shardcast import __version__
from shardcast.http import api_body, facade
from shardcast.http.api_schemas import Schema, listed, reference, view_schemas
from shardcast.http.api_target import WAIT_S_MAX
from shardcast.http.problems import CONTENT_TYPE as PROBLEM_TYPE

JSON: Final = "application/json"
_LINES: Final = "application/x-ndjson"
_TEXT: Final[Schema] = {"type": "string"}
_BYTES: Final[Schema] = {}
_SIZE: Final[Schema] = {"type": "integer", "minimum": 0}
_SECONDS: Final[Schema] = {"type": "number", "minimum": 0, "maximum": WAIT_S_MAX}
_DIGITS: Final = "[0-9]{1,18}"
_SELECTOR: Final = f"^(latest|{_DIGITS}|seq:{_DIGITS}|b3:[0-9a-f]{{40}}([0-9a-f]{{24}})?)$"
#: What every request can meet: the guard of the API, its gate, a bug of ours.
_ALWAYS: Final = (400, 401, 403, 421, 500, 503)
_BODY: Final = (408, 413, 415, 417)


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One method of one route."""

    method: str
    path: str
    summary: str
    #: The status of success with its content: (media type, schema) pairs, none for no content.
    status: int = 200
    content: tuple[tuple[str, Schema], ...] = ()
    #: Statuses that come with a problem document, beside those of `_ALWAYS`.
    problems: tuple[int, ...] = ()
    #: Statuses without a body, or with one of the content above.
    others: tuple[int, ...] = ()
    query: dict[str, Schema] = field(default_factory=dict)
    headers: dict[str, Schema] = field(default_factory=dict)
    body: Schema | None = None
    needs_body: bool = False


_NO_MEMBERS: Final[Schema] = {"type": "object", "additionalProperties": False}
_PUBLISH: Final[Schema] = {
    "type": "object",
    "required": ["path", "step"],
    "additionalProperties": False,
    "properties": {
        "path": {"type": "string", "pattern": r"^/[^\x00]*$", "description": "An absolute path on the node's host."},
        "step": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
        "rewind": {"type": "boolean", "default": False},
        "link": {"enum": list(api_body.LINKS), "default": "auto"},
        "wait": {
            "anyOf": [
                {"const": api_body.ANNOUNCED},
                {"type": "integer", "minimum": 1, "maximum": api_body.NEIGHBOURS_MAX},
            ],
            "default": api_body.ANNOUNCED,
            "description": "Answer when it is announced, or when so many direct neighbours are complete.",
        },
        "wait_marker": {
            "anyOf": [{"type": "string", "pattern": r"^[A-Za-z0-9_][^/\x00]{0,62}$"}, {"type": "null"}],
            "description": "A file that must exist in the directory before it is taken.",
        },
        "timeout_s": {
            "type": "number",
            "minimum": 0,
            "maximum": api_body.PUBLISH_TIMEOUT_S_MAX,
            "default": api_body.PUBLISH_TIMEOUT_S,
        },
    },
}
_LEASE: Final[Schema] = {
    "type": "object",
    "required": ["holder", "ttl_s"],
    "additionalProperties": False,
    "properties": {
        "holder": {"type": "string", "pattern": f"^[ -~]{{1,{api_body.HOLDER_CHARACTERS_MAX}}}$"},
        "ttl_s": {"type": "number", "exclusiveMinimum": 0, "maximum": api_body.LEASE_TTL_S_MAX},
    },
}
_GC: Final[Schema] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"dry_run": {"type": "boolean", "default": False}},
}
_ENGINE: Final[Schema] = {
    "anyOf": [{"type": "string", "pattern": f"^{api_body.ENGINE_PATTERN}$"}, {"type": "null"}],
    "description": "The engine that is meant; without, all that follow the channel.",
}
_ACTIVATION: Final[Schema] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "engine": _ENGINE,
        "timeout_s": {
            "type": "number",
            "minimum": 0,
            "maximum": api_body.PUBLISH_TIMEOUT_S_MAX,
            "default": api_body.ACTIVATION_TIMEOUT_S,
        },
    },
}
_FOLLOW: Final[Schema] = {"type": "object", "additionalProperties": False, "properties": {"engine": _ENGINE}}
_CHANNEL: Final = "/v1/channels/{channel}"
_VERSION: Final = f"{_CHANNEL}/versions/{{selector}}"


def _json(schema: Schema) -> tuple[tuple[str, Schema], ...]:
    return ((JSON, schema),)


def _said(**members: str) -> Schema:
    return {
        "type": "object",
        "required": list(members),
        "properties": {name: {"type": kind} for name, kind in members.items()},
    }


_NODE_OPERATIONS: Final = (
    Operation(method="get", path="/livez", summary="Whether the node runs.", content=_json(_said(live="boolean"))),
    Operation(
        method="get",
        path="/readyz",
        summary="Whether the node can do its work, and why (not).",
        content=_json(_said(ready="boolean", reason="string")),
    ),
    Operation(
        method="get",
        path="/metrics",
        summary="Metrics in the text format of Prometheus.",
        content=(("text/plain", _TEXT),),
        problems=(507,),
    ),
    Operation(method="get", path="/openapi.json", summary="This description.", content=_json({"type": "object"})),
    Operation(
        method="get",
        path="/v1/status",
        summary="The node at one glance.",
        content=_json(reference(facade.StatusView)),
        problems=(507,),
    ),
    Operation(
        method="get", path="/v1/peers", summary="The neighbours.", content=_json(listed("peers", facade.PeerView))
    ),
    Operation(
        method="get",
        path="/v1/channels",
        summary="The channels that the node follows.",
        content=_json(listed("channels", facade.ChannelView)),
        problems=(507,),
    ),
    Operation(
        method="get",
        path="/v1/engines",
        summary="The engines that are kept at the newest version.",
        content=_json(reference(facade.EnginesView)),
    ),
    Operation(
        method="post",
        path="/v1/gc",
        summary="Delete now what retention gives up.",
        content=_json(reference(facade.GcView)),
        problems=(*_BODY, 409, 507),
        body=_GC,
    ),
    Operation(
        method="delete",
        path="/v1/leases/{lease}",
        summary="Give a lease back.",
        status=204,
        problems=(404,),
    ),
    Operation(
        method="delete",
        path="/v1/spools/{spool}",
        summary="Delete a lent directory with what is in it.",
        status=204,
        problems=(404, 409, 507),
    ),
)
_CHANNEL_OPERATIONS: Final = (
    Operation(
        method="get",
        path=f"{_CHANNEL}/events",
        summary="What happened to the channel's versions: a stream, or a list by long poll.",
        content=((JSON, reference(facade.EventsView)), ("text/event-stream", _TEXT)),
        problems=(404, 507),
        query={"since": {"type": "string", "pattern": "^[!-~]{1,64}$"}, "timeout": _SECONDS},
        headers={"Last-Event-ID": {"type": "string", "pattern": "^[!-~]{0,64}$"}},
    ),
    Operation(
        method="post",
        path=f"{_CHANNEL}/spool",
        summary="Lend an empty directory to a publisher of the node's own user.",
        status=201,
        content=_json(reference(facade.SpoolView)),
        problems=(*_BODY, 404, 409, 507),
        body=_NO_MEMBERS,
    ),
    Operation(
        method="post",
        path=f"{_CHANNEL}/rollback",
        summary="Have engines serve what they served before: lines of progress, the last one is the result.",
        content=((_LINES, _TEXT),),
        problems=(*_BODY, 404, 409, 507),
        body=_ACTIVATION,
    ),
    Operation(
        method="post",
        path=f"{_CHANNEL}/follow",
        summary="Have engines take up the newest version again.",
        content=_json(reference(facade.EnginesView)),
        problems=(*_BODY, 404, 507),
        body=_FOLLOW,
    ),
    Operation(
        method="get",
        path=f"{_CHANNEL}/versions",
        summary="The channel's versions, newest first.",
        content=_json(listed("versions", facade.VersionView)),
        problems=(404, 507),
    ),
    Operation(
        method="post",
        path=f"{_CHANNEL}/versions",
        summary="Publish a directory: lines of progress, the last one is the result.",
        content=((_LINES, _TEXT),),
        problems=(*_BODY, 404, 409, 507),
        body=_PUBLISH,
        needs_body=True,
    ),
)
_VERSION_OPERATIONS: Final = (
    Operation(
        method="get",
        path=_VERSION,
        summary="One version; with `wait` once it is complete, or as it is after so many seconds.",
        content=_json(reference(facade.VersionView)),
        problems=(404, 409, 507),
        query={"wait": _SECONDS},
    ),
    Operation(
        method="get",
        path=f"{_VERSION}/tree",
        summary="Who feeds whom with a version, as the node sees it.",
        content=_json(reference(facade.TreeView)),
        problems=(404, 507),
    ),
    Operation(
        method="get",
        path=f"{_VERSION}/manifest",
        summary="The encoded manifest.",
        content=(("application/octet-stream", _BYTES),),
        problems=(404, 409, 412, 416, 507),
        others=(206, 304),
    ),
    Operation(
        method="get",
        path=f"{_VERSION}/files/{{path}}",
        summary="One file; the slashes of its path may stand as they are.",
        content=(("application/octet-stream", _BYTES),),
        problems=(404, 409, 412, 416, 507),
        others=(206, 304),
    ),
    Operation(
        method="post",
        path=f"{_VERSION}/activate",
        summary="Have engines serve a complete version: lines of progress, the last one is the result.",
        content=((_LINES, _TEXT),),
        problems=(*_BODY, 404, 409, 507),
        body=_ACTIVATION,
    ),
    Operation(
        method="post",
        path=f"{_VERSION}/lease",
        summary="Keep a complete version from being deleted for a while.",
        status=201,
        content=_json(reference(facade.LeaseView)),
        problems=(*_BODY, 404, 409, 507),
        body=_LEASE,
        needs_body=True,
    ),
    *(
        Operation(
            method=method,
            path=f"{_VERSION}/pin",
            summary=summary,
            content=_json(reference(facade.VersionView)),
            problems=(*_BODY, 404, 507),
            body=_NO_MEMBERS if method == "post" else None,
        )
        for method, summary in (
            ("post", "Keep a version until it is unpinned."),
            ("delete", "Let retention decide over a version again."),
        )
    ),
    Operation(
        method="post",
        path=f"{_VERSION}/verify",
        summary="Hash a complete version again: lines of progress, the last one is the result.",
        content=((_LINES, _TEXT),),
        problems=(*_BODY, 404, 409, 502, 507),
        body=_NO_MEMBERS,
    ),
)
_HUB_MODEL: Final = "/api/models/shardcast/{channel}"
_COMMIT: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]{40}$"}
_HUB_INFO: Final[Schema] = {
    "type": "object",
    "required": ["id", "sha", "siblings"],
    "properties": {
        "id": _TEXT,
        "sha": _COMMIT,
        "siblings": {
            "type": "array",
            "items": {"type": "object", "properties": {"rfilename": _TEXT, "size": _SIZE, "blobId": _COMMIT}},
        },
    },
}
_HUB_TREE: Final[Schema] = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["type", "path", "size", "oid"],
        "properties": {"type": {"enum": ["file", "directory"]}, "path": _TEXT, "size": _SIZE, "oid": _COMMIT},
    },
}
#: In the spellings that clients have for it.
_HUB_FLAG: Final[Schema] = {"type": "string", "enum": ["true", "false", "True", "False"]}
_HUB_OPERATIONS: Final = (
    *(
        Operation(
            method="get",
            path=_HUB_MODEL + below,
            summary=f"A version as the Hugging Face Hub describes a model: {which}.",
            content=_json(_HUB_INFO),
            problems=(404, 507),
        )
        for below, which in (("", "the newest complete one"), ("/revision/{revision}", "the one at a revision"))
    ),
    *(
        Operation(
            method="get",
            path=f"{_HUB_MODEL}/tree/{{revision}}{below}",
            summary=f"The files of a version as the Hugging Face Hub lists them{where}.",
            content=_json(_HUB_TREE),
            problems=(404, 507),
            query={"recursive": _HUB_FLAG, "expand": _HUB_FLAG},
        )
        for below, where in (("", ""), ("/{path}", ": those in one directory"))
    ),
    Operation(
        method="get",
        path="/shardcast/{channel}/resolve/{revision}/{path}",
        summary="One file of a version as the Hugging Face Hub serves it; at another revision than a commit a redirect.",
        content=(("application/octet-stream", _BYTES),),
        problems=(404, 412, 416, 507),
        others=(206, 304, 307),
    ),
)
OPERATIONS: Final = (*_NODE_OPERATIONS, *_CHANNEL_OPERATIONS, *_VERSION_OPERATIONS, *_HUB_OPERATIONS)

_PATH_PARAMETERS: Final[dict[str, Schema]] = {
    "channel": {"type": "string", "minLength": 1, "description": "A name, or an id b3:HEX."},
    "selector": {"type": "string", "pattern": _SELECTOR, "description": "latest, a step, seq:N or b3:HEX."},
    "revision": {
        "type": "string",
        "minLength": 1,
        "description": "main, a step, or 40 hex digits of a manifest's digest.",
    },
    "path": {"type": "string", "minLength": 1},
    "lease": {"type": "string", "pattern": f"^{_DIGITS}$"},
    "spool": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
}
_PROBLEM: Final[Schema] = {
    "type": "object",
    "description": "RFC 9457. `type` is urn:shardcast:error:CODE, or about:blank for a refusal that is HTTP's own.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer"},
        "detail": _TEXT,
        "hint": _TEXT,
        "facts": {"type": "object"},
    },
}


@functools.cache
def openapi_bytes() -> bytes:
    """Return the document."""
    return json.dumps(openapi_document(), allow_nan=False).encode()


def openapi_document() -> Schema:
    """Build the document."""
    paths: dict[str, Schema] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "SHARDCAST node", "version": __version__},
        "security": [{}, {"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": {**view_schemas(), "Problem": _PROBLEM},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "Where the node has a --token-file."}
            },
        },
    }


def _described(operation: Operation) -> Schema:
    names = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    parameters = [
        *({"name": name, "in": "path", "required": True, "schema": _PATH_PARAMETERS[name]} for name in names),
        *({"name": name, "in": "query", "schema": schema} for name, schema in operation.query.items()),
        *({"name": name, "in": "header", "schema": schema} for name, schema in operation.headers.items()),
    ]
    described: Schema = {
        "operationId": _operation_id(operation),
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {str(status): answer for status, answer in sorted(_responses(operation).items())},
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.needs_body,
            "content": {JSON: {"schema": operation.body}},
        }
    return described


def _responses(operation: Operation) -> dict[int, Schema]:
    content = {kind: {"schema": schema} for kind, schema in operation.content}
    problem = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    responses: dict[int, Schema] = {operation.status: {"content": content} if content else {}}
    responses |= {status: {} for status in operation.others}
    responses |= {status: {"content": problem} for status in (*_ALWAYS, *operation.problems)}
    return {status: {"description": HTTPStatus(status).phrase, **answer} for status, answer in responses.items()}


def _operation_id(operation: Operation) -> str:
    words = [part.strip("{}").partition(".")[0] for part in operation.path.split("/") if part and part != "v1"]
    return "_".join([operation.method, *words])
