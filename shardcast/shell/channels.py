"""One followed channel: its trust state in memory and on disk, always in that order of safety.

What is accepted is durable before anybody hears of it. The methods that write (`take_…`, `publish`, `renew_beacon`) are synchronous and
belong on worker threads; one runs at a time. Everything else may be called from any thread: it reads `Shown`, which is replaced as a
whole, and only after a write is on disk.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from shardcast.store import EquivocationRow, HeadRow, Store
from shardcast_proto.errors import RemoteProtocolError, ShardcastError, StoreError, TrustError
from shardcast_proto.ids import Digest, PeerId, format_digest
from shardcast_proto.limits import BEACON_TTL_S
from shardcast_proto.manifest import Manifest
from shardcast_proto.trust import (
    FLAG_REWIND,
    Accepted,
    Announce,
    Beacon,
    Binding,
    Equivocation,
    Freshness,
    Head,
    Root,
    SignedHead,
    SigningKey,
    TrustedChannel,
    gossip_topic,
    open_root,
    sign_beacon,
    sign_binding,
    sign_head,
)

#: Heads that are taken back at a start: as many as the trust state holds.
_HEADS_RESTORED: Final = 64

_log = structlog.get_logger("shardcast.channels")


@dataclass(frozen=True)
class Shown:
    """What anybody may see of a channel; all of it is durable."""

    root: Root
    #: Envelopes of the roots that can be passed on, by version.
    roots: dict[int, bytes]
    current: SignedHead | None
    #: The encoded announcement of the newest head; None before the first.
    announce: bytes | None
    #: What to tell a peer that asks for the head: the newest one, behind the proofs that stand above it.
    answer: tuple[bytes, ...]

    @classmethod
    def of(cls, trusted: TrustedChannel) -> Shown:
        """Take a picture of a trust state."""
        current, announce = trusted.current, trusted.announce()
        above = [proof for proof in trusted.equivocations if current is None or proof.position > current.head.position]
        answer = [Announce(envelope).encoded for proof in above for envelope in (proof.first, proof.second)]
        encoded = announce.encoded if announce is not None else None
        newest = trusted.root.version
        roots = dict(enumerate(trusted.roots, newest + 1 - len(trusted.roots)))
        return cls(trusted.root, roots, current, encoded, tuple(answer if encoded is None else [*answer, encoded]))


class FollowedChannel:
    """A channel that this node follows, and may publish to when it holds keys for it.

    Invariant: `shown` is what the disk knows; `_trusted` is too, or `_is_ahead` says that it is not.
    """

    def __init__(self, trusted: TrustedChannel, store: Store, keys: Sequence[SigningKey]) -> None:
        self._trusted = trusted
        self._store = store
        self._lock = threading.Lock()
        #: Whether the disk has refused something that `_trusted` holds; then that is read again before it is used.
        self._is_ahead = False
        self.id: Final[Digest] = trusted.channel
        self.name: Final[str] = trusted.root.name
        #: Keys of this node that the root lists for the origin role.
        self.keys: tuple[SigningKey, ...] = tuple({key.key_id: key for key in keys}.values())
        self.shown = Shown.of(trusted)
        self._show()

    @classmethod
    def open(cls, root_file: bytes, store: Store, keys: Sequence[SigningKey], *, now_s: float) -> FollowedChannel:
        """Take up a channel from its root file and what the store remembers of it.

        Raises:
            TrustError: The file is no root, or contradicts the one that is remembered.
            StoreError: The disk fails.
        """
        try:
            pinned = open_root(root_file)
        except RemoteProtocolError as error:
            raise TrustError(f"this is no root file: {error.message}", hint="give --channel a NAME.root") from error
        newest = root_file
        row = next((row for row in store.channels() if row.channel == pinned.channel), None)
        if row is not None:
            remembered = open_root(row.root_envelope)
            if remembered.root.version == pinned.root.version and remembered.payload != pinned.payload:
                raise TrustError(
                    f"the root file of channel {pinned.root.name} is another version {pinned.root.version} than the one "
                    "that this node has accepted",
                    hint="ask the channel's owner which of the two is right",
                    channel=pinned.root.name,
                )
            if remembered.root.version >= pinned.root.version:
                newest = row.root_envelope
        trusted = _restore(store, pinned.channel, newest, now_s=now_s)
        store.save_channel(trusted.channel, trusted.root.name, newest)
        return cls(trusted, store, keys)

    @property
    def topic(self) -> str:
        """The gossip topic."""
        return gossip_topic(self.id)

    @property
    def is_origin(self) -> bool:
        """Whether this node holds enough keys to sign heads."""
        return bool(self.keys) and len(self.keys) >= self.shown.root.origin_role.threshold

    def freshness(self, now_s: float) -> Freshness:
        """Return whether somebody with an origin key has lately vouched for the newest head."""
        return self._trusted.freshness(now_s)

    def validate(self, data: bytes) -> None:
        """Check the signatures of an announcement, nothing else; pure, from any thread.

        Raises:
            TrustError: They are not good.
            RemoteProtocolError: The bytes are no announcement.
        """
        current = self.shown.current
        announce = Announce.decode(data)
        if current is None or announce.head != current.envelope:
            self._trusted.read_head(announce.head)

    def check_manifest(self, head: Head, data: bytes) -> Manifest:
        """Return the manifest that `head` names, if `data` is it; pure, from any thread.

        Raises:
            IntegrityError: The bytes are others than the head names.
            TrustError: The root does not allow it.
        """
        return self._trusted.check_manifest(head, data)

    def take_announce(self, data: bytes, *, now_s: float) -> SignedHead | None:
        """Judge an announcement, make what is new of it durable, and return the head if it is a new one.

        A new head counts whatever its beacon is worth: who passes a head on could put a bad beacon beside it.

        Raises:
            TrustError: The head is refused, or its beacon, and the head is not new.
            RemoteProtocolError: The bytes are no announcement.
            StoreError: The disk fails; nothing was accepted.
        """
        announce = Announce.decode(data)
        with self._writing(now_s):
            accepted = self._take_head(announce.head, now_s=now_s, is_own=False)
        if announce.beacon:
            try:
                with self._writing(now_s):
                    self._take_beacon(announce.beacon, now_s=now_s)
            except ShardcastError as error:
                if accepted is None:
                    raise
                _log.warning("beacon_refused", channel=self.name, error=error.describe())
        return accepted

    def take_root(self, data: bytes, *, now_s: float) -> bool:
        """Take the next root; return whether it is new.

        Raises:
            TrustError: The root is refused.
            StoreError: The disk fails; nothing was accepted.
        """
        with self._writing(now_s):
            if self._trusted.update_root(data) is None:
                return False
            with self._durably():
                self._store.save_channel(self.id, self.name, data)
            return True

    def publish(self, manifest: Manifest, *, step: int, is_rewind: bool, now_s: float) -> SignedHead:
        """Sign the next head for `manifest` with a fresh beacon, durably.

        Raises:
            TrustError: This node holds too few origin keys, or the root's limits forbid the version.
            StoreError: The disk fails; nothing was signed that anybody will see.
        """
        self.require_origin()
        with self._writing(now_s):
            head = self._trusted.draft_head(manifest, step=step, flags=FLAG_REWIND if is_rewind else 0)
            envelope = sign_head(head, self.keys[: self._trusted.root.origin_role.threshold])
            self._trusted.check_manifest(head, manifest.encoded)
            accepted = self._take_head(envelope, now_s=now_s, is_own=True)
            if accepted is None:
                raise TrustError(f"seq {head.seq} of channel {self.name} is taken already", seq=head.seq)
        try:
            self.renew_beacon(now_s=now_s)
        except StoreError as error:  # the head stands; its beacon is signed again within a minute
            _log.error("beacon_not_renewed", channel=self.name, error=error.describe())
        return accepted

    def renew_beacon(self, *, now_s: float) -> bool:
        """Sign a fresh beacon for the newest head; return whether there is one to sign for.

        Raises:
            StoreError: The disk fails.
        """
        with self._writing(now_s):
            current = self._trusted.current
            if not self.keys or current is None:
                return False
            beacon = Beacon(self.id, current.digest, int(now_s), BEACON_TTL_S)
            return self._take_beacon(sign_beacon(beacon, self.keys[:1]), now_s=now_s)

    def bind(self, peer: PeerId) -> bytes:
        """Return the statement, by a key of this node, that `peer` (this node) acts for it."""
        return sign_binding(Binding(self.id, peer), self.keys[:1])

    def is_bound(self, peer: PeerId, data: bytes) -> bool:
        """Whether `data` proves that `peer` acts for an origin key; pure, from any thread."""
        try:
            return self._trusted.judge_binding(data).peer == peer
        except ShardcastError:
            return False

    def require_origin(self) -> None:
        """Refuse unless this node may sign heads.

        Raises:
            TrustError: It holds too few keys.
        """
        if not self.is_origin:
            threshold = self.shown.root.origin_role.threshold
            raise TrustError(
                f"this node holds {len(self.keys)} of the {threshold} origin keys that channel {self.name} asks for",
                hint="start the node with --origin-key NAME.key",
                channel=self.name,
            )

    def _take_head(self, envelope: bytes, *, now_s: float, is_own: bool) -> SignedHead | None:
        try:
            verdict = self._trusted.judge_head(envelope)
        except TrustError as error:
            proof = error.facts.pop("proof", None)
            if isinstance(proof, Equivocation):
                with self._durably():
                    place = (proof.position.epoch, proof.position.seq)
                    self._store.save_equivocation(EquivocationRow(self.id, *place, proof.first, proof.second))
                error.facts["new_proof"] = True
            raise
        if not isinstance(verdict, Accepted):
            return None
        head = verdict.head
        row = HeadRow(
            channel=self.id,
            epoch=head.epoch,
            seq=head.seq,
            step=head.step,
            manifest=head.manifest,
            manifest_bytes=head.manifest_bytes,
            total_bytes=head.total_bytes,
            envelope=verdict.envelope,
            flags=head.flags,
            received_at_s=now_s,
            origin=is_own,
        )
        with self._durably():
            self._store.save_head(row)
        return verdict

    def _take_beacon(self, data: bytes, *, now_s: float) -> bool:
        verdict = self._trusted.judge_beacon(data, now_s=now_s)
        if verdict.is_news:
            with self._durably():
                self._store.save_beacon(self.id, data)
        return verdict.is_news

    @contextmanager
    def _writing(self, now_s: float) -> Iterator[None]:
        """Let one thread change the trust state, and show what is durable of it afterwards."""
        with self._lock:
            if self._is_ahead:
                rows = {row.channel: row.root_envelope for row in self._store.channels()}
                self._trusted = _restore(self._store, self.id, rows[self.id], now_s=now_s)
                self._is_ahead = False
            try:
                yield
            finally:
                self._show()

    @contextmanager
    def _durably(self) -> Iterator[None]:
        """Save what `_trusted` has just taken; when that fails, it has to go back to what the disk knows."""
        try:
            yield
        except BaseException as error:
            self._is_ahead = True
            if not isinstance(error, ShardcastError) or isinstance(error, StoreError):
                raise
            raise StoreError(
                f"cannot keep a head of {format_digest(self.id)}: {error.message}", channel=self.name
            ) from error

    def _show(self) -> None:
        if not self._is_ahead:
            self.keys = tuple(key for key in self.keys if self._trusted.lists_origin(key.key_id))
            self.shown = Shown.of(self._trusted)


def _restore(store: Store, channel: Digest, root: bytes, *, now_s: float) -> TrustedChannel:
    """Build the trust state from what the disk knows."""
    heads = [row.envelope for row in store.heads(channel, limit=_HEADS_RESTORED)]
    proofs = [(proof.first, proof.second) for proof in store.equivocations(channel)]
    trusted = TrustedChannel.restore([root], heads, proofs)
    beacon = store.beacon(channel)
    if beacon is not None:
        try:
            trusted.judge_beacon(beacon, now_s=now_s)
        except TrustError as error:  # its key or its epoch has been revoked
            _log.info("beacon_forgotten", channel=trusted.root.name, error=error.message)
    return trusted
