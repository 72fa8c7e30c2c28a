"""The road of announcements: from the wire to the trust state, one after another.

A head is judged on a worker thread and on disk before anybody hears of it. The queue is bounded and drops when somebody floods it:
gossip is a hint, and heads are asked for again every few seconds.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

import structlog

from shardcast_proto import messages
from shardcast_proto.errors import ShardcastError, StoreError
from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.trust import Reason, SignedHead

from .channels import FollowedChannel

#: Announcements that wait to be judged; each costs a disk sync when it is new. More is a flood.
ANNOUNCES_WAITING_MAX: Final = 256
#: One line per sender and reason in this time, and so many in all: a flood of refused heads must not fill the log, from however many
#: invented senders it comes.
REFUSAL_LOG_INTERVAL_S: Final = 10.0
REFUSALS_LOGGED_MAX: Final = 32
#: How long a publisher waits for its neighbours to say which head they know.
ASK_TIMEOUT_S: Final = 0.5
#: The name of the sender in refusals of the gossip validator, which is not told who sent a message.
GOSSIP: Final = PeerId("gossip")

_log = structlog.get_logger("shardcast.heads")


class Heads:
    """Judges what is announced.

    Args:
        send: Queues a control message.
        follow: Told of each head that was accepted from another peer.
        gossip: Gives an announcement to the swarm.
        changed: Called when a head or a beacon may have changed what this node shows.
        on_store_error: Told when the disk refused a head; it is asked for again soon.
        clock: Monotonic seconds, for the log's limits.
    """

    def __init__(
        self,
        channels: Mapping[Digest, FollowedChannel],
        *,
        send: Callable[[PeerId, messages.Message], None],
        follow: Callable[[FollowedChannel, SignedHead, PeerId], Awaitable[None]],
        gossip: Callable[[FollowedChannel, bytes], Awaitable[None]],
        changed: Callable[[], None],
        on_store_error: Callable[[StoreError], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._channels = channels
        self._gossip = gossip
        self._send = send
        self._follow = follow
        self._changed = changed
        self._on_store_error = on_store_error
        self._clock = clock
        self._waiting: asyncio.Queue[tuple[FollowedChannel, bytes, PeerId]] = asyncio.Queue(ANNOUNCES_WAITING_MAX)
        #: Channels whose heads somebody waits for: the peers that have not answered, and the event of the last answer.
        self._asked: dict[Digest, tuple[set[PeerId], asyncio.Event]] = {}
        #: Channels whose next root is being judged: one at a time, the sender of another one sends it again.
        self._rooting: set[Digest] = set()
        #: The refusals that were logged since `_logging_since_s`, by sender and reason.
        self._logged: set[tuple[str, str]] = set()
        self._logging_since_s = float("-inf")
        self._refused: Counter[str] = Counter()
        #: Guards the three above: the gossip validator refuses on another thread.
        self._refusal_lock = threading.Lock()
        #: Announcements that found the queue full.
        self.dropped = 0

    @property
    def refused(self) -> Counter[str]:
        """Heads that were refused, by reason."""
        with self._refusal_lock:
            return self._refused.copy()

    async def run(self) -> None:
        """Judge announcements until cancelled."""
        while True:
            channel, data, source = await self._waiting.get()
            try:
                accepted = await asyncio.to_thread(channel.take_announce, data, now_s=time.time())
            except StoreError as error:
                _log.error("head_not_kept", channel=channel.name, source=source, error=error.describe())
                self._on_store_error(error)
            except ShardcastError as error:
                is_new_proof = error.facts.pop("new_proof", False)
                self.note_refusal(channel, error, source)
                if is_new_proof:
                    await self._spread_proof(channel)
            else:
                if accepted is not None:
                    await self._follow(channel, accepted, source)
                self._changed()
            self._answered(channel.id, source)
            self._waiting.task_done()

    def queue(self, channel: FollowedChannel, data: bytes, source: PeerId) -> None:
        """Judge an announcement soon; one that says what is known costs nothing."""
        if data == channel.shown.announce:
            self._answered(channel.id, source)
            return
        try:
            self._waiting.put_nowait((channel, data, source))
        except asyncio.QueueFull:
            self.dropped += 1

    def receive(
        self, peer: PeerId, message: messages.GetHead | messages.HeadIs | messages.GetRoot | messages.RootIs
    ) -> Coroutine[Any, Any, None] | None:
        """Answer a question about heads or roots, or take the answer to one; what is returned is to be awaited."""
        channel = self._channels.get(message.channel)
        if channel is None:
            return None
        if isinstance(message, messages.GetHead):
            for announce in channel.shown.answer or (b"",):
                self._send(peer, messages.HeadIs(channel.id, announce))
        elif isinstance(message, messages.GetRoot):
            self._send(peer, messages.RootIs(channel.id, channel.shown.roots.get(message.version, b"")))
        elif isinstance(message, messages.RootIs):
            return self._root_came(channel, message.root)
        elif message.announce:
            self.queue(channel, message.announce, peer)
        else:
            self._answered(channel.id, peer)
        return None

    async def ask(self, channel: FollowedChannel, peers: Sequence[PeerId]) -> None:
        """Ask peers for their newest head and wait a moment until the answers are judged.

        A publisher does this before it signs, so that one with an old data directory does not sign a seq that is taken.
        """
        if not peers:
            return
        answered = asyncio.Event()
        self._asked[channel.id] = (set(peers), answered)
        for peer in peers:
            self._send(peer, messages.GetHead(channel.id))
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                await answered.wait()
                await self._waiting.join()
        except TimeoutError:
            _log.info("heads_unanswered", channel=channel.name, peers=len(peers))
        finally:
            del self._asked[channel.id]

    def note_refusal(self, channel: FollowedChannel, error: ShardcastError, source: PeerId) -> None:
        """Count and log a refused head; ask for the next root when that may be why."""
        reason = str(error.facts.get("reason", error.code))
        with self._refusal_lock:
            self._refused[reason] += 1
            now_s = self._clock()
            if now_s - self._logging_since_s >= REFUSAL_LOG_INTERVAL_S:
                self._logging_since_s = now_s
                self._logged.clear()
            if (source, reason) in self._logged or len(self._logged) >= REFUSALS_LOGGED_MAX:
                return
            self._logged.add((source, reason))
        _log.warning("head_refused", channel=channel.name, reason=reason, source=source, error=error.describe())
        if reason in (Reason.EPOCH_AHEAD, Reason.UNLISTED_KEY) and source != GOSSIP:
            self._send(source, messages.GetRoot(channel.id, channel.shown.root.version + 1))

    def _answered(self, channel: Digest, peer: PeerId) -> None:
        if channel in self._asked:
            peers, answered = self._asked[channel]
            peers.discard(peer)
            if not peers:
                answered.set()

    async def _spread_proof(self, channel: FollowedChannel) -> None:
        """Show the swarm both heads of a place, so that everybody refuses both and every origin goes on above it."""
        for announce in channel.shown.answer:
            await self._gossip(channel, announce)

    def _root_came(self, channel: FollowedChannel, data: bytes) -> Coroutine[Any, Any, None] | None:
        if not data or channel.id in self._rooting:
            return None
        self._rooting.add(channel.id)
        return self._take_root(channel, data)

    async def _take_root(self, channel: FollowedChannel, data: bytes) -> None:
        try:
            is_new = await asyncio.to_thread(channel.take_root, data, now_s=time.time())
        except ShardcastError as error:
            _log.warning("root_refused", channel=channel.name, error=error.describe())
            return
        finally:
            self._rooting.discard(channel.id)
        if is_new:
            _log.info("root_accepted", channel=channel.name, version=channel.shown.root.version)
