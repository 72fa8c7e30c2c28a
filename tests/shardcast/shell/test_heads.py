from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from shardcast.shell.channels import FollowedChannel
from shardcast.shell.heads import ANNOUNCES_WAITING_MAX, GOSSIP, REFUSAL_LOG_INTERVAL_S, REFUSALS_LOGGED_MAX, Heads
from shardcast_proto import messages
from shardcast_proto.errors import ShardcastError, TrustError
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import PeerId
from shardcast_proto.trust import Announce, SignedHead, sign_root
from tests.proto.trust.actors import NOW_S, ROOT_KEY, head_bytes, key, make_root, pin, successor
from tests.shardcast.shell.fake_swarm import FaultyStore

ONE, TWO = key("one").peer, key("two").peer


class Desk:
    """A `Heads` with everything around it written down."""

    def __init__(self, store: FaultyStore) -> None:
        self.store, self.now_s = store, 1000.0
        self.sent: list[tuple[PeerId, Any]] = []
        self.followed: list[int] = []
        self.gossiped: list[bytes] = []
        self.store_errors: list[ShardcastError] = []
        self.channel = FollowedChannel.open(sign_root(make_root(), [ROOT_KEY]), store, [], now_s=NOW_S)
        self.heads = Heads(
            {self.channel.id: self.channel},
            send=lambda peer, message: self.sent.append((peer, message)),
            follow=self._follow,
            gossip=self._gossip,
            changed=lambda: None,
            on_store_error=self.store_errors.append,
            clock=lambda: self.now_s,
        )

    async def _follow(self, channel: FollowedChannel, signed: SignedHead, source: PeerId) -> None:
        self.followed.append(signed.head.seq)

    async def _gossip(self, channel: FollowedChannel, announce: bytes) -> None:
        self.gossiped.append(announce)

    def hear(self, announce: bytes, peer: PeerId = ONE) -> None:
        assert self.heads.receive(peer, messages.HeadIs(self.channel.id, announce)) is None

    async def judged(self) -> None:
        async with asyncio.timeout(5):
            await self.heads._waiting.join()


@pytest.fixture
async def idle(tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk that judges nothing."""
    with FaultyStore.at(tmp_path / "data") as store:
        assert isinstance(store, FaultyStore)
        yield Desk(store)


@pytest.fixture
async def desk(idle: Desk) -> AsyncIterator[Desk]:
    running = asyncio.ensure_future(idle.heads.run())
    yield idle
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


def announce(seq: int, content: str | None = None) -> bytes:
    return Announce(head_bytes(pin(), seq, content)).encoded


async def test_one_head_from_many_is_followed_once(desk: Desk) -> None:
    for peer in (ONE, TWO):
        desk.hear(announce(1), peer)
    await desk.judged()
    assert desk.followed == [1]


async def test_a_head_that_the_disk_refuses_is_not_counted_as_refused(desk: Desk) -> None:
    desk.store.faults["save_head"] = 1
    desk.hear(announce(1))
    await desk.judged()
    assert len(desk.store_errors) == 1 and not desk.heads.refused and desk.followed == []
    desk.hear(announce(1))
    await desk.judged()
    assert desk.followed == [1]


async def test_announcements_beyond_the_queue_are_dropped(idle: Desk) -> None:
    for seq in range(ANNOUNCES_WAITING_MAX + 7):
        idle.hear(announce(seq + 1))
    assert idle.heads.dropped == 7


async def test_what_is_known_already_takes_no_place_in_the_queue(desk: Desk) -> None:
    desk.hear(announce(1))
    await desk.judged()
    for _ in range(1000):
        desk.hear(announce(1))
    assert desk.heads.dropped == 0 and desk.heads._waiting.empty()


async def test_who_asks_for_the_head_is_told_it_or_that_there_is_none(desk: Desk) -> None:
    ask = messages.GetHead(desk.channel.id)
    desk.heads.receive(ONE, ask)
    desk.hear(announce(1))
    await desk.judged()
    desk.heads.receive(ONE, ask)
    assert [message.announce for _, message in desk.sent] == [b"", announce(1)]


async def test_an_ask_waits_until_the_last_answer_is_judged(desk: Desk) -> None:
    asking = asyncio.ensure_future(desk.heads.ask(desk.channel, [ONE, TWO]))
    await asyncio.sleep(0)
    assert [(peer, type(message)) for peer, message in desk.sent] == [(ONE, messages.GetHead), (TWO, messages.GetHead)]
    desk.hear(b"", ONE)
    assert not asking.done()
    desk.hear(announce(4), TWO)
    await asking
    assert desk.channel.shown.current.head.seq == 4


async def test_an_ask_that_nobody_answers_ends(desk: Desk) -> None:
    async with asyncio.timeout(5):
        await desk.heads.ask(desk.channel, [ONE])
    async with asyncio.timeout(5):
        await desk.heads.ask(desk.channel, [])


async def test_a_proof_is_spread_once_with_the_head_that_counts(desk: Desk) -> None:
    for said in (announce(1), announce(2, "a"), announce(2, "b"), announce(2, "b")):
        desk.hear(said)
    await desk.judged()
    assert desk.gossiped == [announce(2, "a"), announce(2, "b"), announce(1)]
    assert desk.heads.refused["equivocation"] == 2


async def test_refusals_are_logged_once_a_while_for_each_sender_and_never_without_end(desk: Desk) -> None:
    error = TrustError("no", reason="rollback")
    with structlog.testing.capture_logs() as lines:
        for _ in range(100):
            desk.heads.note_refusal(desk.channel, error, ONE)
        assert len(lines) == 1
        for number in range(1000):
            desk.heads.note_refusal(desk.channel, error, PeerId(f"invented {number}"))
        assert len(lines) == REFUSALS_LOGGED_MAX and len(desk.heads._logged) == REFUSALS_LOGGED_MAX
        desk.now_s += REFUSAL_LOG_INTERVAL_S
        desk.heads.note_refusal(desk.channel, error, ONE)
        assert len(lines) == REFUSALS_LOGGED_MAX + 1
    assert desk.heads.refused["rollback"] == 1101


async def test_refusals_of_the_gossip_thread_and_of_the_loop_are_all_counted(desk: Desk) -> None:
    def refuse() -> None:
        for number in range(500):
            desk.heads.note_refusal(desk.channel, TrustError("no", reason=f"reason {number}"), GOSSIP)

    work = [asyncio.to_thread(refuse) for _ in range(4)]
    gathered = asyncio.gather(*work)
    while not gathered.done():
        desk.heads.refused.total()
        await asyncio.sleep(0)
    assert desk.heads.refused.total() == 2000


async def test_a_head_of_an_unknown_key_leads_to_the_question_for_the_next_root(desk: Desk) -> None:
    desk.heads.note_refusal(desk.channel, TrustError("no", reason="unlisted_key"), ONE)
    desk.heads.note_refusal(desk.channel, TrustError("no", reason="unlisted_key"), GOSSIP)
    assert desk.sent == [(ONE, messages.GetRoot(desk.channel.id, 2))]


async def test_roots_are_taken_one_at_a_time_however_many_come(desk: Desk) -> None:
    channel = digest_of(make_root().encoded)
    data = sign_root(successor(make_root(), channel), [ROOT_KEY])
    said = messages.RootIs(desk.channel.id, data)
    work = [desk.heads.receive(ONE, said) for _ in range(50)]
    assert [one is not None for one in work] == [True] + [False] * 49
    assert work[0] is not None
    await work[0]
    assert desk.channel.shown.root.version == 2
    desk.heads.receive(ONE, messages.GetRoot(desk.channel.id, 2))
    assert desk.sent == [(ONE, messages.RootIs(desk.channel.id, data))]
