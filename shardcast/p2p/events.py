"""The events that the control network reports."""

from __future__ import annotations

from typing import Protocol

from shardcast_proto.carriage import Answer
from shardcast_proto.ids import PeerId


class P2pEvents(Protocol):
    """What the shell hears; every method is called on the asyncio loop, must not block and must not raise.

    For one peer the order is always `peer_connected`, any number of `frame_received`, `peer_disconnected`; then perhaps
    the same again. Frames that were on the way when a peer was disconnected are lost on both sides, which is why both
    sides hear about it.
    """

    def peer_connected(self, peer: PeerId, remote_ip: str) -> None:
        """Control frames can now be sent to `peer`, which proved that it holds the key of that id."""

    def peer_disconnected(self, peer: PeerId) -> None:
        """The control stream to `peer` is gone: it left, died, was hung up, or broke the framing."""

    def frame_received(self, peer: PeerId, payload: bytes) -> None:
        """One control frame arrived whole, at most `CONTROL_FRAME_BYTES_MAX` long; its content is unchecked."""

    def gossip_received(self, topic: str, sender: PeerId, data: bytes) -> None:
        """A gossip message that the validator accepted; `sender` signed it, others may have passed it on."""


class CarriedReceiver(Protocol):
    """Who takes what is carried. `judge` is called on the trio side and must be pure; the others on the asyncio loop."""

    def judge(self, answer: Answer) -> None:
        """Refuse an OK answer that is not one to what was asked.

        Raises:
            RemoteProtocolError: It is not.
        """

    def began(self, answer: Answer) -> None:
        """The answer has come, and will be followed by its body."""

    def received(self, data: bytes) -> None:
        """The next part of the body has come."""
