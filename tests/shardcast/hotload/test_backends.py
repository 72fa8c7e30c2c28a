"""The same loads on every device: the CPU everywhere, CUDA where there is one."""

from __future__ import annotations

import pytest

from shardcast.hotload import CpuBackend, HotLoader
from shardcast.hotload.backend import backend_for
from shardcast_proto.errors import ConfigError
from tests.shardcast.hotload.weights import CHUNK, every_kind, live_of, pointers, published, snapshot, torch

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("rollback_copies", [0, 1])
@pytest.mark.parametrize("staging", ["auto", "device", "host", "inplace"])
@pytest.mark.parametrize("device", DEVICES)
def test_versions_are_loaded_in_turn(tmp_path, device, staging, rollback_copies):
    versions = {seed: published(tmp_path / str(seed), every_kind(seed)) for seed in (0, 100)}
    live = live_of(every_kind(0), device=device)
    where = pointers(live)
    with HotLoader(live, staging=staging, slab_bytes=CHUNK, rollback_copies=rollback_copies) as loader:
        for seed in (0, 100, 0, 100):
            loader.load(versions[seed])
            loader.commit()
            assert snapshot(live) == snapshot(every_kind(seed))
            assert loader.verify() > 0
        assert loader.rollback().digest == versions[0].digest
        assert snapshot(live) == snapshot(every_kind(0))
    assert pointers(live) == where


@pytest.mark.parametrize("device", DEVICES)
def test_a_backend_copies_records_and_gives_back(tmp_path, device):
    backend = backend_for(torch.device(device))
    (tmp_path / "file").write_bytes(bytes(range(256)))
    stream, event = backend.stream(), backend.event()
    slab, image = backend.host_memory(256), backend.device_memory(256)
    assert image.device.type == device == backend.device.type
    assert backend.host_memory(0).numel() == 0
    with (tmp_path / "file").open("rb") as file:
        assert backend.read(file.fileno(), memoryview(slab.numpy()), 0) == 256
    with backend.issuing(stream):
        backend.copy(image, slab)
    backend.record(event, stream)
    backend.wait(event)
    backend.drain(stream)
    backend.quiesce()
    assert bytes(image.cpu().numpy()) == bytes(range(256))
    assert all(free > 0 for free in backend.free_bytes())
    for memory in (slab, image):
        backend.release(memory)


def test_a_device_without_a_backend_is_refused():
    assert isinstance(backend_for(torch.device("cpu")), CpuBackend)
    with pytest.raises(ConfigError, match="tensors on 'mps' cannot be loaded into"):
        backend_for(torch.device("mps"))


@pytest.mark.gpu
def test_host_memory_is_page_locked_until_it_is_released():
    backend = backend_for(torch.device("cuda"))
    memory = backend.host_memory(1 << 20)
    assert memory.is_pinned()
    backend.release(memory)
    assert not memory.is_pinned()


@pytest.mark.gpu
@pytest.mark.parametrize("staging", ["device", "host", "inplace"])
def test_a_captured_graph_computes_with_the_new_weights(tmp_path, staging):
    weight = torch.ones(64, 64, device="cuda")
    x = torch.ones(64, device="cuda")
    torch.mv(weight, x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = torch.mv(weight, x)
    graph.replay()
    assert y.unique().tolist() == [64.0]
    version = published(tmp_path / "v", {"w": torch.full((64, 64), 2.0)})
    with HotLoader({"w": weight}, staging=staging, slab_bytes=CHUNK) as loader:
        loader.load(version)
        loader.commit()
        graph.replay()
        assert y.unique().tolist() == [128.0]
        loader.rollback()
        graph.replay()
        assert y.unique().tolist() == [64.0]
