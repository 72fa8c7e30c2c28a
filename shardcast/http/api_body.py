"""The body of an API request: a small JSON object, bounded before it is decoded, checked before it is believed.

A body must say `application/json`, which a form in a browser cannot. Members that the API does not know are refused, as
are members given twice: whoever wrote them meant something.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final, NamedTuple, NoReturn

from aiohttp import web

from shardcast.http.facade import PublishRequest
from shardcast_proto.errors import ConfigError
from shardcast_relay import RelayConfig

#: A path is at most 4 KiB on Linux; the rest of a request is a few numbers.
BODY_BYTES_MAX: Final = 64 * 1024
#: How a checkpoint's files may come into the store.
LINKS: Final = ("auto", "reflink", "hardlink", "copy")
HOLDER_CHARACTERS_MAX: Final = 128
#: The value of `wait` that waits for nobody.
ANNOUNCED: Final = "announced"
#: A node never has more.
NEIGHBOURS_MAX: Final = RelayConfig().active_view_max
#: How long a marker or neighbours are waited for, if the request does not say; and at most.
PUBLISH_TIMEOUT_S: Final = 600.0
PUBLISH_TIMEOUT_S_MAX: Final = 86_400.0
#: A reader that needs a version for longer than a day asks again.
LEASE_TTL_S_MAX: Final = 86_400.0
#: How long an activation is waited for, if the request does not say; it takes a large model over an hour.
ACTIVATION_TIMEOUT_S: Final = 3600.0
#: The name of an engine.
ENGINE_PATTERN: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
#: Signed objects carry integers below this.
_INTEGER_LIMIT: Final = 2**63
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class BodyRefused(ConfigError):
    """A body that HTTP itself has a status for: too large, of another type, too slow."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class LeaseRequest(NamedTuple):
    """Who wants a version kept, for how long."""

    holder: str
    ttl_s: float


class ActivationRequest(NamedTuple):
    """Which engine is meant (None: all of the channel), and how long it is waited for."""

    engine: str | None
    timeout_s: float


async def read_object(request: web.BaseRequest, *, timeout_s: float, is_optional: bool = False) -> dict[str, object]:
    """Return the JSON object that a request carries; an empty one when it carries nothing and that is allowed.

    Raises:
        BodyRefused: The body is too large, of another type, or does not arrive in time.
        ConfigError: It is not a JSON object.
    """
    if is_optional and not request.body_exists:
        return {}
    if request.content_type != "application/json":
        raise BodyRefused(f"a body of type {request.content_type[:80]!r} is not application/json", status=415)
    if (request.content_length or 0) > BODY_BYTES_MAX:
        raise _too_large()
    await _answer_expectation(request)
    try:
        async with asyncio.timeout(timeout_s):
            data = await _read(request)
    except TimeoutError as error:
        raise BodyRefused(f"the body did not arrive within {timeout_s:g} s", status=408) from error
    return parse_object(data)


def parse_object(data: bytes) -> dict[str, object]:
    """Decode a JSON object.

    Raises:
        ConfigError: The bytes are none, or name a member twice.
    """
    try:
        value = json.loads(data.decode(), object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ConfigError("the body is not JSON that this API understands: it is nested too deeply") from error
    except ValueError as error:
        raise ConfigError(f"the body is not JSON: {error}"[:300]) from error
    if not isinstance(value, dict):
        raise ConfigError("the body is not a JSON object")
    return value


def publish_request(channel: str, body: Mapping[str, object]) -> PublishRequest:
    """Read {"path", "step", "rewind", "link", "wait", "wait_marker", "timeout_s"}; all but the first two may be left out.

    `wait` is "announced" (the default), or a number of neighbours.

    Raises:
        ConfigError: A member is missing, unknown or not what it must be.
    """
    _check_names(body, needed=("path", "step"), optional=("rewind", "link", "wait", "wait_marker", "timeout_s"))
    path, step = body["path"], _whole(body["step"])
    rewind, link = body.get("rewind", False), body.get("link", "auto")
    if not isinstance(path, str) or not _is_absolute_path(path):
        raise ConfigError("path must be an absolute path on the node's host")
    if step is None or not 0 <= step < _INTEGER_LIMIT:
        raise ConfigError("step must be an integer from 0 to 2**63 - 1")
    if not isinstance(rewind, bool):
        raise ConfigError("rewind must be true or false")
    if not isinstance(link, str) or link not in LINKS:
        raise ConfigError(f"link must be one of {', '.join(LINKS)}")
    marker = body.get("wait_marker")
    if marker is not None and not isinstance(marker, str):
        raise ConfigError("wait_marker must be the name of a file, or null")
    return PublishRequest(
        path=path,
        channel=channel,
        step=step,
        rewind=rewind,
        link=link,
        wait_neighbours=_neighbours(body.get("wait", ANNOUNCED)),
        wait_marker=marker,
        timeout_s=_timeout(body.get("timeout_s", PUBLISH_TIMEOUT_S)),
    )


def gc_request(body: Mapping[str, object]) -> bool:
    """Read {"dry_run"}, which may be left out; return it.

    Raises:
        ConfigError: A member is unknown or not what it must be.
    """
    _check_names(body, needed=(), optional=("dry_run",))
    dry_run = body.get("dry_run", False)
    if not isinstance(dry_run, bool):
        raise ConfigError("dry_run must be true or false")
    return dry_run


def activation_request(body: Mapping[str, object]) -> ActivationRequest:
    """Read {"engine", "timeout_s"}, which may be left out.

    Raises:
        ConfigError: A member is unknown or not what it must be.
    """
    _check_names(body, needed=(), optional=("engine", "timeout_s"))
    return ActivationRequest(_engine(body), _timeout(body.get("timeout_s", ACTIVATION_TIMEOUT_S)))


def follow_request(body: Mapping[str, object]) -> str | None:
    """Read {"engine"}, which may be left out; return it.

    Raises:
        ConfigError: A member is unknown or not what it must be.
    """
    _check_names(body, needed=(), optional=("engine",))
    return _engine(body)


def no_request(body: Mapping[str, object]) -> None:
    """Refuse members where there are none.

    Raises:
        ConfigError: There is one.
    """
    _check_names(body, needed=())


def lease_request(body: Mapping[str, object]) -> LeaseRequest:
    """Read {"holder", "ttl_s"}.

    Raises:
        ConfigError: A member is missing, unknown or not what it must be.
    """
    _check_names(body, needed=("holder", "ttl_s"))
    holder, ttl_s = body["holder"], body["ttl_s"]
    if not isinstance(holder, str) or not 0 < len(holder) <= HOLDER_CHARACTERS_MAX or not holder.isprintable():
        raise ConfigError(f"holder must be a text of 1 to {HOLDER_CHARACTERS_MAX} printable characters")
    if not isinstance(ttl_s, int | float) or isinstance(ttl_s, bool) or not 0 < ttl_s <= LEASE_TTL_S_MAX:
        raise ConfigError(f"ttl_s must be a number of seconds above 0, at most {LEASE_TTL_S_MAX:g}")
    return LeaseRequest(holder, float(ttl_s))


def _whole(value: object) -> int | None:
    """Return a whole number, which JSON may write as 1.0 too; None when it is none."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _neighbours(wait: object) -> int:
    if wait == ANNOUNCED:
        return 0
    count = _whole(wait)
    if count is None or not 1 <= count <= NEIGHBOURS_MAX:
        raise ConfigError(f'wait must be "{ANNOUNCED}" or a number of neighbours from 1 to {NEIGHBOURS_MAX}')
    return count


def _engine(body: Mapping[str, object]) -> str | None:
    engine = body.get("engine")
    if engine is not None and not (isinstance(engine, str) and re.fullmatch(ENGINE_PATTERN, engine)):
        raise ConfigError("engine must be the name of an engine, or null")
    return engine


def _timeout(seconds: object) -> float:
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds <= PUBLISH_TIMEOUT_S_MAX:
        raise ConfigError(f"timeout_s must be a number of seconds from 0 to {PUBLISH_TIMEOUT_S_MAX:g}")
    return float(seconds)


async def _read(request: web.BaseRequest) -> bytes:
    received = bytearray()
    async for part in request.content.iter_any():
        received += part
        if len(received) > BODY_BYTES_MAX:
            raise _too_large()
    return bytes(received)


async def _answer_expectation(request: web.BaseRequest) -> None:
    expectation = request.headers.get("Expect")
    if expectation is None:
        return
    if expectation.lower() != "100-continue":
        raise BodyRefused(f"expectation {expectation[:80]!r} cannot be met", status=417)
    if request.transport is not None and request.version >= (1, 1):
        request.transport.write(_CONTINUE)


def _too_large() -> BodyRefused:
    return BodyRefused(f"the body is larger than {BODY_BYTES_MAX} bytes", status=413)


def _check_names(body: Mapping[str, object], *, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    missing = [name for name in needed if name not in body]
    unknown = sorted(set(body) - set(needed) - set(optional))
    if missing:
        raise ConfigError(f"the body lacks {', '.join(missing)}", missing=missing)
    if unknown:
        raise ConfigError(f"the body names {unknown[0][:80]!a}, which is not known here", unknown=unknown)


def _is_absolute_path(path: str) -> bool:
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return b"\0" not in encoded and PurePath(path).is_absolute()


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is named twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
