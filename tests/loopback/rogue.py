"""A peer that speaks the protocol but does not keep its rules: real control network, real data plane, false words or bytes."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from shardcast.http.bucket import TokenBucket
from shardcast.http.data_server import DataServer
from shardcast.p2p import P2pNode
from shardcast.shell.contacts import Contacts, OwnAddresses, endpoint_of
from shardcast.store import ChunkLocation
from shardcast.store.location import file_of
from shardcast_proto import messages
from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.manifest import Manifest
from shardcast_proto.trust import SigningKey


class FalseBytes:
    """A chunk source with one flipped bit in every chunk."""

    def __init__(self) -> None:
        self._file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - lives as long as the rogue
        self.manifest: Manifest | None = None
        self.asked_objects: list[Digest] = []
        self.asked_chunks = 0

    def copy(self, manifest: Manifest, path: Path) -> None:
        """Take the bytes of a checkpoint, falsified."""
        whole = bytearray()
        for row in manifest.files:
            whole += (path / row.path).read_bytes()
        offset = 0
        for index in range(manifest.blob.chunk_count):
            whole[offset + 17] ^= 0x10
            offset += manifest.chunk_span(index).length
        self._file.write(whole)
        self._file.flush()
        self.manifest = manifest

    def locate_run(self, blob: Digest, first: int, count: int) -> Sequence[ChunkLocation]:
        """Return falsified chunks."""
        self.asked_chunks += count
        manifest = self.manifest
        if manifest is None or blob != manifest.blob.id:
            return []
        lengths = [manifest.chunk_span(index).length for index in range(manifest.blob.chunk_count)]
        return [
            ChunkLocation(file_of(os.open(self._file.name, os.O_RDONLY)), sum(lengths[:index]), lengths[index])
            for index in range(first, min(first + count, len(lengths)))
        ]

    def object(self, digest: Digest) -> bytes | None:
        """Note what is asked for; have only the manifest."""
        self.asked_objects.append(digest)
        manifest = self.manifest
        return manifest.encoded if manifest is not None and digest == manifest.digest else None


class Rogue:
    """One such peer, joined to a daemon as its neighbour."""

    def __init__(self, channel: Digest, source: FalseBytes) -> None:
        self.channel = channel
        self.source = source
        self._seed = os.urandom(32)
        self.key = SigningKey(self._seed)
        self.on_message: Callable[[PeerId, messages.Message | messages.Unknown], None] = lambda peer, message: None
        self.p2p: P2pNode
        self._server: DataServer
        self._record = b""

    async def start(self) -> None:
        """Listen on both planes."""
        self._server = DataServer(self.source, bucket=TokenBucket(None))
        host, port = await self._server.start("127.0.0.1", 0)
        self.p2p = P2pNode(self._seed, ("127.0.0.1", 0), announce=None, events=self, validate=lambda topic, data: True)
        p2p_address = (await self.p2p.start())[0]
        contacts = Contacts(self.p2p.policy, self.key, clock=time.time)
        own = OwnAddresses((endpoint_of(p2p_address),), (f"{host}:{port}",), ("relay",), 10**9)
        self._record = contacts.own_record(own)

    async def join(self, peer: str, multiaddr: str) -> None:
        """Become a neighbour of a daemon."""
        await self.p2p.dial(PeerId(peer), [multiaddr], timeout_s=10)
        self.send(PeerId(peer), messages.Hello(self._record, (self.channel,), is_urgent=True))
        await asyncio.sleep(0.3)

    def send(self, peer: PeerId, message: messages.Message) -> None:
        """Say something."""
        assert self.p2p.send(peer, messages.encode(message))

    async def aclose(self) -> None:
        """End."""
        await self.p2p.aclose()
        await self._server.aclose()

    # P2pEvents

    def peer_connected(self, peer: PeerId, remote_ip: str) -> None:
        """Answer whoever comes with our Hello."""
        if self._record:
            self.p2p.send(peer, messages.encode(messages.Hello(self._record, (self.channel,), is_urgent=True)))

    def peer_disconnected(self, peer: PeerId) -> None:
        """Nothing to do."""

    def gossip_received(self, topic: str, sender: PeerId, data: bytes) -> None:
        """Nothing to do."""

    def frame_received(self, peer: PeerId, payload: bytes) -> None:
        """Claim to have everything that anybody wants."""
        message = messages.decode(payload)
        self.on_message(peer, message)
        if isinstance(message, messages.Want) and self.source.manifest is not None:
            self.send(peer, messages.Done(message.blob))


@asynccontextmanager
async def rogue(channel: Digest, source: FalseBytes | None = None) -> AsyncIterator[Rogue]:
    """Run one."""
    made = Rogue(channel, source or FalseBytes())
    await made.start()
    try:
        yield made
    finally:
        await made.aclose()
