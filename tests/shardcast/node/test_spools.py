from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from shardcast.http.facade import PublishRequest
from shardcast.node.publishable import Publishable
from shardcast.node.spools import IDLE_S, SPOOLS_MAX, Spools
from shardcast_proto.errors import ConfigError, Conflict, NotFound, TrustError

#: Enough of them that one is always being renamed when it is looked at.
FILES = 50


@pytest.fixture
def now_s() -> list[float]:
    return [time.time()]


@pytest.fixture
def spools(tmp_path: Path, now_s: list[float]) -> Spools:
    made = Spools(tmp_path, clock=lambda: now_s[0])
    made.open()
    return made


def test_a_spool_is_an_empty_directory_of_its_own_user(spools: Spools, tmp_path: Path) -> None:
    lent = spools.lend()
    path = Path(lent["path"])
    assert path == tmp_path / "spool" / lent["spool"] and not list(path.iterdir())
    assert path.stat().st_mode & 0o777 == path.parent.stat().st_mode & 0o777 == 0o700
    assert spools.holds(path) and spools.holds(path / "below") and not spools.holds(path.parent)


def test_what_an_earlier_run_left_is_swept(spools: Spools) -> None:
    path = Path(spools.lend()["path"])
    (path / "shard").write_bytes(b"x")
    spools.open()
    assert not path.exists() and spools.root.is_dir()


def test_a_spool_is_dropped_once(spools: Spools) -> None:
    lent = spools.lend()
    (Path(lent["path"]) / "shard").write_bytes(b"x")
    spools.drop(lent["spool"])
    assert not Path(lent["path"]).exists()
    for name in (lent["spool"], "", ".", "..", "../objects", "/etc", "a/b", "a\0b"):
        with pytest.raises(NotFound):
            spools.drop(name)


def test_a_spool_that_is_being_published_stays(spools: Spools) -> None:
    lent = spools.lend()
    with spools.publishing(Path(lent["path"])):
        with pytest.raises(Conflict):
            spools.drop(lent["spool"])
        with pytest.raises(Conflict), spools.publishing(Path(lent["path"]) / "below"):
            pass
    with spools.publishing(Path("/elsewhere")):
        spools.drop(lent["spool"])


def test_spools_that_nobody_writes_to_make_room(spools: Spools, now_s: list[float]) -> None:
    lent = [spools.lend() for _ in range(SPOOLS_MAX)]
    with pytest.raises(Conflict):
        spools.lend()
    for index, spool in enumerate(lent):
        path = Path(spool["path"]) / "shard"
        path.write_bytes(b"x")
        os.utime(path, times=(now_s[0], now_s[0]))
        os.utime(path.parent, times=(now_s[0] - 2 * IDLE_S * (index == 0), now_s[0] - 2 * IDLE_S * (index == 0)))
    with pytest.raises(Conflict):
        spools.lend()
    first = Path(lent[0]["path"])
    os.utime(first / "shard", times=(now_s[0] - IDLE_S, now_s[0] - IDLE_S))
    spools.lend()
    assert not first.exists() and Path(lent[1]["path"]).exists()


def test_a_writer_that_renames_while_another_spool_is_lent_is_no_fault_of_the_disk(spools: Spools) -> None:
    folder, is_over = Path(spools.lend()["path"]), threading.Event()
    for number in range(FILES):
        (folder / f"{number}").write_bytes(b"x")

    def rename() -> None:
        while not is_over.is_set():
            for number in range(FILES):
                (folder / f"{number}").rename(folder / f"{number}.done")
                (folder / f"{number}.done").rename(folder / f"{number}")

    writer = threading.Thread(target=rename)
    writer.start()
    try:
        for _ in range(100):
            spools.drop(spools.lend()["spool"])
    finally:
        is_over.set()
        writer.join()
    assert len(list(folder.iterdir())) == FILES


def request(path: object, *, is_own_user: bool = False) -> PublishRequest:
    return PublishRequest(path=str(path), channel="demo", step=1, is_own_user=is_own_user)


def test_without_roots_only_the_nodes_own_user_names_what_it_likes(spools: Spools, tmp_path: Path) -> None:
    publishable = Publishable((), spools)
    assert publishable.resolve(request(tmp_path, is_own_user=True)) == tmp_path
    with pytest.raises(TrustError, match="own user"):
        publishable.resolve(request(tmp_path))
    spool = Path(spools.lend()["path"])
    assert publishable.resolve(request(spool)) == spool


def test_with_roots_everybody_stays_below_them_whatever_links_say(spools: Spools, tmp_path: Path) -> None:
    real, outside = tmp_path / "real", tmp_path / "outside"
    for path in (real / "ckpt", outside):
        path.mkdir(parents=True)
    (tmp_path / "root").symlink_to(real)
    (real / "out").symlink_to(outside)
    (outside / "in").symlink_to(real / "ckpt")
    publishable = Publishable((tmp_path / "root",), spools)
    for inside in (tmp_path / "root" / "ckpt", real / "ckpt", outside / "in", real / "not-yet" / "ckpt", real):
        assert publishable.resolve(request(inside)).is_relative_to(real)
    refused: list[Path | str] = [
        outside,
        real / "out",
        f"{real}/../outside",
        f"{real}-not",
        "/",
        spools.root,
        spools.root.parent,
    ]
    for wanted in refused:
        with pytest.raises(TrustError):
            publishable.resolve(request(wanted, is_own_user=True))


@pytest.mark.parametrize("path", ["", "ckpt", "./ckpt", "/a\0b"])
def test_what_is_no_absolute_path_is_refused(spools: Spools, path: str) -> None:
    with pytest.raises(ConfigError):
        Publishable((), spools).resolve(request(path, is_own_user=True))
