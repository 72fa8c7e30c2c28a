"""The engine's side of a channel: `Subscriber` finds the versions that the node of this host holds.

    from shardcast import Subscriber

    subscriber = Subscriber("http://127.0.0.1:7480", "my-model")
    version = None
    while True:
        version = subscriber.wait(newer_than=version)      # the newest; those between are skipped
        with subscriber.hold(version) as path:             # not deleted meanwhile
            engine.load(path)

Synchronous, without a thread or an event loop of its own. A complete version is a directory that never changes; every byte of it was
compared with what the origin signed before the version was called complete.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from shardcast_proto.errors import ConfigError, DaemonUnreachable, NotFound, NotReady
from shardcast_proto.manifest import Manifest

from .api_client import ApiClient
from .pull import pull

#: One long poll for events.
_POLL_S: Final = 30.0
#: A node that answers a long poll at once is asked no more often than this.
_PAUSE_S: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of a channel, as the node saw it when it was asked.

    Attributes:
        channel: The channel's id, `b3:HEX`.
        step: The trainer's step.
        seq: Counts the channel's heads; a later version has a larger one, also when the step went back.
        manifest: The digest that names the content, `b3:HEX`.
        bytes: The size of all files.
        state: announced, staging, complete, failed or gone.
        explain: What it waits for, or what became of it.
        path: The local directory of a complete version, else None.
        completed_at: When it was complete here, in unix seconds by the node's clock, else None.
        node: Where the version was seen, and is asked for its manifest.
    """

    channel: str
    step: int
    seq: int
    manifest: str
    bytes: int
    state: str
    explain: str
    path: Path | None
    completed_at: float | None
    node: ApiClient | None = field(default=None, repr=False, compare=False)

    @property
    def is_complete(self) -> bool:
        """Whether every byte is here, verified."""
        return self.state == "complete"

    def read_manifest(self) -> Manifest:
        """Fetch the list of files and chunk digests from the node, and compare it with the digest that names this version.

        Raises:
            NotReady: The node does not have it yet.
            NotFound: The node does not know the version any more.
            IntegrityError: The node sent something else.
            DaemonUnreachable: No node answers.
            ConfigError: The version comes from no node.
        """
        if self.node is None:
            raise ConfigError(f"version {self.manifest} comes from no node", hint="ask a Subscriber for it")
        return self.node.manifest_of({"manifest": self.manifest, "channel_id": self.channel})


class Subscriber:
    """Follows one channel through one node."""

    def __init__(self, api: str | None, channel: str, *, token: str | None = None) -> None:
        """Hold the address; nothing is opened yet.

        Args:
            api: `http://HOST:PORT` of the node; None means `SHARDCAST_API`, else the port that a node opens by default.
            channel: Its name or id.
            token: The API's bearer token, where the node asks for one.

        Raises:
            ConfigError: The address is none.
        """
        self.channel = channel
        self._api = ApiClient(api, token=token)

    def versions(self) -> list[Version]:
        """Return the versions that the node knows, newest first, complete or not.

        Raises:
            NotFound: The node does not follow the channel.
            DaemonUnreachable: No node answers.
        """
        return [_version(view, self._api) for view in self._api.versions(self.channel)]

    def latest(self) -> Version | None:
        """Return the newest version that is complete here, None while there is none.

        Raises:
            NotFound: The node does not follow the channel.
            DaemonUnreachable: No node answers.
        """
        return next((version for version in self.versions() if version.is_complete), None)

    def wait(
        self, step: int | None = None, *, newer_than: Version | None = None, timeout_s: float | None = None
    ) -> Version:
        """Return a version once it is complete here.

        Args:
            step: Which; it may be unknown yet. By default the newest complete one.
            newer_than: Without `step`: the version must have come after this one.
            timeout_s: How long to wait; None for as long as it takes.

        Raises:
            NotReady: Not in time.
            NotFound: The node does not follow the channel; or has deleted this step, or left it for a newer one.
            StoreError: The step failed on the node.
            DaemonUnreachable: No node answers.
        """
        if step is None:
            return self._wait_newer(-1 if newer_than is None else newer_than.seq, timeout_s)
        view = self._api.wait(self.channel, str(step), timeout_s=timeout_s, on_view=_refuse_gone)
        return _version(view, self._api)

    @contextlib.contextmanager
    def hold(self, version: Version, *, ttl_s: float = 3600.0) -> Iterator[Path]:
        """Keep a complete version from being deleted for the length of a block, and give its directory.

        Args:
            version: Which.
            ttl_s: When the node lets go of it by itself, for a reader that was killed.

        Raises:
            NotReady: It is not complete here.
            NotFound: It is not held here any more.
            ConfigError: Its directory cannot be read from here.
            DaemonUnreachable: No node answers.
        """
        lease = self._api.lease(version.channel, version.manifest, holder=f"Subscriber {os.getpid()}", ttl_s=ttl_s)
        try:
            path = Path(lease["path"])
            if not (self._api.is_local and os.access(path, os.R_OK | os.X_OK)):
                raise ConfigError(f"cannot read {path}, where the node has it", hint="use pull instead", path=str(path))
            yield path
        finally:
            # it may have run out, or the node has ended: then nothing is kept for us
            with contextlib.suppress(NotFound, DaemonUnreachable):
                self._api.release_lease(int(lease["lease"]))

    def pull(self, version: Version, target: str | os.PathLike[str]) -> Path:
        """Make `target` a directory with the version's files, and return it.

        Raises:
            NotReady: The version is not complete on the node.
            Conflict: Something else is at `target`.
            IntegrityError: The bytes are not the ones that were signed.
            StoreError: The disk is full or fails.
            DaemonUnreachable: No node answers.
        """
        view = self._api.version(version.channel, version.manifest)
        return pull(self._api, view, Path(target)).directory

    def _wait_newer(self, seq: int, timeout_s: float | None) -> Version:
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        since: str | None = None
        while True:
            asked_s = time.monotonic()
            left_s = _POLL_S if deadline_s is None else max(0.0, min(_POLL_S, deadline_s - asked_s))
            # the events say when to look, a look says what there is
            news = self._api.events(self.channel, since=since, timeout_s=left_s)
            since = str(news["next"])
            if news["events"] and (latest := self.latest()) is not None and latest.seq > seq:
                return latest
            if deadline_s is not None and time.monotonic() >= deadline_s:
                raise NotReady(
                    f"no newer version of {self.channel} is complete here within {timeout_s:g} s",
                    channel=self.channel,
                    seq=seq,
                )
            time.sleep(max(0.0, asked_s + min(_PAUSE_S, left_s) - time.monotonic()))


def _refuse_gone(view: Mapping[str, Any]) -> None:
    if view.get("state") == "gone":
        raise NotFound(
            f"step {view.get('step')} is not held here any more: {view.get('explain')}",
            step=view.get("step"),
            manifest=view.get("manifest"),
        )


def _version(view: Mapping[str, Any], node: ApiClient) -> Version:
    return Version(
        channel=str(view["channel_id"]),
        step=int(view["step"]),
        seq=int(view["seq"]),
        manifest=str(view["manifest"]),
        bytes=int(view["bytes"]),
        state=str(view["state"]),
        explain=str(view["explain"]),
        path=None if view["path"] is None else Path(view["path"]),
        completed_at=view["completed_at"],
        node=node,
    )
