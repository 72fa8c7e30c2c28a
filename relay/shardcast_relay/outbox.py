"""The commands that the handling of one event gives, each stamped with that event's id."""

from __future__ import annotations

from shardcast_proto.ids import PeerId
from shardcast_proto.messages import Message

from .commands import Command, Dial, Hangup, Send


class Outbox:
    """Collects commands in order."""

    def __init__(self, cause: int) -> None:
        self.cause = cause
        self.commands: list[Command] = []

    def add(self, command: Command) -> None:
        """Append a command that its maker stamped with `cause`."""
        self.commands.append(command)

    def send(self, peer: PeerId, message: Message) -> None:
        """Order a control message."""
        self.commands.append(Send(self.cause, peer, message))

    def dial(self, peer: PeerId, addresses: tuple[str, ...], deadline_s: float) -> None:
        """Order a control connection."""
        self.commands.append(Dial(self.cause, peer, addresses, deadline_s))

    def hangup(self, peer: PeerId, reason: str) -> None:
        """Order the end of a control connection."""
        self.commands.append(Hangup(self.cause, peer, reason))
