"""The bulk links of this node: which are up, which are being opened, which to try again.

Each neighbour has at most one link in each direction. The receiver opens it, because it knows best whether it can reach the sender; a
sender whose neighbour has not done so within a moment opens it itself, so that a node that nobody can dial gives as well as takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shardcast_proto.errors import InvariantViolated
from shardcast_proto.ids import PeerId

from .commands import CloseLink, OpenLink
from .config import RelayConfig
from .events import Contact, LinkClosed, LinkFailed, LinkOpened
from .outbox import Outbox


@dataclass
class Direction:
    """The links of one direction."""

    #: Peers whose link is up.
    up: dict[PeerId, None] = field(default_factory=dict)
    #: Peers whose link is being opened from here, with the deadline.
    opening: dict[PeerId, float] = field(default_factory=dict)
    #: Links that are not to be opened from here before a time.
    resting: dict[PeerId, float] = field(default_factory=dict)
    #: Failures in a row.
    failures: dict[PeerId, int] = field(default_factory=dict)


class Links:
    """Keeps a link in each direction to every neighbour, as far as that can be had.

    Invariant: a peer is never in `up` and in `opening` of one direction.
    """

    def __init__(self, config: RelayConfig, neighbours: dict[PeerId, Contact]) -> None:
        self._config = config
        self._neighbours = neighbours
        self.receiving = Direction()
        self.sending = Direction()

    def neighbour_up(self, peer: PeerId, out: Outbox, now_s: float) -> None:
        """Open the receiving link; give the neighbour a moment to open the other."""
        self.sending.resting[peer] = now_s + self._config.link_patience_s
        self._open(self._neighbours[peer], out, now_s, is_sending=False)

    def neighbour_down(self, peer: PeerId, out: Outbox) -> None:
        """Forget the peer, and close what is up; what is being opened is closed when it is."""
        for direction, is_sending in ((self.receiving, False), (self.sending, True)):
            direction.resting.pop(peer, None)
            direction.failures.pop(peer, None)
            if peer in direction.up:
                del direction.up[peer]
                out.add(CloseLink(out.cause, peer, is_sending))

    def tend(self, out: Outbox, now_s: float) -> None:
        """Open what is missing and may be tried."""
        for contact in self._neighbours.values():
            self._open(contact, out, now_s, is_sending=False)
            self._open(contact, out, now_s, is_sending=True)

    def opened(self, event: LinkOpened, out: Outbox) -> bool:
        """Note a link that is up, whoever opened it; return whether its peer is a neighbour."""
        direction = self._direction(event.is_sending)
        direction.opening.pop(event.peer, None)  # of two that cross one comes up; the other's ending changes nothing
        if event.peer not in self._neighbours:
            out.add(CloseLink(out.cause, event.peer, event.is_sending))
            return False
        direction.up[event.peer] = None
        direction.failures.pop(event.peer, None)
        return True

    def failed(self, event: LinkFailed, now_s: float) -> None:
        """Note a link that did not come up; it is tried again later, each time later."""
        direction = self._direction(event.is_sending)
        direction.opening.pop(event.peer, None)
        if event.peer in self._neighbours and event.peer not in direction.up:
            failures = direction.failures.get(event.peer, 0)
            direction.failures[event.peer] = failures + 1
            span_s = min(self._config.link_retry_s * 2 ** min(failures, 16), self._config.link_retry_max_s)
            direction.resting[event.peer] = now_s + span_s

    def closed(self, event: LinkClosed, now_s: float) -> bool:
        """Note a link that is gone; return whether it was up."""
        direction = self._direction(event.is_sending)
        if event.peer not in direction.up:
            return False
        del direction.up[event.peer]
        direction.resting[event.peer] = now_s + self._config.link_retry_s
        return True

    @property
    def next_s(self) -> float | None:
        """When a link that is missing may be tried again."""
        times = [
            direction.resting.get(peer, 0.0)
            for direction in (self.receiving, self.sending)
            for peer, contact in self._neighbours.items()
            if contact.serve and peer not in direction.up and peer not in direction.opening
        ]
        return min(times, default=None)

    def check(self) -> None:
        """Check the invariant.

        Raises:
            InvariantViolated: It is broken.
        """
        for direction in (self.receiving, self.sending):
            if direction.up.keys() & direction.opening.keys():
                raise InvariantViolated("a link that is up is being opened")

    def _direction(self, is_sending: bool) -> Direction:
        return self.sending if is_sending else self.receiving

    def _open(self, contact: Contact, out: Outbox, now_s: float, *, is_sending: bool) -> None:
        direction, peer = self._direction(is_sending), contact.peer
        if not contact.serve or peer in direction.up or peer in direction.opening:
            return
        if now_s < direction.resting.get(peer, 0.0):
            return
        deadline_s = now_s + self._config.link_timeout_s
        direction.opening[peer] = deadline_s
        out.add(OpenLink(out.cause, peer, contact.serve, is_sending, deadline_s))
