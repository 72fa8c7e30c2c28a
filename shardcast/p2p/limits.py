"""The caps of the control network, each with its reason.

Limits of the protocol itself (frame and gossip sizes) stand in `shardcast_proto.limits`; these bound what one host
spends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from shardcast.descriptors import at_most
from shardcast_proto.limits import KIB, MIB

#: A yamux frame of 65,000 bytes and its header fit one Noise message (65,519); 65,536 would become two of each.
WRITE_BYTES_MAX: Final = 65_000
#: The receive window of one stream, yamux's own initial value. It is not tuned upwards: control needs no more, and a
#: window is what a stranger can make us hold.
STREAM_WINDOW_BYTES: Final = 256 * KIB
#: What one stream may hold unread. An honest peer stays within the window; libp2p itself only logs a peer that does
#: not.
STREAM_BUFFER_BYTES_MAX: Final = 2 * STREAM_WINDOW_BYTES
#: One gossip RPC. Ours carry one message of 4 KiB, or a heartbeat's message ids; 64 KiB leaves room for a burst of
#: replayed ones.
GOSSIP_RPC_BYTES_MAX: Final = 64 * KIB
#: Messages, subscriptions or control entries of one RPC that are looked at; a heartbeat names one entry per shared
#: topic.
GOSSIP_RPC_ITEMS_MAX: Final = 128
#: `/shardcast/1/` and 64 hexadecimal digits are 77; longer topics are not ours and are not remembered.
GOSSIP_TOPIC_CHARS_MAX: Final = 128
#: The mesh of one topic: 3 to 6 neighbours keep a gossip message under 40 ms for a quarter of the CPU of the usual 8.
GOSSIP_DEGREE: Final = 4
GOSSIP_DEGREE_LOW: Final = 3
GOSSIP_DEGREE_HIGH: Final = 6
GOSSIP_HEARTBEAT_S: Final = 1
#: A peer that its kernel has not heard of for this long is gone (a black-holed peer stays "connected" for minutes
#: otherwise).
PEER_SILENCE_MAX_S: Final = 20


@dataclass(frozen=True, slots=True)
class P2pLimits:
    """What one host accepts. The defaults suit a node with 8 active and some bootstrap neighbours."""

    #: Connections that others opened, handshakes included: an active view of 8, shuffles, newcomers at a bootstrap
    #: node; each costs about 100 KB and some twenty tasks. Fewer where this process may open few files.
    inbound_max: int = field(default_factory=lambda: at_most(64, share=0.2))
    #: Of those, from one address: one host must not hold all places. Loopback is exempt: there all peers share one
    #: address.
    inbound_per_ip_max: int = 32
    #: Connections that we opened.
    outbound_max: int = 64
    #: Streams that one connection may have opened at once: gossip, control, chunks, identify and ping make five; the rest
    #: is slack for streams that are just being closed.
    streams_per_connection_max: int = 16
    #: Frames waiting for one peer. Control is batched a few times a second, so a full queue means that the peer does
    #: not read.
    send_queue_bytes_max: int = 4 * MIB
    send_queue_frames_max: int = 256
    #: Received frames of one peer that the asyncio side has not seen yet; above it the peer's stream is not read.
    receive_queue_bytes_max: int = 4 * MIB
    #: Gossip messages that the asyncio side has not seen yet; above it they are dropped, gossip is a hint.
    gossip_queue_max: int = 256
    #: Dials in flight: a handshake costs some milliseconds of CPU at each end.
    dials_max: int = 16
    #: Addresses tried for one peer, all at once; a record lists at most 8.
    addresses_per_dial_max: int = 8
    #: A handshake that takes longer is a scanner or an overloaded host.
    handshake_s: float = 5.0
    #: … and after this, when all places are taken, it loses its own to a newcomer: five round trips of 200 ms.
    handshake_fair_s: float = 1.0
    #: Time for both sides to agree on the control stream of a new connection.
    link_s: float = 10.0
    #: Links that may break at once, one after the other, before the connection is closed.
    link_failures_max: int = 5
    #: Malformed pubsub frames before the peer is hung up. An honest peer sends none; each costs about a millisecond to
    #: refuse.
    malformed_max: int = 500
    #: Streams that carry chunks to others at once (of one peer: one): each shares the connection with control frames, and
    #: the rate below with the others.
    carried_uploads_max: int = 4
    #: What all of them together send: 17 CPU-seconds for a gigabyte over both ends (measured), so this is 7 % of a
    #: core at each.
    carried_bytes_per_s: float = 8e6
    #: A stream that was opened to carry, and does not say what, is reset.
    carried_request_s: float = 5.0
    #: A piece that is not through by then has no reader that matters.
    carried_stall_s: float = 10.0
