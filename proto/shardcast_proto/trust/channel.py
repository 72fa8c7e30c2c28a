"""The trusted state of one channel: it is given bytes, which it holds or refuses.

`TrustedChannel` holds the roots, the order of the heads and the newest beacon, and is never half-way: a call takes what it is
given, or raises and leaves everything as it was (but for the proof of an equivocation, which is kept). There is no I/O and no
clock; moments are arguments. What a call returns has to be made durable by the caller before anything of it is exposed; if that
fails, this object is ahead of the disk and has to be thrown away.

Read `root_chain` for what may follow a root, `head_order` for what may follow a head, `statements` for what is checked without
memory, and `refusals` for the reasons.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import ConfigError
from ..ids import Digest, format_digest
from ..manifest import Manifest
from .announce import Announce
from .beacon import Beacon, Freshness
from .binding import Binding
from .dsse import Envelope
from .head import KIND_WEIGHTS, STREAM_MAIN, Head, Ref
from .head_order import Accepted, Equivocation, HeadOrder, Known, SignedHead
from .offer import PatchOffer
from .refusals import Reason, refusal
from .root import Root
from .root_chain import SignedRoot, open_next_root, open_root
from .statements import check_manifest, malformed_is_refused, read_beacon, read_binding, read_head, read_offer


@dataclass(frozen=True)
class BeaconVerdict:
    """What a valid beacon has told.

    Attributes:
        freshness: Of the current head, at the moment of judging.
        is_news: Whether it vouches for the current head and is later than those before it; then it is worth passing on.
    """

    freshness: Freshness
    is_news: bool


class TrustedChannel:
    """What this node believes about one channel.

    Invariant: every root has been reached from the pinned one step by step; every held head is of the newest root's epoch and was
    signed by the origin threshold of the root that was the newest when it came.
    """

    def __init__(self, pinned: SignedRoot) -> None:
        #: From the pinned one on, versions ascending without a gap.
        self._roots = [pinned]
        self._order = HeadOrder()
        #: The latest beacon for the current head, and the latest that lay in the future when it came; with their envelopes.
        self._beacon: tuple[Beacon, bytes] | None = None
        self._beacon_ahead: tuple[Beacon, bytes] | None = None

    @classmethod
    def from_root(cls, envelope: bytes) -> TrustedChannel:
        """Pin a root that the operator vouches for.

        Raises:
            TrustError: The bytes are not a root that its own threshold has signed.
        """
        with malformed_is_refused():
            return cls(open_root(envelope))

    @classmethod
    def restore(
        cls,
        roots: Sequence[bytes],
        heads: Iterable[bytes] = (),
        equivocations: Iterable[tuple[bytes, bytes]] = (),
    ) -> TrustedChannel:
        """Build the state again from what was made durable.

        The signatures of roots are checked again. Those of heads are not: the keys that made them may have gone with an older
        root, and the memory of how far the channel had come has to outlive them. Beacons go through `judge_beacon` again.

        Args:
            roots: Envelopes from the pinned root on, without a gap. The newest alone will do.
            heads: Envelopes of accepted heads, in any order; the newest 64 will do.
            equivocations: Pairs of envelopes.

        Raises:
            ConfigError: There is no root.
            TrustError: The roots are no chain, or an envelope is not of a head of this channel.
        """
        if not roots:
            raise ConfigError("a channel cannot be restored without a root")
        trusted = cls.from_root(roots[0])
        for envelope in roots[1:]:
            trusted.update_root(envelope)
        for first, second in equivocations:
            position = trusted._recall(first).head.position
            trusted._order.remember_conflict(Equivocation(position, first, second))
        for envelope in heads:
            trusted._order.remember(trusted._recall(envelope))
        trusted._order.revoke_below(trusted.root.epoch)
        return trusted

    # --- what is held

    @property
    def channel(self) -> Digest:
        """The channel id."""
        return self._roots[-1].channel

    @property
    def root(self) -> Root:
        """The newest root."""
        return self._roots[-1].root

    @property
    def roots(self) -> tuple[bytes, ...]:
        """The envelopes of all held roots, ascending by version."""
        return tuple(signed.envelope for signed in self._roots)

    def root_envelope(self, version: int) -> bytes | None:
        """Return the envelope of the root of that version, to pass on; None when it is not held."""
        index = version - self._roots[0].root.version
        return self._roots[index].envelope if 0 <= index < len(self._roots) else None

    @property
    def current(self) -> SignedHead | None:
        """The newest head that counts; None before the first of an epoch."""
        return self._order.current

    @property
    def highest_seq(self) -> int:
        """The highest seq ever accepted in the root's epoch; 0 before the first."""
        mark = self._order.high_mark
        return mark.seq if mark.epoch == self.root.epoch else 0

    @property
    def equivocations(self) -> tuple[Equivocation, ...]:
        """The proofs that are held, ascending by position."""
        return tuple(self._order.conflicts[position] for position in sorted(self._order.conflicts))

    def announce(self) -> Announce | None:
        """Return what to gossip, and to answer who asks for the head; None when there is no head."""
        current = self.current
        if current is None:
            return None
        return Announce(current.envelope, self._beacon[1] if self._beacon else b"")

    def lists_origin(self, key_id: Digest) -> bool:
        """Return whether the key of that id may sign heads and beacons."""
        return any(key.key_id == key_id for key in self.root.origin_role.keys)

    def freshness(self, now_s: float) -> Freshness:
        """Return whether somebody with an origin key has lately vouched for the current head."""
        states = [held[0].freshness(now_s) for held in (self._beacon, self._beacon_ahead) if held is not None]
        return next((state for state in (Freshness.FRESH, Freshness.CLOCK) if state in states), Freshness.STALE)

    # --- what comes in

    def update_root(self, data: bytes) -> SignedRoot | None:
        """Take the next root, or return None when it is the held one.

        A higher epoch revokes: `current` is None until the first head of that epoch.

        Raises:
            TrustError: Reason `malformed`, or one of `open_next_root`.
        """
        held = self._roots[-1]
        with malformed_is_refused():
            signed = open_next_root(data, held)
        if signed is held:
            return None
        self._roots.append(signed)
        self._order.revoke_below(signed.root.epoch)
        self._drop_beacons_of_others()
        return signed

    def read_head(self, data: bytes) -> SignedHead:
        """Check everything about a head but its place in the order; changes nothing, and is safe on any thread.

        Raises:
            TrustError: A reason of `statements.read_head`.
        """
        return read_head(data, self._roots[-1])

    def judge_binding(self, data: bytes) -> Binding:
        """Return the binding in an envelope; changes nothing, and is safe on any thread.

        Raises:
            TrustError: A reason of `statements.read_binding`.
        """
        return read_binding(data, self._roots[-1])

    def judge_head(self, data: bytes) -> Accepted | Known:
        """Take a head, or say why not.

        Raises:
            TrustError: A reason of `statements.read_head` or of `HeadOrder.place`.

        Cost: 80 µs for each signature by an origin key; nothing for a copy of the current head.
        """
        current = self.current
        if current is not None and data == current.envelope:
            return Known(current.head, current.envelope)
        signed = read_head(data, self._roots[-1])
        try:
            return self._order.place(signed)
        finally:
            self._drop_beacons_of_others()

    def judge_beacon(self, data: bytes, *, now_s: float) -> BeaconVerdict:
        """Take a beacon, or say why not. It is kept only when it vouches for the current head and is news.

        Raises:
            TrustError: A reason of `statements.read_beacon`, or `unknown_head`: ask its sender for the head.
        """
        beacon = read_beacon(data, self._roots[-1])
        held = self._order.find(beacon.head)
        if held is None:
            raise refusal(
                Reason.UNKNOWN_HEAD,
                f"a beacon is for head {format_digest(beacon.head)}, which is not held",
                actual=format_digest(beacon.head),
            )
        is_ahead = beacon.freshness(now_s) is Freshness.CLOCK
        before = self._beacon_ahead if is_ahead else self._beacon
        is_news = held is self.current and (before is None or beacon.issued_s > before[0].issued_s)
        if is_news and is_ahead:
            self._beacon_ahead = (beacon, data)
        elif is_news:
            self._beacon = (beacon, data)
        return BeaconVerdict(self.freshness(now_s), is_news)

    def judge_offer(self, data: bytes) -> PatchOffer:
        """Return the patch offer in an envelope; changes nothing.

        Raises:
            TrustError: A reason of `statements.read_offer`.
        """
        return read_offer(data, self._roots[-1])

    def check_manifest(self, head: Head, data: bytes) -> Manifest:
        """Return the manifest that `head` names, if `data` is it; changes nothing.

        Raises:
            IntegrityError: The bytes are others: their sender is at fault.
            TrustError: Reason `malformed` or `over_limit`: the origin is at fault.
        """
        return check_manifest(head, data, self._roots[-1])

    # --- what goes out

    def draft_head(self, manifest: Manifest, *, step: int, flags: int = 0, refs: Sequence[Ref] = ()) -> Head:
        """Return the unsigned head that puts `manifest` next in this channel.

        Before that, an origin has to judge the highest head that the swarm knows. The signed head goes through `judge_head`
        like everybody's.
        """
        current = self.current
        return Head(
            channel=self.channel,
            kind=KIND_WEIGHTS,
            stream=STREAM_MAIN,
            epoch=self.root.epoch,
            seq=self.highest_seq + 1,
            step=step,
            manifest=manifest.digest,
            manifest_bytes=len(manifest.encoded),
            total_bytes=manifest.total_bytes,
            previous=current.digest if current is not None else b"",
            flags=flags,
            refs=tuple(refs),
        )

    def _recall(self, envelope: bytes) -> SignedHead:
        with malformed_is_refused():
            head = Head.decode(Envelope.decode(envelope, size_max=len(envelope), what="stored head").payload)
        if head.channel != self.channel:
            raise refusal(Reason.WRONG_CHANNEL, f"a stored head is for channel {format_digest(head.channel)}")
        return SignedHead(head, envelope)

    def _drop_beacons_of_others(self) -> None:
        digest = self.current.digest if self.current is not None else None
        if self._beacon is not None and self._beacon[0].head != digest:
            self._beacon = None
        if self._beacon_ahead is not None and self._beacon_ahead[0].head != digest:
            self._beacon_ahead = None
