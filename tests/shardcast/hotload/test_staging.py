"""Whatever the shapes, types, ties, shards and slabs: what is live is what was published, and no rule of the device is broken."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardcast.hotload import HotLoader, VersionOnDisk
from shardcast.hotload.backend import CpuBackend
from shardcast.hotload.recording import RecordingBackend, RuleBroken
from tests.shardcast.hotload.weights import (
    CHUNK,
    DTYPES,
    every_kind,
    filled,
    live_of,
    open_files,
    pointers,
    published,
    recorder,
    snapshot,
    torch,
)

SHAPES = st.one_of(
    st.just(()),
    st.lists(st.integers(0, 7), min_size=1, max_size=4).map(tuple),
    # larger than a chunk, or than a slab
    st.tuples(st.integers(300, 700), st.integers(300, 700)),
)


@st.composite
def models(draw):
    """Return tensors, some of them twice."""
    tensors, names = {}, iter(f"t{number}" for number in range(20))
    for _ in range(draw(st.integers(1, 6))):
        tensor = filled(draw(st.integers(0, 1000)), draw(st.sampled_from(DTYPES)), *draw(SHAPES))
        for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
            tensors[next(names)] = tensor
    return tensors


@settings(max_examples=60)
@given(
    tensors=models(),
    staging=st.sampled_from(["auto", "device", "host", "inplace"]),
    chunks=st.integers(1, 3),
    slabs=st.integers(3, 5),
    shard_bytes=st.sampled_from([1, 200_000, 5_000_000]),
    rollback_copies=st.integers(0, 1),
)
def test_any_model_is_loaded_byte_for_byte(tensors, staging, chunks, slabs, shard_bytes, rollback_copies):
    if not any(tensor.nbytes for tensor in tensors.values()):
        tensors["some"] = torch.ones(1)
    files = open_files()
    with tempfile.TemporaryDirectory() as home:
        version = published(Path(home) / "v", tensors, shard_bytes=shard_bytes)
        live = live_of(tensors)
        where, before, backend = pointers(live), snapshot(live), recorder(live)
        options = {"staging": staging, "slab_bytes": chunks * CHUNK, "slabs": slabs, "rollback_copies": rollback_copies}
        with HotLoader(live, backend=backend, **options) as loader:
            staged = loader.load(version)
            assert snapshot(live) == before
            assert backend.taken["host"] + backend.taken["device"] == staged.memory.host_bytes
            loader.commit()
            assert snapshot(live) == snapshot(tensors)
            loader.verify()
            if staged.can_restore:
                loader.rollback()
                assert snapshot(live) == before
        assert pointers(live) == where
    assert sum(backend.taken.values()) == 0
    assert open_files() == files


def test_a_chunk_that_holds_nothing_wanted_is_not_read(tmp_path):
    tensors = {
        "a": filled(1, torch.uint8, CHUNK * 2),
        "b": filled(2, torch.uint8, CHUNK * 3),
        "c": filled(3, torch.uint8, 9),
    }
    version = published(tmp_path / "v", tensors, shard_bytes=1 << 30)
    live = {"a": torch.zeros(CHUNK * 2, dtype=torch.uint8), "c": torch.zeros(9, dtype=torch.uint8)}
    backend = recorder(live)
    with HotLoader(live, backend=backend, names=lambda name: None if name == "b" else name, slab_bytes=CHUNK) as loader:
        loader.plan(version)
        headers = backend.calls["read"]
        loader.load(version)
        loader.commit()
    assert snapshot(live) == snapshot({name: tensors[name] for name in live})
    # three for `a`, which begins behind the header, one for `c`
    assert backend.calls["read"] - 2 * headers == 4


# --- the recorder itself ---


def memory_of(backend: RecordingBackend):
    stream, event = backend.stream(), backend.event()
    return stream, event, backend.host_memory(64), backend.device_memory(64)


def test_the_recorder_finds_a_slab_that_is_read_into_too_early(tmp_path):
    backend = recorder({})
    stream, event, slab, image = memory_of(backend)
    (tmp_path / "file").write_bytes(b"x" * 64)
    with (tmp_path / "file").open("rb") as file:
        backend.read(file.fileno(), memoryview(slab.numpy()), 0)
        with backend.issuing(stream):
            backend.copy(image, slab)
        backend.record(event, stream)
        with pytest.raises(RuleBroken, match="read into while copies out of it"):
            backend.read(file.fileno(), memoryview(slab.numpy())[:8], 0)
        assert not image.any()
        backend.wait(event)
        assert bytes(image.numpy()) == b"x" * 64
        backend.read(file.fileno(), memoryview(slab.numpy()), 0)


def test_the_recorder_finds_every_other_broken_rule():
    live = torch.zeros(64, dtype=torch.uint8)
    backend = recorder({"w": live})
    stream, event, slab, image = memory_of(backend)
    with pytest.raises(RuleBroken, match="never recorded"):
        backend.wait(event)
    with pytest.raises(RuleBroken, match="outside issuing"):
        backend.copy(image, slab)
    with pytest.raises(RuleBroken, match="outside a pause"), backend.issuing(stream):
        backend.copy(live[:8], slab[:8])
    with backend.issuing(stream):
        backend.copy(image, slab)
    with pytest.raises(RuleBroken, match="a pause begins while 1 copies"):
        backend.quiesce()
    with pytest.raises(RuleBroken, match="copies under way use"):
        backend.release(slab)
    backend.drain(stream)
    backend.quiesce()
    with backend.issuing(stream):
        backend.copy(live, slab)
    backend.drain(stream)
    with pytest.raises(RuleBroken, match="outside a pause"), backend.issuing(stream):
        backend.copy(live, slab)
    backend.release(slab)
    with pytest.raises(RuleBroken, match="was not taken"):
        backend.release(slab)


def test_tensors_of_every_kind_pass_a_ring_of_three_slabs_in_order(tmp_path):
    tensors = {**every_kind(0), "large": filled(7, torch.float32, 700, 900)}
    version = published(tmp_path / "v", tensors, shard_bytes=1 << 30)
    live = live_of(tensors)
    backend = RecordingBackend(CpuBackend(), live=list(live.values()))
    with HotLoader(live, backend=backend, slab_bytes=CHUNK) as loader:
        loader.load(VersionOnDisk(version.path, version.manifest))
        # every slab but the first three was waited for
        chunks = backend.calls["record"]
        assert chunks > 3 and backend.calls["wait"] == chunks - 3
        loader.commit()
    assert snapshot(live) == snapshot(tensors)
