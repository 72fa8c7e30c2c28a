"""The views of a node's channels and versions, as its API shows them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Final, Literal

from shardcast.http.facade import ChannelStatus, ChannelView, Freshness, VersionState, VersionView
from shardcast.shell.channels import FollowedChannel
from shardcast.shell.shell import Shell
from shardcast.shell.versions import LocalVersion
from shardcast.store import HeadRow, Store, VersionRow
from shardcast_proto.chunking import default_chunk_size
from shardcast_proto.errors import ConfigError, NotFound
from shardcast_proto.ids import DIGEST_PREFIX, Digest, PeerId, format_digest, parse_digest

#: Versions in one list: each costs a look-up, and a run of months has tens of thousands.
VERSIONS_SHOWN_MAX: Final = 100

#: The largest step or seq that a head can name.
NUMBER_MAX: Final = 2**63 - 1
_NUMBER: Final = re.compile(r"(seq:)?([0-9]{1,19})")
_SHA: Final = re.compile(DIGEST_PREFIX + r"([0-9a-f]{40})")


class Catalog:
    """Looks up channels and versions and describes them.

    Args:
        roles_of: Returns the roles that a peer claims.
        clock: Unix seconds.
    """

    def __init__(
        self,
        shell: Shell,
        store: Store,
        *,
        roles_of: Callable[[PeerId], tuple[str, ...]],
        clock: Callable[[], float],
    ) -> None:
        self._shell = shell
        self._store = store
        self._roles_of = roles_of
        self._clock = clock
        #: Returns the engines that serve a version, by the texts of its channel's id and its digest; the node knows.
        self.active_in: Callable[[str, str], list[str]] = lambda channel, manifest: []

    def channel(self, name: str) -> FollowedChannel:
        """Return a channel by its name or id.

        Raises:
            NotFound: It is not followed here.
        """
        for channel in self._shell.channels.values():
            if name in (channel.name, format_digest(channel.id)):
                return channel
        known = ", ".join(channel.name for channel in self._shell.channels.values())
        raise NotFound(f"channel {name[:80]!r} is not followed here", hint=f"this node follows {known}")

    def head(self, channel: FollowedChannel, selector: str) -> HeadRow:
        """Return the accepted head that a selector picks.

        Raises:
            ConfigError: The selector is none.
            NotFound: No such version.
        """
        key = selector_key(selector)
        rows = self._store.heads(channel.id, limit=1) if key is None else [self._store.newest_head(channel.id, *key)]
        if rows and rows[0] is not None:
            return rows[0]
        raise NotFound(
            f"channel {channel.name} has no version {selector}",
            hint=f"shardcast ls {channel.name} lists them",
            channel=channel.name,
        )

    def versions(self, channel: FollowedChannel) -> list[VersionView]:
        """Return the versions of a channel, newest first."""
        pinned = self._store.pinned()
        return [self.view(channel, row, pinned) for row in self._store.heads(channel.id, limit=VERSIONS_SHOWN_MAX)]

    def view(self, channel: FollowedChannel, row: HeadRow, pinned: Collection[Digest] | None = None) -> VersionView:
        """Describe one version; `pinned` are the pinned ones, when the caller has them."""
        local = self._shell.versions.get(row.manifest)
        held = self._store.version(row.manifest)
        state = self.state(channel, row, held)
        manifest = local.manifest if local else None
        error = (local.error if local else None) or (held.error if held else None)
        error = error or self._shell.opener.revival_error(row.manifest)
        sources = self._bytes_by_source(local)
        view: VersionView = {
            "channel": channel.name,
            "channel_id": format_digest(channel.id),
            "seq": row.seq,
            "step": row.step,
            "epoch": row.epoch,
            "manifest": format_digest(row.manifest),
            "bytes": row.total_bytes,
            "chunks": manifest.blob.chunk_count if manifest else 0,
            "have_chunks": _have(local),
            "chunk_size": manifest.blob.chunk_size if manifest else default_chunk_size(row.total_bytes),
            "files": len(manifest.files) if manifest else 0,
            "state": state,
            "received_at": row.received_at_s,
            "completed_at": held.completed_at_s if held is not None and state == "complete" else None,
            "signed_at": row.received_at_s if row.origin else None,
            "explain": self._explain(local, error, state),
            "error": error,
            "bytes_from_origin": sources["origin"],
            "bytes_from_peers": sources["peers"],
            "chunks_verified": local.chunks_verified if local else 0,
            "duplicate_chunks": local.duplicate_chunks if local else 0,
            "first_chunk_at": local.first_chunk_at_s if local else None,
            "pinned": row.manifest in (self._store.pinned() if pinned is None else pinned),
            "active_in": self.active_in(format_digest(channel.id), format_digest(row.manifest)),
            "path": str(held.path) if held is not None and state == "complete" else None,
        }
        return view

    def state(self, channel: FollowedChannel, row: HeadRow, held: VersionRow | None) -> VersionState:
        """Return the state of a version of which the store holds `held`."""
        current = channel.shown.current
        is_newest = current is None or (row.epoch, row.seq) >= current.head.position
        if held is not None and held.state == "failed" and self._shell.opener.is_reviving(row.manifest):
            return "staging"  # it is begun anew by itself
        return _state(self._shell.versions.get(row.manifest), held, is_newest=is_newest)

    def channel_view(self, channel: FollowedChannel) -> ChannelView:
        """Describe one channel."""
        return {
            "name": channel.name,
            "channel": format_digest(channel.id),
            "epoch": channel.shown.root.epoch,
            "freshness": self._freshness(channel),
            "is_origin": channel.is_origin,
            "versions": self._store.head_count(channel.id),
        }

    def channel_status(self, channel: FollowedChannel) -> ChannelStatus:
        """Describe one channel with its newest version and what is being fetched."""
        views = self.versions(channel)
        return {
            "name": channel.name,
            "channel": format_digest(channel.id),
            "epoch": channel.shown.root.epoch,
            "freshness": self._freshness(channel),
            "is_origin": channel.is_origin,
            "head": views[0] if views else None,
            "fetching": [view for view in views if view["state"] in ("announced", "staging")],
        }

    def _freshness(self, channel: FollowedChannel) -> Freshness:
        return channel.freshness(self._clock()).value

    def _explain(self, local: LocalVersion | None, error: str | None, state: VersionState) -> str:
        if local is None:
            if error:
                return error
            if state == "gone":
                return "superseded or deleted"
            if not self._shell.machine.membership.active:
                return "its manifest is missing, no neighbour"
            return "its manifest is on its way"
        if local.error:
            return local.error
        refusal = self._shell.versions.store_error
        if refusal is not None and state == "staging":
            return f"our disk refused: {refusal}"
        return self._shell.machine.explain(local.manifest.blob.id)

    def _bytes_by_source(self, local: LocalVersion | None) -> dict[Literal["origin", "peers"], int]:
        counts: dict[Literal["origin", "peers"], int] = {"origin": 0, "peers": 0}
        for peer, size in (local.bytes_by_peer if local else {}).items():
            counts["origin" if "origin" in self._roles_of(peer) else "peers"] += size
        return counts


def selector_key(selector: str) -> tuple[Literal["step", "seq", "manifest"], int | bytes] | None:
    """Return what a selector says of the head that it picks; None for the newest whatever it says.

    Raises:
        ConfigError: The selector is none.
    """
    if selector == "latest":
        return None
    if sha := _SHA.fullmatch(selector):
        return "manifest", bytes.fromhex(sha[1])
    if selector.startswith(DIGEST_PREFIX):
        return "manifest", parse_digest(selector)
    match = _NUMBER.fullmatch(selector)
    if match is None or int(match[2]) > NUMBER_MAX:
        raise ConfigError(f"{selector[:80]!r} names no version", hint="use latest, a step, seq:N or b3:HEX")
    return "seq" if match[1] else "step", int(match[2])


def _state(local: LocalVersion | None, held: VersionRow | None, *, is_newest: bool) -> VersionState:
    if held is not None and held.state != "staging":
        return held.state
    if local is not None or held is not None:
        return "staging"
    return "announced" if is_newest else "gone"


def _have(local: LocalVersion | None) -> int:
    if local is None:
        return 0
    return local.manifest.blob.chunk_count if local.staging is None else local.staging.have_count
