"""The gossip of topics: a guarded gossipsub 1.1.

Gossip is a hint: libp2p drops messages silently when queues of 32 are full, so whoever needs certainty asks its peers
(`get_head`). What this module guarantees is the other direction: no message, whatever it holds, does more than cost its
sender a strike, and nothing over the size cap, of another topic, or refused by the validator is delivered or passed on.

The stock reader parses a frame and acts on it in one go; here reading, judging
and acting are apart. Peers' addresses in gossip (peer exchange, signed records) are not stored: addresses travel in
`peers` messages.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import trio
from google.protobuf.message import DecodeError
from libp2p.io.exceptions import IOException, MessageTooLarge
from libp2p.network.connection.exceptions import RawConnError
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from shardcast_proto.ids import PeerId, peer_id_of_key
from shardcast_proto.limits import GOSSIP_BYTES_MAX

from .guards import contain_tasks, reset_quietly
from .limits import (
    GOSSIP_DEGREE,
    GOSSIP_DEGREE_HIGH,
    GOSSIP_DEGREE_LOW,
    GOSSIP_HEARTBEAT_S,
    GOSSIP_RPC_BYTES_MAX,
    GOSSIP_RPC_ITEMS_MAX,
    GOSSIP_TOPIC_CHARS_MAX,
    P2pLimits,
)

log: Final = logging.getLogger("shardcast.p2p")

#: topic, sender, data; called on the trio side.
Deliver = Callable[[str, PeerId, bytes], None]
#: topic, data → may it pass; pure, called on the trio side.
Validate = Callable[[str, bytes], bool]


class Gossip:
    """Subscriptions and publishing of one host, on the trio side."""

    def __init__(self, pubsub: GuardedPubsub, nursery: trio.Nursery, deliver: Deliver) -> None:
        #: For the books of departed peers.
        self.pubsub = pubsub
        self._nursery = nursery
        self._deliver = deliver

    async def subscribe(self, topic: str) -> None:
        """Join a topic; joining it again does nothing."""
        if topic in self.pubsub.topic_ids:
            return
        # Before the subscription exists: no message may slip through unjudged.
        self.pubsub.set_topic_validator(topic, self.pubsub.judge, True)
        subscription = await self.pubsub.subscribe(topic)
        self._nursery.start_soon(self._pump, topic, subscription)

    async def publish(self, topic: str, data: bytes) -> None:
        """Send a message to the neighbours of a topic."""
        await self.pubsub.publish(topic, data)

    async def _pump(self, topic: str, subscription: Any) -> None:
        """Move messages out of libp2p's queue of 32 as fast as they come."""
        while True:
            message = await subscription.get()
            sender = _signer(message.from_id)
            if sender is not None and message.from_id != self.pubsub.my_id.to_bytes():
                self._deliver(topic, sender, bytes(message.data))


@asynccontextmanager
async def run_gossip(
    host: Any, validate: Validate, deliver: Deliver, *, limits: P2pLimits, hang_up: Callable[[ID], None]
) -> AsyncIterator[Gossip]:
    """Run gossip on a running host."""
    router = GuardedRouter()
    pubsub = GuardedPubsub(host, router, validate, malformed_max=limits.malformed_max, hang_up=hang_up)
    try:
        async with background_trio_service(pubsub) as pubsub_tasks, background_trio_service(router) as router_tasks:
            contain_tasks(pubsub_tasks)
            contain_tasks(router_tasks)
            await pubsub.wait_until_ready()
            async with trio.open_nursery() as nursery:
                yield Gossip(pubsub, nursery, deliver)
                nursery.cancel_scope.cancel()
    finally:
        # Its sweeper is a thread that waits on this event; joining it here would block the loop.
        pubsub.seen_messages._stop_event.set()


class GuardedRouter(GossipSub):
    """gossipsub 1.1 without the extras, deaf to topics that we have not joined."""

    def __init__(self) -> None:
        super().__init__(
            [PROTOCOL_ID_V11],
            GOSSIP_DEGREE,
            GOSSIP_DEGREE_LOW,
            GOSSIP_DEGREE_HIGH,
            heartbeat_interval=GOSSIP_HEARTBEAT_S,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
        )
        # Its signs are inverted (spec-style weights reward a spammer) and a bad peer stays in the mesh: reputation is
        # the machine's.
        self.scorer = None

    async def handle_ihave(self, ihave_msg: rpc_pb2.ControlIHave, sender_peer_id: ID) -> None:
        """Ask for unknown messages of a joined topic."""
        if ihave_msg.topicID in self.mesh:
            await super().handle_ihave(ihave_msg, sender_peer_id)

    async def handle_graft(self, graft_msg: rpc_pb2.ControlGraft, sender_peer_id: ID) -> None:
        """Take a peer into the mesh of a joined topic (upstream remembers every topic ever named)."""
        if graft_msg.topicID in self.mesh:
            await super().handle_graft(graft_msg, sender_peer_id)

    async def handle_prune(self, prune_msg: rpc_pb2.ControlPrune, sender_peer_id: ID) -> None:
        """Drop a peer from the mesh of a joined topic."""
        if prune_msg.topicID in self.mesh:
            await super().handle_prune(prune_msg, sender_peer_id)

    async def _do_px(self, px_peers: list[rpc_pb2.PeerInfo]) -> None:
        # Upstream would dial whatever addresses a peer names.
        await trio.lowlevel.checkpoint()


class GuardedPubsub(Pubsub):
    """Pubsub whose inbound path contains every failure and counts it against the peer."""

    def __init__(
        self, host: Any, router: GuardedRouter, validate: Validate, *, malformed_max: int, hang_up: Callable[[ID], None]
    ) -> None:
        super().__init__(
            host,
            router,
            max_subscriptions_per_rpc=GOSSIP_RPC_ITEMS_MAX,
            max_subscriptions_per_peer=GOSSIP_RPC_ITEMS_MAX,
            max_inbound_rpc_size=GOSSIP_RPC_BYTES_MAX,
        )
        # Sequence numbers must rise across restarts, or others take our messages for repeats; upstream starts from
        # whole seconds.
        self.counter = time.time_ns()
        self._validate = validate
        self._malformed_max = malformed_max
        self._hang_up = hang_up
        #: Malformed frames per connected peer; at `malformed_max` the peer is hung up.
        self._strikes: Counter[ID] = Counter()
        #: Messages between "not seen yet" and "seen": upstream lets a second copy through while it judges the first.
        self._in_judgement: set[bytes] = set()

    def forget(self, peer: ID) -> None:
        """Drop the strikes of a peer that left."""
        self._strikes.pop(peer, None)

    async def judge(self, forwarder: ID, message: rpc_pb2.Message) -> bool:
        """Say whether a message may be delivered and passed on."""
        if forwarder == self.my_id:
            return True
        try:
            return self._validate(message.topicIDs[0], bytes(message.data))
        except Exception:
            log.warning("the gossip validator failed; message dropped", exc_info=True)
            return False

    async def continuously_read_stream(self, stream: Any) -> None:
        """Read frames until the stream ends; a frame that makes no sense is dropped and counted."""
        peer = stream.muxed_conn.peer_id
        try:
            while self.manager.is_running:
                frame = await read_varint_prefixed_bytes_limited(stream, self.max_inbound_rpc_size)
                await self._take_frame(peer, frame)
        except MessageTooLarge:
            self._strike(peer, "too large")
            await reset_quietly(stream)
            self._handle_dead_peer(peer)
        except (IOException, RawConnError) as error:
            log.debug("gossip stream of %s ended: %s", peer, error)

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Judge a message, then deliver it and pass it on."""
        if msg_forwarder == self.my_id:
            await super().push_msg(msg_forwarder, msg)
            return
        if len(msg.topicIDs) != 1 or len(msg.data) > GOSSIP_BYTES_MAX or _signer(msg.from_id) is None:
            self._strike(msg_forwarder, "message out of bounds")
            return
        message_id = self.get_message_id(msg)
        if message_id in self._in_judgement:
            return
        # A forged message cannot hold the place of the true one: its signature is checked before the first await below.
        self._in_judgement.add(message_id)
        try:
            await super().push_msg(msg_forwarder, msg)
        except Exception:  # noqa: BLE001 - a libp2p guard: upstream lets it end the process
            self._strike(msg_forwarder, "message that cannot be judged")
        finally:
            self._in_judgement.discard(message_id)

    def handle_subscription(self, origin_id: ID, sub_message: rpc_pb2.RPC.SubOpts) -> None:
        """Note what a peer subscribes to."""
        if len(sub_message.topicid) <= GOSSIP_TOPIC_CHARS_MAX:
            super().handle_subscription(origin_id, sub_message)

    async def _take_frame(self, peer: ID, frame: bytes) -> None:
        try:
            rpc = rpc_pb2.RPC()
            rpc.ParseFromString(frame)
            await self._act_on(peer, rpc)
        except DecodeError:
            self._strike(peer, "malformed pubsub frame")
        except Exception:
            log.debug("malformed pubsub frame of %s", peer, exc_info=True)
            self._strike(peer, "malformed pubsub frame")

    async def _act_on(self, peer: ID, rpc: rpc_pb2.RPC) -> None:
        control = rpc.control
        entries = len(control.ihave) + len(control.iwant) + len(control.graft) + len(control.prune)
        if max(len(rpc.publish), len(rpc.subscriptions), entries, len(control.idontwant)) > GOSSIP_RPC_ITEMS_MAX:
            self._strike(peer, "too many items")
            return
        # A signed record of the sender is not consumed: it holds addresses, and we have other sources for those.
        rpc.ClearField("senderRecord")
        for subscription in rpc.subscriptions:
            self.handle_subscription(peer, subscription)
        for message in rpc.publish:
            if self._is_subscribed_to_msg(message):
                await self.push_msg(peer, message)
        if rpc.HasField("control"):
            await self.router.handle_rpc(rpc, peer)

    def _strike(self, peer: ID, reason: str) -> None:
        self._strikes[peer] += 1
        if self._strikes[peer] == self._malformed_max:
            log.warning("hanging up %s: %d malformed pubsub frames, the last: %s", peer, self._malformed_max, reason)
            self._hang_up(peer)


def _signer(from_id: bytes) -> PeerId | None:
    """Return the peer id in a message's `from`, when it is the id of an Ed25519 key."""
    # The identity multihash of the protobuf-encoded key: two bytes of multihash, four of protobuf, the key.
    if len(from_id) != 38 or from_id[:6] != b"\x00\x24\x08\x01\x12\x20":
        return None
    return peer_id_of_key(from_id[6:])
