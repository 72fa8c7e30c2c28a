"""The bulk links between hosts: opened, closed, lost, with the pushes and linked fetches that run over them.

A link has two ends, which see its end at different times; a partition can keep one of them from seeing it at all until it heals. Before
an end is told `LinkClosed`, everything under way at that end has had its ending.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardcast_relay.commands import CloseLink, OpenLink, PushChunk
from shardcast_relay.events import LinkClosed, LinkFailed, LinkOpened, Outcome, PushArrived, PushBegan, PushEnded
from tests.sim.checks import Broken
from tests.sim.uplink import Chunk, Flow

if TYPE_CHECKING:
    from tests.sim.host import Host
    from tests.sim.world import World

#: Round trips until a link is up at both ends: connect, hello, answer.
OPENING_ROUND_TRIPS = 1.5
#: A reset is seen so long after a death.
RESET_S = 0.05
#: A pushed chunk that has begun is over by then, or its ending was lost; a slow link takes its time.
ARRIVAL_MAX_S = 300.0


class BulkLink:
    """One link, in one direction."""

    def __init__(self, sender: Host, receiver: Host) -> None:
        self.flow = Flow(sender, receiver)
        self.sender = sender
        self.receiver = receiver
        #: Pushes that have not ended at the sender, by id.
        self.pushes: dict[int, Pushed] = {}
        #: Pushes that have begun to arrive at the receiver and are not over.
        self.arriving: dict[Pushed, None] = {}
        #: Fetches of the receiver that are answered over it.
        self.fetches: dict[int, None] = {}
        #: When the last byte that has left arrives.
        self.moved_s = sender.world.now_s
        self.is_watched = self.is_timed = False

    @property
    def is_up_at_sender(self) -> bool:
        """Whether the sender has not seen it end."""
        return self.sender.out_links.get(self.receiver.peer) is self

    @property
    def is_up_at_receiver(self) -> bool:
        """Whether the receiver has not seen it end."""
        return self.receiver.in_links.get(self.sender.peer) is self


class Pushed(Chunk):
    """A chunk sent unasked."""

    __slots__ = ("arrival", "command", "is_true", "link", "order")

    def __init__(self, link: BulkLink, command: PushChunk, size_bytes: int, order: int) -> None:
        super().__init__(size_bytes)
        self.link = link
        self.command = command
        self.order = order
        self.arrival = 0
        self.is_true = True

    def starts(self, first_byte_s: float) -> None:
        """See `Chunk`."""
        world = self.link.sender.world
        self.is_true = not self.link.sender.is_lying
        world.at(first_byte_s, world.bulk.push_began, self)

    def moves(self, arrives_s: float) -> None:
        """See `Chunk`."""
        self.link.moved_s = arrives_s

    def has_left(self, arrives_s: float) -> None:
        """See `Chunk`."""
        world = self.link.sender.world
        world.at(arrives_s, world.bulk.push_arrived, self)
        world.bulk.end_push(self, Outcome.DONE)


class Bulk:
    """Carries out the commands about links, at every host."""

    def __init__(self, world: World) -> None:
        self._world = world

    def open(self, host: Host, command: OpenLink) -> None:
        """Carry out an order; it ends after a moment, or at its deadline."""
        target = self._world.hosts[command.peer]
        order = host.orders.start(command, command.deadline_s)
        delay_s = OPENING_ROUND_TRIPS * 2 * host.trip_s(target)
        self._world.later(delay_s, self._reach, host, command, order)

    def close(self, host: Host, command: CloseLink) -> None:
        """Carry out an order."""
        links = host.out_links if command.is_sending else host.in_links
        link = links.get(command.peer)
        if link is not None:
            self._world.later(0.0, self.hang_up, link, host, Outcome.SHORT)

    def hang_up(self, link: BulkLink, host: Host, outcome: Outcome) -> None:
        """End a link at one of its ends; the other sees it when word of it gets there."""
        is_sender = host is link.sender
        other = link.receiver if is_sender else link.sender
        lost = (self.lost_at_sender, self.lost_at_receiver)
        lost[not is_sender](link, outcome)
        self._world.when_through(host, other, lost[is_sender], link, Outcome.SHORT)

    def push(self, host: Host, command: PushChunk) -> None:
        """Carry out an order."""
        order = host.orders.start(command, command.deadline_s)
        link = host.out_links.get(command.peer)
        if link is None:
            raise Broken(f"host {host.number} pushes where it has no link")
        chunk = Pushed(link, command, self._world.version_of(command.blob).chunk_bytes, order)
        link.pushes[command.push_id] = chunk
        window = getattr(self._world.config, "push_window", None)
        if window is not None and len(link.pushes) > window:
            raise Broken(f"host {host.number} has {len(link.pushes)} pushes under way on one link")
        host.uplink.offer(link.flow, chunk)
        if not link.is_timed:
            link.is_timed = True
            self._world.at(command.deadline_s, self._look_at_deadlines, link)

    def end_push(self, chunk: Pushed, outcome: Outcome) -> None:
        """Tell the sender the one ending of a push."""
        if chunk.link.pushes.pop(chunk.command.push_id, None) is not None:
            chunk.link.sender.finish(chunk.order, PushEnded(chunk.command.push_id, outcome))

    def push_began(self, chunk: Pushed) -> None:
        """The first byte of a pushed chunk arrives."""
        link, command = chunk.link, chunk.command
        receiver = link.receiver
        if not link.is_up_at_receiver or not receiver.is_alive:
            return
        link.arriving[chunk] = None
        chunk.arrival = receiver.orders.start(chunk, self._world.now_s + ARRIVAL_MAX_S)
        receiver.tell(PushBegan(link.sender.peer, command.blob, command.stripe, command.index))
        if not link.is_watched:
            link.is_watched = True
            self._world.later(self._world.config.fetch_idle_timeout_s, self._look_at_bytes, link)

    def push_arrived(self, chunk: Pushed) -> None:
        """The last byte of a pushed chunk arrives: check it, write it, tell."""
        link = chunk.link
        if chunk not in link.arriving or not link.receiver.is_alive:
            return
        is_new = chunk.is_true and link.receiver.take_chunk(chunk.command.blob, chunk.command.index, link.sender)
        self._end_arrival(chunk, Outcome.DONE if chunk.is_true else Outcome.CORRUPT, is_new=is_new)

    def lost_at_sender(self, link: BulkLink, outcome: Outcome) -> None:
        """The sender sees the end of a link."""
        if not link.is_up_at_sender:
            return
        link.flow.queue.clear()
        for chunk in list(link.pushes.values()):
            self.end_push(chunk, outcome)
        del link.sender.out_links[link.receiver.peer]
        link.sender.tell(LinkClosed(link.receiver.peer, is_sending=True))

    def lost_at_receiver(self, link: BulkLink, outcome: Outcome) -> None:
        """The receiver sees the end of a link."""
        receiver = link.receiver
        if not link.is_up_at_receiver:
            return
        for chunk in list(link.arriving):
            self._end_arrival(chunk, outcome)
        del receiver.in_links[link.sender.peer]
        for fetch_id in list(link.fetches):
            receiver.end_fetch(fetch_id, outcome)
        receiver.tell(LinkClosed(link.sender.peer, is_sending=False))

    def host_died(self, host: Host) -> None:
        """A host is gone, and the other ends see a reset."""
        for link in list(host.out_links.values()):
            self._world.later(RESET_S, self.lost_at_receiver, link, Outcome.SHORT)
        for link in list(host.in_links.values()):
            self._world.later(RESET_S, self.lost_at_sender, link, Outcome.SHORT)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _reach(self, host: Host, command: OpenLink, order: int) -> None:
        world, target = self._world, self._world.hosts[command.peer]
        failed = LinkFailed(command.peer, command.is_sending, Outcome.UNREACHABLE)
        if not host.is_alive:
            return
        if target.is_black_hole or world.is_cut(host, target):
            late = LinkFailed(command.peer, command.is_sending, Outcome.DEADLINE)
            world.at(max(command.deadline_s, world.now_s), host.finish, order, late)
        elif not target.is_alive or target.is_unreachable or not world.has_links:
            host.finish(order, failed)
        else:
            self._came_up(host, target, command, order)

    def _came_up(self, host: Host, target: Host, command: OpenLink, order: int) -> None:
        sender, receiver = (host, target) if command.is_sending else (target, host)
        old_out, old_in = sender.out_links.get(receiver.peer), receiver.in_links.get(sender.peer)
        if old_out is not None and old_out is old_in:  # the other one was quicker
            host.finish(order, LinkFailed(command.peer, command.is_sending, Outcome.CANCELLED))
            return
        if old_out is not None:
            self.lost_at_sender(old_out, Outcome.SHORT)
        if old_in is not None:
            self.lost_at_receiver(old_in, Outcome.SHORT)
        link = BulkLink(sender, receiver)
        sender.out_links[receiver.peer] = receiver.in_links[sender.peer] = link
        target.tell(LinkOpened(host.peer, not command.is_sending))
        host.finish(order, LinkOpened(target.peer, command.is_sending))

    def _end_arrival(self, chunk: Pushed, outcome: Outcome, *, is_new: bool = False) -> None:
        link, command = chunk.link, chunk.command
        del link.arriving[chunk]
        size = chunk.size_bytes if outcome is Outcome.DONE else 0
        event = PushArrived(link.sender.peer, command.blob, command.stripe, command.index, outcome, size, is_new)
        link.receiver.finish(chunk.arrival, event)

    def _look_at_deadlines(self, link: BulkLink) -> None:
        """Give a link up whose oldest push is too late; a part of a chunk cannot be taken back."""
        link.is_timed = False
        if not link.pushes or not link.sender.is_alive:
            return
        deadline_s = next(iter(link.pushes.values())).command.deadline_s
        if self._world.now_s >= deadline_s:
            self.hang_up(link, link.sender, Outcome.DEADLINE)
        else:
            link.is_timed = True
            self._world.at(deadline_s, self._look_at_deadlines, link)

    def _look_at_bytes(self, link: BulkLink) -> None:
        """Give a link up on which a chunk has begun and no byte has come for long."""
        link.is_watched = False
        if not link.arriving or not link.receiver.is_alive:
            return
        idle_s = self._world.config.fetch_idle_timeout_s
        if self._world.now_s - link.moved_s >= idle_s - 1e-6:
            self.hang_up(link, link.receiver, Outcome.STALLED)
        else:
            link.is_watched = True
            self._world.at(link.moved_s + idle_s, self._look_at_bytes, link)
