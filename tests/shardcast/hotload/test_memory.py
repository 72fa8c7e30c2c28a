"""Which memory is taken, by what is free."""

from __future__ import annotations

import pytest

from shardcast.hotload.memory import MemoryWish, choose_memory, host_free_bytes
from shardcast_proto.errors import HotLoadError
from tests.shardcast.hotload.weights import filled, live_of, loader_of, published, recorder, snapshot, torch

GB = 10**9


@pytest.mark.parametrize(
    ("device", "host", "copies", "expected"),
    [
        (20, 20, 1, ("device", "host", 10, 13)),
        (25, 5, 1, ("device", "device", 20, 3)),
        (5, 30, 1, ("host", "host", 0, 23)),
        (5, 15, 1, ("inplace", "host", 0, 13)),
        (12, 5, 0, ("device", "none", 10, 3)),
        (5, 15, 0, ("host", "none", 0, 13)),
        (5, 5, 0, ("inplace", "none", 0, 3)),
    ],
)
def test_the_fastest_plan_that_fits_is_taken(device, host, copies, expected):
    wish = MemoryWish("auto", copies, GB, 3)
    plan = choose_memory(wish, 10 * GB, (device * GB, host * GB), shares_memory=False, can_stream=True)
    assert (plan.staging, plan.rollback, plan.device_bytes // GB, plan.host_bytes // GB) == expected
    assert plan.fits and plan.describe().startswith(f"staging {plan.staging}, old weights {plan.rollback}: ")


def test_where_nothing_fits_the_least_is_named():
    with pytest.raises(HotLoadError, match="no memory to stage the weights in") as refused:
        choose_memory(MemoryWish("auto", 1, GB, 3), 10 * GB, (GB, GB), shares_memory=False, can_stream=True)
    assert refused.value.facts["needed_bytes"] == 13 * GB
    assert "rollback_copies=0" in (refused.value.hint or "")


def test_on_a_cpu_everything_is_host_memory():
    plan = choose_memory(
        MemoryWish("device", 1, GB, 3), 10 * GB, (30 * GB, 30 * GB), shares_memory=True, can_stream=True
    )
    assert (plan.device_bytes, plan.host_bytes) == (0, 23 * GB)
    assert 0 < host_free_bytes() < 1 << 50


def test_memory_is_taken_once_and_again_when_the_tensors_change(tmp_path):
    live = {"w": torch.zeros(1000)}
    backend = recorder(live)
    with loader_of(live, backend=backend) as loader:
        for seed in range(3):
            loader.load(published(tmp_path / str(seed), {"w": filled(seed, torch.float32, 1000)}))
            loader.commit()
        taken = dict(backend.taken)
        assert backend.calls["host_memory"] + backend.calls["device_memory"] == 5
        live["x"] = torch.zeros(5000)
        more = {"w": filled(8, torch.float32, 1000), "x": filled(9, torch.float32, 5000)}
        loader.load(published(tmp_path / "more", more))
        loader.commit()
        assert snapshot(live) == snapshot(more)
        assert sum(backend.taken.values()) > sum(taken.values())
    assert sum(backend.taken.values()) == 0


def test_a_load_without_memory_is_refused_before_anything_is_taken(tmp_path):
    tensors = {"w": filled(1, torch.float32, 1000)}
    live = live_of(tensors)
    backend = recorder(live)
    backend.free_bytes = lambda: (100, 100)  # type: ignore[method-assign]
    before = snapshot(live)
    with loader_of(live, backend=backend) as loader:
        with pytest.raises(HotLoadError, match="no memory to stage"):
            loader.load(published(tmp_path / "v", tensors))
        assert sum(backend.taken.values()) == 0
    assert snapshot(live) == before
