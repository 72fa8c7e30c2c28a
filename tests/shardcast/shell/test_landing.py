"""The landing of one fetch's chunks, in batches."""

from __future__ import annotations

import asyncio

import pytest

from shardcast.shell.landing import BATCH_BYTES, WAITING_BYTES_MAX, Batch, Landing

SOON_S = 5.0


class Disk:
    """Lands what it is given once the gate is open."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.gate = asyncio.Event()
        self.batches: list[list[int]] = []
        self.has_landed = asyncio.Event()
        if is_open:
            self.gate.set()

    async def land(self, batch: Batch) -> None:
        await self.gate.wait()
        self.batches.append([index for index, _ in batch])
        self.has_landed.set()


async def test_a_chunk_that_comes_alone_lands_when_nothing_follows():
    disk = Disk()
    landing = Landing(disk.land)
    await landing.take(3, [b"x"])
    await landing.finish()
    assert disk.batches == [[3]]


async def test_a_chunk_that_comes_alone_lands_after_a_moment():
    disk = Disk()
    landing = Landing(disk.land)
    await landing.take(3, [b"x"])
    async with asyncio.timeout(SOON_S):
        await disk.has_landed.wait()
    assert disk.batches == [[3]]


async def test_chunks_that_are_worth_the_way_land_at_once():
    disk = Disk()
    landing = Landing(disk.land)
    await landing.take(0, [b"x"])
    await landing.take(1, [bytes(BATCH_BYTES)])
    await asyncio.sleep(0)
    assert disk.batches == [[0, 1]]


async def test_what_comes_while_a_batch_lands_makes_the_next_batch():
    disk = Disk(is_open=False)
    landing = Landing(disk.land)
    await landing.take(0, [bytes(BATCH_BYTES)])
    await asyncio.sleep(0)
    for index in (1, 2, 3):
        await landing.take(index, [b"x"])
    disk.gate.set()
    await landing.finish()
    assert disk.batches == [[0], [1, 2, 3]]


async def test_a_source_that_is_faster_than_the_disk_is_made_to_wait():
    disk = Disk(is_open=False)
    landing = Landing(disk.land)
    await landing.take(0, [bytes(BATCH_BYTES)])
    await asyncio.sleep(0)
    waiting = asyncio.ensure_future(landing.take(1, [bytes(WAITING_BYTES_MAX)]))
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    disk.gate.set()
    async with asyncio.timeout(SOON_S):
        await waiting
    assert disk.batches == [[0], [1]]


async def test_a_chunk_that_is_refused_ends_the_landing():
    async def refuse(batch: Batch) -> None:
        raise ValueError("not what was promised")

    landing = Landing(refuse)
    await landing.take(0, [bytes(BATCH_BYTES)])
    with pytest.raises(ValueError, match="promised"):
        await landing.finish()
    with pytest.raises(ValueError, match="promised"):
        await landing.take(1, [b"x"])
    await landing.abandon()


async def test_what_was_taken_before_a_fetch_is_cancelled_lands_all_the_same():
    disk = Disk(is_open=False)
    landing = Landing(disk.land)
    await landing.take(0, [bytes(BATCH_BYTES)])
    await asyncio.sleep(0)
    await landing.take(1, [b"x"])
    asyncio.get_running_loop().call_later(0.01, disk.gate.set)
    async with asyncio.timeout(SOON_S):
        await landing.abandon()
    assert disk.batches == [[0], [1]]
