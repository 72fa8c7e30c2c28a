"""The order of one stream's heads: which of them counts, and which may still come.

Theory of operation. Heads arrive in any order and from anybody; their signatures have been checked before they come here. Three
things are remembered, and everything follows from them:

* the high mark: the highest position ever accepted. It never falls, so nothing at or below it is accepted again;
* the held heads: the newest 64 accepted ones, by position, so that a second head for one of their positions is noticed;
* the conflicts: positions for which two heads with different manifests were seen, with both as proof.

| the head's position is            | and                                  | then                                           |
|-----------------------------------|--------------------------------------|------------------------------------------------|
| above the high mark               |                                      | accepted; the high mark rises                  |
| held                              | the manifest is the same             | known: the held one stands                     |
| held                              | the manifest is another              | equivocation: both refused from now on, proof  |
| in conflict                       |                                      | refused, equivocation                          |
| otherwise at or below the mark    |                                      | refused, rollback                              |

Example: 7 with manifest A is accepted and current. 7 with manifest B arrives: both are refused, head 6 is current again and the
mark stays at 7. A late copy of 7 with A is refused. 8 is accepted and current. Nodes that saw B first end in the same state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..ids import Digest, format_digest
from .head import Head, Position
from .refusals import Reason, refusal

#: An origin that signs two heads for one place does it for adjacent places, if by accident; these cover hours of steps.
HELD_MAX: Final = 64
#: Proofs kept in memory; one is enough to convict, and each needs a signature by an origin key.
CONFLICTS_MAX: Final = 16


@dataclass(frozen=True)
class SignedHead:
    """A head whose signatures have been checked.

    Attributes:
        head: What it says.
        envelope: The bytes to store and to pass on.
    """

    head: Head
    envelope: bytes

    @property
    def digest(self) -> Digest:
        """The digest of the head's payload."""
        return self.head.digest


class Accepted(SignedHead):
    """A head that has just become the newest. It must be durable before anything of it is exposed."""


class Known(SignedHead):
    """The held head for the position of the judged one, which says nothing new."""


@dataclass(frozen=True)
class Equivocation:
    """The proof that an origin has signed two versions for one position: anybody with the root can check it.

    Attributes:
        position: The place that both claim.
        first: Envelope of the head that was held.
        second: Envelope of the one that came second.
    """

    position: Position
    first: bytes
    second: bytes


class HeadOrder:
    """The state of one stream.

    Invariant: no position is both held and in conflict, and none of either lies above the high mark.
    """

    def __init__(self) -> None:
        #: The highest position ever accepted; (0, 0) before the first.
        self.high_mark = Position(0, 0)
        #: The newest accepted heads without a conflict, at most HELD_MAX.
        self.held: dict[Position, SignedHead] = {}
        #: Proofs by position, at most CONFLICTS_MAX.
        self.conflicts: dict[Position, Equivocation] = {}

    @property
    def current(self) -> SignedHead | None:
        """The newest head that counts."""
        return self.held[max(self.held)] if self.held else None

    def find(self, digest: Digest) -> SignedHead | None:
        """Return the held head of that digest."""
        return next((held for held in self.held.values() if held.digest == digest), None)

    def place(self, signed: SignedHead) -> Accepted | Known:
        """Put a head in its place.

        Raises:
            TrustError: Reason `rollback` or `equivocation`; of a new equivocation the fact `proof` is the `Equivocation`.
        """
        head, position = signed.head, signed.head.position
        if position in self.conflicts:
            raise refusal(
                Reason.EQUIVOCATION,
                f"seq {head.seq} of epoch {head.epoch} has heads for different manifests and counts no more",
                hint="the next seq continues",
                seq=head.seq,
                manifest=format_digest(head.manifest),
            )
        held = self.held.get(position)
        if held is not None:
            if held.head.manifest != head.manifest:
                self._convict(held, signed)
            return Known(held.head, held.envelope)
        if position <= self.high_mark:
            raise refusal(
                Reason.ROLLBACK,
                f"head with seq {head.seq} of epoch {head.epoch} comes after seq {self.high_mark.seq}"
                f" of epoch {self.high_mark.epoch}",
                expected=self.high_mark.seq + 1,
                actual=head.seq,
            )
        self._hold(signed)
        return Accepted(head, signed.envelope)

    def remember(self, signed: SignedHead) -> None:
        """Take back a head that was accepted before a restart, in any order."""
        if signed.head.position not in self.conflicts:
            self._hold(signed)

    def remember_conflict(self, proof: Equivocation) -> None:
        """Take back a proof that was found before a restart."""
        self.held.pop(proof.position, None)
        self.conflicts[proof.position] = proof
        self.high_mark = max(self.high_mark, proof.position)
        if len(self.conflicts) > CONFLICTS_MAX:
            del self.conflicts[min(self.conflicts)]

    def revoke_below(self, epoch: int) -> None:
        """Forget the held heads of lower epochs."""
        self.held = {position: held for position, held in self.held.items() if position.epoch >= epoch}

    def _hold(self, signed: SignedHead) -> None:
        self.held[signed.head.position] = signed
        self.high_mark = max(self.high_mark, signed.head.position)
        if len(self.held) > HELD_MAX:
            del self.held[min(self.held)]

    def _convict(self, first: SignedHead, second: SignedHead) -> None:
        proof = Equivocation(first.head.position, first.envelope, second.envelope)
        self.remember_conflict(proof)
        raise refusal(
            Reason.EQUIVOCATION,
            f"two heads with seq {proof.position.seq} of epoch {proof.position.epoch} name different manifests; both are refused",
            hint="two origins share a key, or the key is stolen; the next seq continues, a new epoch revokes the key",
            seq=proof.position.seq,
            expected=format_digest(first.head.manifest),
            actual=format_digest(second.head.manifest),
            proof=proof,
        )
