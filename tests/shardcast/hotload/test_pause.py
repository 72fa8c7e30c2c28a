"""Readers that hold the pause see one version, whole; a commit waits for them, and not for ever."""

from __future__ import annotations

import threading

import pytest

from shardcast.hotload.pause import Pause
from shardcast_proto.errors import HotLoadError
from tests.shardcast.hotload.weights import filled, loader_of, published, snapshot, torch


def weights(value: int):
    return {f"layer.{number}": torch.full((64, 512), value, dtype=torch.int32) for number in range(12)}


@pytest.mark.parametrize("staging", ["device", "inplace"])
def test_readers_never_see_a_mixture_and_stamp_what_they_saw(tmp_path, staging):
    versions = [published(tmp_path / str(value), weights(value)) for value in range(4)]
    value_of = {version.digest: value for value, version in enumerate(versions)}
    live = weights(-1)
    faults: list[str] = []
    seen: set[int] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            with loader.serving():
                values = {int(tensor[row, 7]) for tensor in live.values() for row in (0, 31, 63)}
                expected = value_of.get(loader.current or "", -1)
            seen.update(values)
            if values != {expected}:
                faults.append(f"{values} as {expected}")

    with loader_of(live, staging=staging) as loader:
        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for turn in range(40):
            if turn % 5 == 4:
                loader.rollback()
            else:
                loader.load(versions[turn % 4])
                loader.commit()
        stop.set()
        for thread in threads:
            thread.join(60)
    assert faults == []
    assert len(seen) > 1


def test_a_commit_waits_for_the_batch_under_way_and_gives_up_in_time(tmp_path):
    live = {"w": torch.zeros(100, dtype=torch.uint8)}
    version = published(tmp_path / "v", {"w": filled(1, torch.uint8, 100)})
    inside, go_on = threading.Event(), threading.Event()

    def batch() -> None:
        with loader.serving(), loader.serving():
            inside.set()
            go_on.wait(60)

    with loader_of(live) as loader:
        loader.load(version)
        thread = threading.Thread(target=batch)
        thread.start()
        assert inside.wait(60)
        with pytest.raises(HotLoadError, match=r"a batch was still under way after 0\.05 s") as late:
            loader.commit(timeout_s=0.05)
        assert late.value.facts["reason"] == "timeout"
        assert not live["w"].any() and loader.staged is not None
        go_on.set()
        assert loader.commit(timeout_s=60).waited_seconds >= 0
        thread.join(60)
    assert snapshot(live) == {"w": filled(1, torch.uint8, 100).numpy().tobytes()}


def test_a_commit_inside_a_batch_of_its_own_thread_is_refused(tmp_path):
    live = {"w": torch.zeros(100, dtype=torch.uint8)}
    with loader_of(live) as loader:
        loader.load(published(tmp_path / "v", {"w": filled(1, torch.uint8, 100)}))
        with loader.serving(), pytest.raises(HotLoadError, match="would wait for itself"):
            loader.commit()
        loader.commit()


def test_new_readers_wait_for_a_writer_that_waits():
    pause, order = Pause(), []
    inside, go_on = threading.Event(), threading.Event()

    def first() -> None:
        with pause.serving():
            inside.set()
            go_on.wait(60)

    def writer() -> None:
        with pause.alone(60):
            order.append("writer")

    def second() -> None:
        with pause.serving():
            order.append("reader")

    threads = [threading.Thread(target=work) for work in (first, writer, second)]
    threads[0].start()
    assert inside.wait(60)
    threads[1].start()
    with pause._changed:
        assert pause._changed.wait_for(lambda: pause._waiting == 1, 60)
    threads[2].start()
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert order == ["writer", "reader"]
