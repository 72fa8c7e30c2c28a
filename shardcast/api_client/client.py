"""The calls of a node's HTTP API.

Views are the plain dicts of the API: `shardcast.http.facade` says what is in them. Every call may raise `DaemonUnreachable`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from urllib.parse import quote

from shardcast_proto.errors import DaemonUnreachable, NotReady, StoreError
from shardcast_proto.limits import MANIFEST_BYTES_MAX

from .problems import error_of_problem
from .transport import API_DEFAULT, REPLY_TIMEOUT_S, Reply, Transport, View, decoded, list_of, object_of

#: The daemon repeats its last line every 5 s; before the first one it reads the headers of all files.
PUBLISH_IDLE_S: Final = 120.0
#: One long poll; the API allows 60.
POLL_S: Final = 30.0
#: A daemon that answers a long poll at once is asked no more often than this.
POLL_PAUSE_S: Final = 0.1

ProgressFn = Callable[[int, int], None]


class ApiClient:
    """One daemon, as its clients see it.

    Attributes:
        url: Where it listens.
        is_local: Whether it runs on this host, and so sees the same paths.
    """

    def __init__(self, url: str = API_DEFAULT, *, token: str | None = None) -> None:
        """Hold the address; nothing is opened yet.

        Args:
            url: `http://HOST:PORT`, or `HOST:PORT`.
            token: What a daemon that binds more than loopback asks for.

        Raises:
            ConfigError: The address is none.
        """
        self._transport = Transport(url, token)
        self.url = self._transport.url
        self.is_local = self._transport.is_local

    def status(self, *, timeout_s: float = REPLY_TIMEOUT_S) -> View:
        """Return the node at one glance."""
        return object_of(self._transport.call("GET", "/v1/status", timeout_s=timeout_s))

    def peers(self) -> list[View]:
        """Return the node's neighbours."""
        return list_of(self._transport.call("GET", "/v1/peers"), "peers")

    def channels(self) -> list[View]:
        """Return the channels that the node follows."""
        return list_of(self._transport.call("GET", "/v1/channels"), "channels")

    def versions(self, channel: str) -> list[View]:
        """Return the versions of a channel, newest first.

        Raises:
            NotFound: The node does not follow it.
        """
        return list_of(self._transport.call("GET", _versions_path(channel)), "versions")

    def version(self, channel: str, selector: str) -> View:
        """Return one version as it is now.

        Raises:
            NotFound: No such channel or version.
        """
        return object_of(self._transport.call("GET", _version_path(channel, selector)))

    def wait(
        self,
        channel: str,
        selector: str,
        *,
        timeout_s: float | None = None,
        poll_s: float = POLL_S,
        on_view: Callable[[View], None] | None = None,
    ) -> View:
        """Return a version once the node holds it complete; one that is unknown yet is waited for.

        Args:
            channel: Its name or id.
            selector: Which version.
            timeout_s: How long to wait; None for as long as it takes.
            poll_s: How often `on_view` is told, at least.
            on_view: Told how far the version is.

        Raises:
            NotFound: No such channel.
            NotReady: The version is not complete in time.
            StoreError: It failed on this node.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            asked_s = time.monotonic()
            left_s = poll_s if deadline_s is None else max(0.0, deadline_s - asked_s)
            view = self._poll(channel, selector, min(poll_s, left_s))
            if view is not None:
                if on_view is not None:
                    on_view(view)
                if view.get("state") == "complete":
                    return view
                if view.get("state") == "failed":
                    raise StoreError(f"{describe_version(view)} failed here: {view.get('error')}")
            if deadline_s is not None and time.monotonic() >= deadline_s:
                raise _too_late(channel, selector, view, timeout_s)
            time.sleep(max(0.0, asked_s + min(POLL_PAUSE_S, left_s) - time.monotonic()))

    def manifest(self, channel: str, selector: str) -> bytes:
        """Return the encoded manifest of a version.

        Raises:
            NotFound: No such channel or version.
            NotReady: The node does not have it yet.
        """
        with self._transport.request("GET", f"{_version_path(channel, selector)}/manifest") as reply:
            return reply.whole(MANIFEST_BYTES_MAX)

    @contextmanager
    def open_file(
        self, channel: str, selector: str, path: str, *, part: tuple[int, int] | None = None
    ) -> Iterator[Reply]:
        """Open one file of a complete version; `part` is the first byte wanted, with how many.

        Raises:
            NotFound: No such channel, version or file.
            NotReady: The version is not complete on the node.
        """
        headers = {} if part is None else {"Range": f"bytes={part[0]}-{part[0] + part[1] - 1}"}
        place = f"{_version_path(channel, selector)}/files/{quote(path)}"
        with self._transport.request("GET", place, headers=headers) as reply:
            yield reply

    def publish(self, channel: str, request: Mapping[str, object], on_progress: ProgressFn | None = None) -> View:
        """Publish a directory of the node's host, and return what came of it.

        Args:
            channel: Its name or id.
            request: path, step, rewind, link.
            on_progress: Told (bytes hashed, bytes in total).

        Raises:
            NotFound: No such channel or path.
            Conflict: The step exists with other content.
            ConfigError: The node is no origin of the channel, or refuses the checkpoint.
            StoreError: Its disk.
        """
        place = _versions_path(channel)
        with self._transport.request("POST", place, document=request, timeout_s=PUBLISH_IDLE_S) as reply:
            for line in reply.lines():
                event = object_of(decoded(line))
                match event.pop("event", None):
                    case "hashing" if on_progress is not None:
                        on_progress(int(event["done"]), int(event["total"]))
                    case "published":
                        return event
                    case "error":
                        raise error_of_problem(event.get("problem"))
        raise DaemonUnreachable(f"the daemon at {self.url} ended before it had published", hint="look at its log")

    def lease(self, channel: str, selector: str, *, holder: str, ttl_s: float) -> View:
        """Keep a complete version from being deleted, and return its view, with `lease` to release.

        Raises:
            NotFound: No such channel or version.
            NotReady: It is not complete on the node.
        """
        place = f"{_version_path(channel, selector)}/lease"
        return object_of(self._transport.call("POST", place, document={"holder": holder, "ttl_s": ttl_s}))

    def release_lease(self, lease: int) -> None:
        """Give a lease back.

        Raises:
            NotFound: It is none any more.
        """
        self._transport.call("DELETE", f"/v1/leases/{lease}")

    def _poll(self, channel: str, selector: str, seconds: float) -> View | None:
        place = f"{_version_path(channel, selector)}?wait={seconds:.3f}"
        try:
            return object_of(self._transport.call("GET", place, timeout_s=seconds + REPLY_TIMEOUT_S))
        except NotReady:
            return None


def describe_version(view: Mapping[str, object]) -> str:
    """Return the words for a version in a sentence."""
    return f"step {view.get('step')} of {view.get('channel')} (seq {view.get('seq')})"


def not_ready(view: Mapping[str, object], *, hint: str | None) -> NotReady:
    """Return the error for a version that is not complete."""
    have, chunks = view.get("have_chunks"), view.get("chunks")
    held = f"{have} of {chunks} chunks are here" if chunks else "its manifest is not here yet"
    names = ("channel", "seq", "step", "manifest", "state", "have_chunks", "chunks")
    return NotReady(
        f"{describe_version(view)} is not complete: {held}", hint=hint, **{name: view.get(name) for name in names}
    )


def _too_late(channel: str, selector: str, view: View | None, timeout_s: float | None) -> NotReady:
    if view is not None:
        return not_ready(view, hint=f"waited {timeout_s:g} s")
    return NotReady(
        f"no version {selector} of {channel} has appeared within {timeout_s:g} s",
        hint="see shardcast ls",
        channel=channel,
        selector=selector,
    )


def _versions_path(channel: str) -> str:
    return f"/v1/channels/{quote(channel, safe='')}/versions"


def _version_path(channel: str, selector: str) -> str:
    return f"{_versions_path(channel)}/{quote(selector, safe=':')}"
