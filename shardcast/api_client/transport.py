"""One request to a daemon, with its reply.

No proxies, no redirects, no connection that is kept: a command makes a handful of calls to its own host. Whatever the daemon reports
is raised as the error that it was there; whatever breaks on the way is `DaemonUnreachable`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any, Final, cast
from urllib.parse import urlsplit

from shardcast_proto.errors import ConfigError, DaemonUnreachable, ShardcastError
from shardcast_proto.limits import MIB

from .problems import CONTENT_TYPE, error_of_problem

#: The API that a daemon opens when it is told nothing else.
API_DEFAULT: Final = "http://127.0.0.1:7480"
#: A daemon on the same host answers in milliseconds; a busy one on a slow disk in seconds.
REPLY_TIMEOUT_S: Final = 30.0
#: Views of a channel with tens of thousands of versions.
REPLY_BYTES_MAX: Final = 64 * MIB
_LINE_BYTES_MAX: Final = MIB

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

View = dict[str, Any]


class Reply:
    """A success whose body is still arriving.

    Attributes:
        status: 200, 201, 204; 206 for a part of a file.
        length: How many bytes arrive; -1 when only their end will tell.
        headers: As they came.
    """

    def __init__(self, response: HTTPResponse, url: str) -> None:
        self._response = response
        self._url = url
        self.status = response.status
        self.length = -1 if response.length is None else response.length
        self.headers = dict(response.headers.items())

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes; fewer only at the end of the body."""
        with _breaking_off(self._url):
            return self._response.read(size)

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of the body as they come."""
        while True:
            with _breaking_off(self._url):
                line = self._response.readline(_LINE_BYTES_MAX)
            if not line:
                return
            yield line

    def whole(self, size_max: int = REPLY_BYTES_MAX) -> bytes:
        """Return the whole body."""
        data = self.read(size_max + 1)
        if len(data) > size_max:
            raise DaemonUnreachable(f"a reply of {self._url} is longer than {size_max} bytes", api=self._url)
        if len(data) < self.length:  # a read with a limit does not complain of that
            raise DaemonUnreachable(
                f"the daemon at {self._url} stopped answering: {len(data)} of {self.length} bytes came",
                hint="look at its log",
                api=self._url,
            )
        return data


class Transport:
    """The address of one daemon, with the way to ask it.

    Attributes:
        url: Where it listens.
        is_local: Whether it runs on this host, and so sees the same paths.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self._host, self._port = _parse(url)
        self._token = token
        self.url = f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"
        self.is_local = self._host in _LOOPBACK

    def call(self, method: str, place: str, *, document: object = None, timeout_s: float = REPLY_TIMEOUT_S) -> object:
        """Make a request whose reply is one JSON value, or nothing."""
        with self.request(method, place, document=document, timeout_s=timeout_s) as reply:
            body = reply.whole()
        return decoded(body) if body else None

    @contextmanager
    def request(
        self,
        method: str,
        place: str,
        *,
        document: object = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = REPLY_TIMEOUT_S,
    ) -> Iterator[Reply]:
        """Make a request, and yield its reply when it is a success.

        Raises:
            DaemonUnreachable: Nobody answers, not in time, or not as a daemon would.
            ShardcastError: What the daemon refuses or fails to do.
        """
        sent = {"Accept": "application/json, */*", "Connection": "close", **(headers or {})}
        body = None
        if document is not None:
            body = json.dumps(document).encode()
            sent["Content-Type"] = "application/json"
        if self._token is not None:
            sent["Authorization"] = f"Bearer {self._token}"
        connection = self._connected(timeout_s)
        try:
            with _breaking_off(self.url):
                connection.request(method, place, body=body, headers=sent)
                response = connection.getresponse()
            reply = Reply(response, self.url)
            if response.status >= 300:
                raise self._failure(reply, response.headers.get_content_type())
            yield reply
        finally:
            connection.close()

    def _connected(self, timeout_s: float) -> HTTPConnection:
        connection = HTTPConnection(self._host, self._port, timeout=min(timeout_s, REPLY_TIMEOUT_S))
        try:
            connection.connect()
            connection.sock.settimeout(timeout_s)
        except OSError as error:
            connection.close()
            raise DaemonUnreachable(
                f"no shardcast-node answers at {self.url}: {_reason(error)}",
                hint="start one, or name another with --api or SHARDCAST_API",
                api=self.url,
            ) from error
        return connection

    def _failure(self, reply: Reply, content_type: str) -> ShardcastError:
        if content_type != CONTENT_TYPE:
            return DaemonUnreachable(
                f"what answers at {self.url} is no shardcast-node: HTTP status {reply.status} without a problem document",
                hint="name another with --api or SHARDCAST_API",
                api=self.url,
            )
        error = error_of_problem(decoded(reply.whole()), reply.status)
        if reply.status == 401 and error.hint is None:
            error.hint = "name the file that holds the daemon's token with --token-file"
        return error


def decoded(data: bytes) -> object:
    """Return the value of a JSON text that a daemon has sent."""
    try:
        return cast(object, json.loads(data))
    except ValueError as error:
        raise _nonsense("not JSON") from error


def object_of(value: object) -> View:
    """Return `value`, which must be a JSON object."""
    if not isinstance(value, dict):
        raise _nonsense("no JSON object")
    return value


def list_of(value: object, member: str) -> list[View]:
    """Return a member of `value`, which must be a list of JSON objects."""
    items = object_of(value).get(member)
    if not isinstance(items, list):
        raise _nonsense(f"without a list of {member}")
    return [object_of(item) for item in items]


@contextmanager
def _breaking_off(url: str) -> Iterator[None]:
    try:
        yield
    except (OSError, HTTPException) as error:
        raise DaemonUnreachable(
            f"the daemon at {url} stopped answering: {_reason(error)}", hint="look at its log", api=url
        ) from error


def _nonsense(what: str) -> DaemonUnreachable:
    return DaemonUnreachable(f"a reply is {what}", hint="is that the API of a shardcast-node?")


def _parse(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _bad_address(url) from error
    if parts.scheme != "http" or not host or not port or parts.path.strip("/") or parts.query or parts.username:
        raise _bad_address(url)
    return host, port


def _bad_address(url: str) -> ConfigError:
    return ConfigError(f"{url!r} is not the address of an API", hint=f"one looks like {API_DEFAULT}", api=url)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
