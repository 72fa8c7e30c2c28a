from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from shardcast.http.facade import VersionView
from shardcast.node.leases import Leases
from shardcast.store import Store
from shardcast_proto.errors import NotFound, NotReady, StoreError
from shardcast_proto.ids import format_digest
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
