from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from shardcast.http.facade import VersionView
from shardcast.node.leases import Leases
from shardcast.store import Store, VersionRow
from shardcast_proto.errors import NotFound, NotReady, StoreError, TransferError
from shardcast_proto.ids import Digest, format_digest
from tests.shardcast.store.trees import land_version, manifest_of, model

CONTENTS = model(1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "data") as opened:
        land_version(opened, CONTENTS)
        yield opened


def view(seed: int = 1) -> VersionView:
    digest = format_digest(manifest_of(model(seed)).digest)
    return cast(VersionView, {"manifest": digest, "channel": "demo", "seq": 1, "path": "/there"})


async def test_a_lease_ends_when_its_time_is_up(store: Store) -> None:
    now_s = [100.0]
    leases = Leases(store, clock=lambda: now_s[0])
    given = await leases.lease(view(), holder="vllm", ttl_s=30)
    assert list(store.leased().values()) == [["api:vllm"]] and given["path"] == "/there"
    now_s[0] = 129.9
    await leases.release_expired()
    assert store.leased()
    now_s[0] = 130.0
    await leases.release_expired()
    assert not store.leased()
    with pytest.raises(NotFound):
        leases.release(given["lease"])


async def test_a_lease_is_given_back_once(store: Store) -> None:
    leases = Leases(store)
    given = await leases.lease(view(), holder="vllm", ttl_s=30)
    leases.release(given["lease"])
    with pytest.raises(NotFound):
        leases.release(given["lease"])
    await leases.release_expired()
    assert not store.leased()


async def test_leases_of_callers_do_not_outlive_the_daemon_but_others_do(store: Store) -> None:
    digest = manifest_of(CONTENTS).digest
    await Leases(store).lease(view(), holder="vllm", ttl_s=1e9)
    store.lease(digest, "hotload")
    Leases(store)
    assert store.leased() == {digest: ["hotload"]}


async def test_an_open_file_is_leased_until_it_is_closed(store: Store) -> None:
    leases = Leases(store)
    opened = await leases.open_file(view(), "conf/config.json", holder="demo")
    assert opened.file.read() == CONTENTS["conf/config.json"] and opened.size == len(CONTENTS["conf/config.json"])
    await leases.release_expired()
    assert store.leased()
    opened.close()
    await leases.release_expired()
    assert not store.leased()


async def test_what_cannot_be_opened_leaves_no_lease(store: Store) -> None:
    leases = Leases(store)
    with pytest.raises(NotFound):
        await leases.open_file(view(), "../etc/passwd", holder="demo")
    with pytest.raises(NotReady):
        await leases.lease(view(2), holder="late", ttl_s=5)
    await leases.release_expired()
    assert not store.leased()


async def test_a_version_with_a_changed_file_is_not_leased(store: Store) -> None:
    digest = manifest_of(CONTENTS).digest
    path = store.data_dir / "versions" / digest.hex() / "b.weights"
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"other")
    leases = Leases(store)
    with pytest.raises(StoreError, match=r"b\.weights .* has other bytes"):
        await leases.lease(view(), holder="vllm", ttl_s=1e9)
    await leases.release_expired()
    assert not store.leased()
    row = store.version(digest)
    assert row is not None and row.state == "failed"


class SlowStore(Store):
    """A store that stops at one of its calls until it is told to go on."""

    stops_at = ""

    def prepare(self, call: str) -> None:
        self.stops_at, self._loop = call, asyncio.get_running_loop()
        self.has_stopped, self.may_go_on = asyncio.Event(), threading.Event()

    def lease(self, manifest: Digest, holder: str) -> int:
        self._stop("lease")
        return super().lease(manifest, holder)

    def version(self, manifest: Digest) -> VersionRow | None:
        self._stop("version")
        return super().version(manifest)

    def check_files(self, manifest: Digest) -> None:
        self._stop("check_files")
        super().check_files(manifest)

    def open_file(self, manifest: Digest, file_index: int) -> io.FileIO:
        self._stop("open_file")
        return super().open_file(manifest, file_index)

    def _stop(self, call: str) -> None:
        if self.stops_at == call:
            self._loop.call_soon_threadsafe(self.has_stopped.set)
            assert self.may_go_on.wait(10)


@pytest.fixture
def slow_store(tmp_path: Path) -> Iterator[SlowStore]:
    with SlowStore.open(tmp_path / "data") as opened:
        assert isinstance(opened, SlowStore)
        land_version(opened, CONTENTS)
        yield opened


@pytest.mark.parametrize("call", ["lease", "version", "check_files"])
async def test_a_caller_that_leaves_while_its_lease_is_written_down_leaves_none(
    slow_store: SlowStore, call: str
) -> None:
    leases = Leases(slow_store)
    await left_in_the_middle(leases.lease(view(), holder="vllm", ttl_s=1e9), slow_store, call)
    assert list(slow_store.leased().values()) == [["api:vllm"]]
    assert await leases.release_expired()
    assert not slow_store.leased() and not await leases.release_expired()


@pytest.mark.parametrize("call", ["lease", "version", "open_file"])
async def test_a_caller_that_leaves_while_its_file_is_opened_leaves_no_lease(slow_store: SlowStore, call: str) -> None:
    leases = Leases(slow_store)
    await left_in_the_middle(leases.open_file(view(), "conf/config.json", holder="demo"), slow_store, call)
    assert list(slow_store.leased().values()) == [["api:demo"]]
    assert await leases.release_expired()
    assert not slow_store.leased() and not await leases.release_expired()


async def left_in_the_middle(asking: Coroutine[None, None, object], store: SlowStore, call: str) -> None:
    """Cancel a request while a thread is in a call of the store, and return once that call is done."""
    loop = asyncio.get_running_loop()
    # one thread: what is given to it later is done later
    loop.set_default_executor(ThreadPoolExecutor(1))
    store.prepare(call)
    task = loop.create_task(asking)
    async with asyncio.timeout(10):
        await store.has_stopped.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    store.may_go_on.set()
    await asyncio.to_thread(bool)


async def test_a_lease_that_could_not_be_written_down_is_none(store: Store) -> None:
    leases = Leases(store, leases_max=1)
    store.close()
    for _ in range(2):
        with pytest.raises(StoreError, match="closed"):
            await leases.lease(view(), holder="vllm", ttl_s=30)
    assert not await leases.release_expired()


async def test_one_lease_too_many_is_refused_until_another_has_ended(store: Store) -> None:
    now_s = [0.0]
    leases = Leases(store, clock=lambda: now_s[0], leases_max=3)
    asked = [leases.lease(view(), holder="greedy", ttl_s=30) for _ in range(4)]
    given = [done for done in await asyncio.gather(*asked, return_exceptions=True) if isinstance(done, dict)]
    assert len(given) == 3
    for asking in (
        leases.lease(view(), holder="late", ttl_s=60),
        leases.open_file(view(), "empty.txt", holder="demo"),
    ):
        with pytest.raises(TransferError, match="3 leases are held") as caught:
            await asking
        assert caught.value.hint and caught.value.facts == {"reason": "busy", "leases_max": 3}
    assert list(store.leased().values()) == [["api:greedy"] * 3]
    leases.release(given[0]["lease"])
    await leases.lease(view(), holder="late", ttl_s=60)
    with pytest.raises(TransferError):
        await leases.lease(view(), holder="late", ttl_s=60)
    now_s[0] = 30.0
    await leases.lease(view(), holder="late", ttl_s=60)
    await leases.release_expired()
    assert list(store.leased().values()) == [["api:late"] * 2]
