"""The control connections: dialled, closed, with the messages that they carry or lose.

Every message is counted with the size of its encoding; one in 64 really goes through the codec and back. Messages of one connection arrive
in the order in which they were sent, unless the wire is told to mix them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shardcast_proto import messages
from shardcast_proto.ids import PeerId
from shardcast_relay.commands import Dial
from shardcast_relay.events import DialFailed, PeerConnected, PeerDisconnected

if TYPE_CHECKING:
    from tests.sim.host import Host
    from tests.sim.world import World

FRAME_HEADER_BYTES: Final = 4
CODEC_EACH: Final = 64
#: A delay varies by so much of the trip.
JITTER: Final = 0.5
#: Handshakes before a control connection is up.
DIAL_S: Final = 0.25
_SIZES_MAX: Final = 4096


class Wire:
    """Carries control messages between hosts."""

    def __init__(self, world: World, *, is_mixing: bool = False) -> None:
        self._world = world
        self._is_mixing = is_mixing
        self.message_count = 0
        self._sizes: dict[messages.Message, int] = {}
        #: The message that was sent last: most go to several neighbours, one after another.
        self._last: messages.Message | None = None
        self._last_bytes = 0

    def dial(self, host: Host, command: Dial) -> None:
        """Carry out an order."""
        target = self._world.hosts[command.peer]
        order = host.orders.start(command, command.deadline_s)
        self._world.later(2 * host.trip_s(target) + DIAL_S, self._connect, host, target, command, order)

    def send(self, sender: Host, peer: PeerId, message: messages.Message) -> None:
        """Carry a message, or lose it."""
        world = self._world
        self.message_count += 1
        sender.control_bytes += self._size(message) + FRAME_HEADER_BYTES
        if self.message_count % CODEC_EACH == 0:
            decoded = messages.decode(messages.encode(message))
            if isinstance(decoded, messages.Unknown):
                return
            message = decoded
        earliest_s = sender.connections.get(peer)
        if earliest_s is None or (world.loss and world.rng.random() < world.loss):
            return
        target = world.hosts[peer]
        if not world.gets_through(sender, target):
            return
        arrives_s = world.now_s + sender.trip_s(target) * (1 + JITTER * world.rng.random())
        if not self._is_mixing:
            sender.connections[peer] = arrives_s = max(arrives_s, earliest_s)
        world.at(arrives_s, self._deliver, sender, target, message)

    def disconnect(self, one: Host, other: Host) -> None:
        """Close a connection: at one end now, at the other when word of it gets there."""
        self._lose(one, other)
        if not self._world.is_cut(one, other):
            self._lose(other, one)

    def _lose(self, host: Host, other: Host) -> None:
        if host.connections.pop(other.peer, None) is not None:
            self._world.later(host.trip_s(other), host.tell, PeerDisconnected(other.peer))

    def _size(self, message: messages.Message) -> int:
        if message is self._last:
            return self._last_bytes
        size = self._sizes.get(message)
        if size is None:
            if len(self._sizes) >= _SIZES_MAX:
                self._sizes.clear()
            size = self._sizes[message] = len(messages.encode(message))
        self._last, self._last_bytes = message, size
        return size

    def _deliver(self, sender: Host, target: Host, message: messages.Message) -> None:
        if not target.is_alive:
            return
        if sender.peer in target.connections:
            target.receive(sender, message)
        elif sender.is_alive and target.peer in sender.connections:
            self._lose(sender, target)  # the target has forgotten the connection: a reset comes back

    def _connect(self, dialler: Host, target: Host, command: Dial, order: int) -> None:
        """End a dial."""
        world = self._world
        if not dialler.is_alive:
            return
        if target.is_black_hole or world.is_cut(dialler, target):
            late = DialFailed(target.peer, "deadline")
            world.at(max(command.deadline_s, world.now_s), dialler.finish, order, late)
            return
        if not target.is_alive or target.is_unreachable:
            dialler.finish(order, DialFailed(target.peer, "unreachable"))
            return
        if dialler.peer in target.connections and target.peer not in dialler.connections:
            target.tell(PeerDisconnected(dialler.peer))
        dialler.connections[target.peer] = target.connections[dialler.peer] = world.now_s
        target.tell(PeerConnected(dialler.peer))
        dialler.finish(order, PeerConnected(target.peer))
