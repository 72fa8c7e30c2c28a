"""The calls of a node's HTTP API.

Views are the plain dicts of the API: `shardcast.http.facade` says what is in them. Every call may raise `DaemonUnreachable`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from urllib.parse import quote

from shardcast_proto.errors import DaemonUnreachable, IntegrityError, NotFound, NotReady, StoreError
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import format_digest, parse_digest
from shardcast_proto.limits import MANIFEST_BYTES_MAX
from shardcast_proto.manifest import Manifest

from .problems import error_of_problem
from .transport import API_DEFAULT, REPLY_TIMEOUT_S, Reply, Transport, View, decoded, list_of, object_of

#: The daemon repeats its last line every 5 s; before the first one it reads the headers of all files.
STREAM_IDLE_S: Final = 120.0
#: Deleting terabytes takes a file system its time.
COLLECT_TIMEOUT_S: Final = 600.0
#: One long poll; the API allows 60.
POLL_S: Final = 30.0
#: A daemon that answers a long poll at once is asked no more often than this.
POLL_PAUSE_S: Final = 0.1

ProgressFn = Callable[[int, int], None]
#: Told a line of a publication: `shardcast.http.facade.PublishNews`.
NewsFn = Callable[[View], None]


class ApiClient:
    """One daemon, as its clients see it.

    Attributes:
        url: Where it listens.
        is_local: Whether it runs on this host, and so sees the same paths.
    """

    def __init__(self, url: str | None = None, *, token: str | None = None) -> None:
        """Hold the address; nothing is opened yet.

        Args:
            url: `http://HOST:PORT`, or `HOST:PORT`; None means `SHARDCAST_API`, else the port that a node opens by default.
            token: What a daemon that binds more than loopback asks for.

        Raises:
            ConfigError: The address is none.
        """
        if url is None:
            url = os.environ.get("SHARDCAST_API") or API_DEFAULT
        self._transport = Transport(url, token)
        self.url = self._transport.url
        self.is_local = self._transport.is_local

    def status(self, *, timeout_s: float = REPLY_TIMEOUT_S) -> View:
        """Return the node at one glance."""
        return object_of(self._transport.call("GET", "/v1/status", timeout_s=timeout_s))

    def peers(self) -> list[View]:
        """Return the node's neighbours."""
        return list_of(self._transport.call("GET", "/v1/peers"), "peers")

    def channels(self, *, timeout_s: float = REPLY_TIMEOUT_S) -> list[View]:
        """Return the channels that the node follows."""
        return list_of(self._transport.call("GET", "/v1/channels", timeout_s=timeout_s), "channels")

    def versions(self, channel: str, *, timeout_s: float = REPLY_TIMEOUT_S) -> list[View]:
        """Return the versions of a channel, newest first.

        Raises:
            NotFound: The node does not follow it.
        """
        return list_of(self._transport.call("GET", _versions_path(channel), timeout_s=timeout_s), "versions")

    def version(self, channel: str, selector: str) -> View:
        """Return one version as it is now.

        Raises:
            NotFound: No such channel or version.
        """
        return object_of(self._transport.call("GET", _version_path(channel, selector)))

    def tree(self, channel: str, selector: str) -> View:
        """Return who feeds whom with a version, as the node sees it.

        Raises:
            NotFound: No such channel or version.
        """
        return object_of(self._transport.call("GET", f"{_version_path(channel, selector)}/tree"))

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

    def manifest_of(self, view: Mapping[str, object]) -> Manifest:
        """Return the manifest of a version, compared with the digest in the version's view.

        Raises:
            NotReady: The node does not have it yet.
            IntegrityError: The node sent something else.
        """
        name = str(view["manifest"])
        data = self.manifest(str(view["channel_id"]), name)
        digest = digest_of(data)
        if digest != parse_digest(name):
            raise IntegrityError(
                f"the node sent another manifest than {name}", expected=name, actual=format_digest(digest)
            )
        return Manifest.decode(data)

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

    def publish(self, channel: str, request: Mapping[str, object], on_news: NewsFn | None = None) -> View:
        """Publish a directory of the node's host, and return what came of it.

        Args:
            channel: Its name or id.
            request: path, step, rewind, link; wait, wait_marker, timeout_s.
            on_news: Told how far it is.

        Raises:
            NotFound: No such channel or path.
            Conflict: The step exists with other content.
            ConfigError: The node refuses the checkpoint.
            TrustError: The node is no origin of the channel, or may not read the path.
            TransferError: What was waited for did not happen in time.
            StoreError: Its disk.
        """
        return self._follow(_versions_path(channel), "published", document=request, on_news=on_news)

    def verify(self, channel: str, selector: str, on_progress: ProgressFn | None = None) -> View:
        """Have the node hash a complete version again, and return how much was found right.

        Args:
            channel: Its name or id.
            selector: Which version.
            on_progress: Told (bytes done, bytes in total).

        Raises:
            NotFound: No such channel or version.
            NotReady: It is not complete on the node.
            IntegrityError: Chunks are not what the manifest names.
            StoreError: The node's disk.
        """

        def tell(event: View) -> None:
            if on_progress is not None and "total" in event:
                on_progress(int(event["done"]), int(event["total"]))

        return self._follow(f"{_version_path(channel, selector)}/verify", "verified", on_news=tell)

    def engines(self) -> list[View]:
        """Return the engines that the node keeps at the newest version."""
        return list_of(self._transport.call("GET", "/v1/engines"), "engines")

    def activate(self, channel: str, selector: str, *, engine: str | None, timeout_s: float) -> View:
        """Have engines serve a complete version; return `engines`.

        Args:
            channel: Its name or id.
            selector: Which version.
            engine: Which engine; None for all of the channel.
            timeout_s: How long to wait for them.

        Raises:
            NotFound: No such channel, version or engine.
            NotReady: The version is not complete on the node.
            HotLoadError: An engine did not take it.
            TransferError: Not in time; it goes on.
        """
        document = {"engine": engine, "timeout_s": timeout_s}
        return self._follow(f"{_version_path(channel, selector)}/activate", "activated", document=document)

    def roll_back(self, channel: str, *, engine: str | None, timeout_s: float) -> View:
        """Have engines serve what they served before; return `engines`.

        Raises:
            NotFound: No such channel or engine, or there is nothing to go back to.
            HotLoadError: An engine did not take it.
            Conflict: An activation is under way.
            TransferError: Not in time; it goes on.
        """
        document = {"engine": engine, "timeout_s": timeout_s}
        return self._follow(f"{_channel_path(channel)}/rollback", "rolled_back", document=document)

    def follow(self, channel: str, *, engine: str | None) -> View:
        """Have engines take up the newest version again; return `engines`.

        Raises:
            NotFound: No such channel or engine.
        """
        return object_of(self._transport.call("POST", f"{_channel_path(channel)}/follow", document={"engine": engine}))

    def wait_activated(
        self, channel: str, selector: str, *, engine: str | None = None, timeout_s: float | None = None
    ) -> View:
        """Return a version, with `engines`, once all engines of its channel serve it, or a newer one.

        Args:
            channel: Its name or id.
            selector: Which version; `latest` means the newest at the moment of return.
            engine: Wait for this one only.
            timeout_s: How long to wait; None for as long as it takes.

        Raises:
            NotFound: No such channel, or no such engine.
            NotReady: They do not serve it in time.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            view = self._poll(channel, selector, 0.0)
            name = channel if view is None else str(view["channel_id"])
            engines = [
                one
                for one in self.engines()
                if name in (one["channel"], one["channel_id"]) and engine in (None, one["name"])
            ]
            if not engines:
                self.versions(channel)
                which = "no engine" if engine is None else f"no engine {engine}"
                raise NotFound(f"{which} follows {channel} on this node", hint="see shardcast status")
            late = [one for one in engines if view is None or not _serves(one, view)]
            if view is not None and not late:
                return {**view, "engines": engines}
            if deadline_s is not None and time.monotonic() >= deadline_s:
                raise _not_activated(channel, selector, view, late)
            time.sleep(POLL_PAUSE_S)

    def pin(self, channel: str, selector: str) -> View:
        """Keep a version from retention, and return it.

        Raises:
            NotFound: No such channel or version, or it is not held any more.
        """
        return object_of(self._transport.call("POST", f"{_version_path(channel, selector)}/pin"))

    def unpin(self, channel: str, selector: str) -> View:
        """Let retention decide over a version again, and return it.

        Raises:
            NotFound: No such channel or version.
        """
        return object_of(self._transport.call("DELETE", f"{_version_path(channel, selector)}/pin"))

    def collect(self, *, dry_run: bool = False) -> View:
        """Have the node delete what retention gives up, and return what that was, or would be.

        Raises:
            StoreError: Its disk.
        """
        reply = self._transport.call("POST", "/v1/gc", document={"dry_run": dry_run}, timeout_s=COLLECT_TIMEOUT_S)
        return object_of(reply)

    def ready(self, *, timeout_s: float = REPLY_TIMEOUT_S) -> View:
        """Return why the node can do its work.

        Raises:
            TransferError: It cannot.
        """
        return object_of(self._transport.call("GET", "/readyz", timeout_s=timeout_s))

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

    def events(self, channel: str, *, since: str | None = None, timeout_s: float = POLL_S) -> View:
        """Return what happened to a channel's versions after the event `since`, or nothing after `timeout_s` without news.

        Raises:
            NotFound: The node does not follow it.
        """
        place = f"/v1/channels/{quote(channel, safe='')}/events?timeout={timeout_s:.3f}"
        place += "" if since is None else f"&since={quote(since, safe='')}"
        return object_of(self._transport.call("GET", place, timeout_s=timeout_s + REPLY_TIMEOUT_S))

    def spool(self, channel: str) -> View:
        """Borrow an empty directory of the node's host, to write a checkpoint into that will be published.

        Raises:
            NotFound: The node does not follow the channel.
            TrustError: It is no origin of the channel.
            Conflict: It has lent too many.
            StoreError: Its disk.
        """
        return object_of(self._transport.call("POST", f"/v1/channels/{quote(channel, safe='')}/spool"))

    def drop_spool(self, spool: str) -> None:
        """Have a borrowed directory deleted.

        Raises:
            NotFound: It is none any more.
        """
        self._transport.call("DELETE", f"/v1/spools/{quote(spool, safe='')}")

    def _follow(self, place: str, last: str, *, document: object = None, on_news: NewsFn | None = None) -> View:
        """Make a request that is answered by a stream of lines, and return the one that is called `last`."""
        with self._transport.request("POST", place, document=document, timeout_s=STREAM_IDLE_S) as reply:
            for line in reply.lines():
                event = object_of(decoded(line))
                match event.get("event"):
                    case name if name == last:
                        del event["event"]
                        return event
                    case "error":
                        raise error_of_problem(event.get("problem"))
                    case _ if on_news is not None:
                        on_news(event)
        raise DaemonUnreachable(f"the daemon at {self.url} ended before it was done", hint="look at its log")

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
    if view.get("error"):
        held = f"{held}; {view['error']}" if chunks else str(view["error"])
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


def _serves(engine: View, view: View) -> bool:
    active = engine["active"]
    is_known = engine["knowledge"] in ("confirmed", "assumed") and active is not None
    return is_known and (active["epoch"], active["seq"]) >= (view["epoch"], view["seq"])


def _not_activated(channel: str, selector: str, view: View | None, late: list[View]) -> NotReady:
    version = f"version {selector} of {channel}" if view is None else describe_version(view)
    why = "; ".join(f"engine {one['name']}: {one['explain']}" for one in late)
    return NotReady(
        f"{version} is not active in time: {why}",
        hint="see shardcast status",
        channel=channel,
        engines=[str(one["name"]) for one in late],
    )


def _channel_path(channel: str) -> str:
    return f"/v1/channels/{quote(channel, safe='')}"


def _versions_path(channel: str) -> str:
    return f"/v1/channels/{quote(channel, safe='')}/versions"


def _version_path(channel: str, selector: str) -> str:
    return f"{_versions_path(channel)}/{quote(selector, safe=':')}"
