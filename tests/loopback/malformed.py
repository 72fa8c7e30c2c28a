"""Malformed pubsub frames: noise, cut RPCs, RPCs with random content. Made from random numbers; none is kept."""

from __future__ import annotations

import random

from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils import encode_varint_prefixed


def malformed_frame(chooser: random.Random, topic: str) -> bytes:
    """Return one length-prefixed frame: noise, a cut RPC, or an RPC with random content."""
    kind = chooser.randrange(4)
    if kind == 0:
        return bytes(encode_varint_prefixed(chooser.randbytes(chooser.randrange(1, 120))))
    rpc = _random_rpc(chooser, topic).SerializeToString()
    if kind == 1:
        return bytes(encode_varint_prefixed(rpc[: chooser.randrange(1, len(rpc))]))
    if kind == 2:
        damaged = bytearray(rpc)
        damaged[chooser.randrange(len(damaged))] ^= 1 << chooser.randrange(8)
        return bytes(encode_varint_prefixed(bytes(damaged)))
    return bytes(encode_varint_prefixed(rpc))


def _random_rpc(chooser: random.Random, topic: str) -> rpc_pb2.RPC:
    def noise() -> bytes:
        return chooser.randbytes(chooser.choice([0, 1, 8, 32, 38, 64]))

    rpc = rpc_pb2.RPC()
    for _ in range(chooser.randrange(1, 4)):
        topics = chooser.choices([topic, "", noise().hex()], k=chooser.randrange(3))
        rpc.publish.add(from_id=noise(), seqno=noise(), data=noise(), topicIDs=topics, key=noise(), signature=noise())
    for _ in range(chooser.randrange(3)):
        rpc.subscriptions.add(subscribe=chooser.random() < 0.5, topicid=chooser.choice([topic, noise().hex()]))
    if chooser.random() < 0.5:
        rpc.control.graft.add(topicID=chooser.choice([topic, noise().hex()]))
        rpc.control.prune.add(topicID=topic, backoff=chooser.getrandbits(chooser.choice([1, 20, 63])))
        rpc.control.prune[0].peers.add(peerID=noise(), signedPeerRecord=noise())
    if chooser.random() < 0.3:
        rpc.senderRecord = noise()
    return rpc
