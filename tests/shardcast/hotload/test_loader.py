"""The states of a loader: what is staged, current and previous, and what is refused in each."""

from __future__ import annotations

import gc
import threading
from types import SimpleNamespace

import pytest

from shardcast.hotload import HotLoader, VersionOnDisk
from shardcast_proto.errors import ConfigError, HotLoadError, IntegrityError, StoreError
from tests.shardcast.hotload.weights import (
    CHUNK,
    Model,
    every_kind,
    filled,
    live_of,
    loader_of,
    open_files,
    pointers,
    published,
    raw,
    recorder,
    snapshot,
    torch,
)

STAGINGS = ["device", "host", "inplace"]


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    home = tmp_path_factory.mktemp("loader")
    return [published(home / str(seed), every_kind(seed)) for seed in (0, 100, 200)]


@pytest.fixture
def live():
    return live_of(every_kind(0))


@pytest.mark.parametrize("staging", STAGINGS)
def test_a_model_becomes_what_was_published_where_it_is(staging, versions, live):
    where = pointers(live)
    with loader_of(live, staging=staging) as loader:
        before = snapshot(live)
        staged = loader.load(versions[0])
        assert snapshot(live) == before
        assert (loader.staged, loader.current) == (staged, None)
        done = loader.commit()
        assert snapshot(live) == snapshot(every_kind(0))
        assert pointers(live) == where
        assert (done.digest, done.previous, loader.current, loader.staged) == (
            versions[0].digest,
            None,
            done.digest,
            None,
        )
        tied = sum(tensor.nbytes for name, tensor in live.items() if name != "lm_head.weight")
        assert done.bytes == staged.bytes == tied
        assert done.pause_seconds > 0
        assert loader.verify() == tied


def test_a_torch_model_keeps_its_ties_and_what_is_not_persistent(tmp_path):
    trained, engine = Model(), Model()
    version = published(tmp_path / "v", trained.state_dict())
    cache, where = engine.cache.clone(), engine.embed.weight.data_ptr()
    with loader_of(engine) as loader:
        loader.load(version)
        loader.commit()
    assert torch.equal(engine.embed.weight, trained.embed.weight)
    assert torch.equal(engine.mean, trained.mean)
    assert torch.equal(engine.cache, cache)
    assert engine.head.weight is engine.embed.weight
    assert engine.embed.weight.data_ptr() == where
    assert engine.embed.weight.requires_grad


def test_a_model_of_inference_tensors_is_written(tmp_path):
    with torch.inference_mode():
        engine = {"w": torch.zeros(30, 20)}
    version = published(tmp_path / "v", {"w": filled(3, torch.float32, 30, 20)})
    with loader_of(engine) as loader:
        loader.load(version)
        loader.commit()
    assert snapshot(engine) == {"w": filled(3, torch.float32, 30, 20).numpy().tobytes()}


def test_a_live_tensor_with_gaps_is_written_and_what_lies_between_is_not(tmp_path):
    fused = filled(1, torch.float32, 64, 96)
    between = raw(fused[:, 32:])
    live = {"q": fused[:, :32], "t": filled(2, torch.float32, 20, 30).t()}
    new = {"q": filled(3, torch.float32, 64, 32), "t": filled(4, torch.float32, 30, 20)}
    version = published(tmp_path / "v", new)
    with loader_of(live) as loader:
        loader.load(version)
        loader.commit()
        assert loader.verify() == sum(tensor.nbytes for tensor in new.values())
        loader.rollback()
        assert raw(live["q"]) != raw(new["q"])
        loader.load(version)
        loader.commit()
    assert snapshot(live) == snapshot(new)
    assert raw(fused[:, 32:]) == between
    with pytest.raises(HotLoadError, match="not contiguous"), loader_of(live, staging="inplace") as loader:
        loader.load(version)


# --- order of calls ---


def test_a_newer_load_replaces_what_is_staged(versions, live):
    with loader_of(live) as loader:
        loader.load(versions[0])
        loader.load(versions[1])
        assert loader.commit().digest == versions[1].digest
        assert snapshot(live) == snapshot(every_kind(100))


def test_a_load_of_what_is_staged_or_current_reads_nothing_again(versions, live):
    backend = recorder(live)
    with loader_of(live, backend=backend) as loader:
        staged = loader.load(versions[0])
        reads = backend.calls["read"]
        assert loader.load(versions[0]) is staged
        loader.commit()
        again = loader.load(versions[0])
        done = loader.commit()
        assert backend.calls["read"] == reads
        assert (again.bytes, done.bytes, done.digest, done.previous) == (0, 0, versions[0].digest, versions[0].digest)
        with pytest.raises(HotLoadError, match="nothing is staged"):
            loader.commit()


def test_a_rollback_goes_back_one_version_until_the_next_load(versions, live):
    with loader_of(live) as loader:
        with pytest.raises(HotLoadError, match="no version to go back to"):
            loader.rollback()
        before = snapshot(live)
        for version in versions[:2]:
            loader.load(version)
            loader.commit()
        back = loader.rollback()
        assert (back.digest, back.previous) == (versions[0].digest, versions[1].digest)
        assert snapshot(live) == snapshot(every_kind(0))
        with pytest.raises(HotLoadError, match="no version to go back to"):
            loader.rollback()
        loader.load(versions[2])
        with pytest.raises(HotLoadError, match="no version to go back to"):
            loader.rollback()
        loader.commit()
        assert loader.rollback().digest == versions[0].digest
    with loader_of(live) as loader:
        before = snapshot(live)
        loader.load(versions[1])
        loader.commit()
        assert loader.rollback().digest is None
        assert snapshot(live) == before


@pytest.mark.parametrize("call", ["load", "commit", "rollback", "verify", "plan"])
def test_a_call_during_another_one_is_refused(versions, live, call):
    backend = recorder(live)
    inside, go_on = threading.Event(), threading.Event()
    read = backend.read

    def slow(*arguments):
        inside.set()
        assert go_on.wait(60)
        return read(*arguments)

    backend.read = slow  # type: ignore[method-assign]
    with loader_of(live, backend=backend) as loader:
        thread = threading.Thread(target=loader.load, args=(versions[0],))
        thread.start()
        assert inside.wait(60)
        arguments = (versions[1],) if call in ("load", "plan") else ()
        with pytest.raises(HotLoadError, match=f"{call} was called while another call is under way"):
            getattr(loader, call)(*arguments)
        go_on.set()
        thread.join(60)
        assert loader.commit().digest == versions[0].digest


def test_a_closed_loader_refuses_and_closes_again(versions, live):
    loader = loader_of(live)
    loader.load(versions[0])
    loader.close()
    loader.close()
    with pytest.raises(HotLoadError, match="after close"):
        loader.commit()
    assert loader.memory is None


@pytest.mark.parametrize("staging", STAGINGS)
def test_a_loader_that_is_forgotten_gives_back_what_it_held(versions, live, staging):
    backend, before = recorder(live), open_files()
    loader = loader_of(live, backend=backend, staging=staging)
    loader.load(versions[0])
    assert +backend.taken
    del loader
    gc.collect()
    assert (+backend.taken, open_files()) == ({}, before)


def test_tensors_that_were_replaced_since_the_load_are_not_written(versions, live):
    with loader_of(live) as loader:
        loader.load(versions[0])
        live["scale"] = live["scale"].clone()
        with pytest.raises(HotLoadError, match="not those that the weights were made ready for"):
            loader.commit()
        loader.load(versions[0])
        loader.commit()
        assert snapshot(live) == snapshot(every_kind(0))
        # the version is current, and in other tensors than these
        live["scale"] = torch.zeros(())
        with pytest.raises(HotLoadError, match="not those that the weights were made ready for"):
            loader.rollback()
        assert loader.load(versions[0]).bytes > 0
        loader.commit()
        assert snapshot(live) == snapshot(every_kind(0))


def test_a_loader_that_is_told_what_is_live_can_go_back_to_it_from_its_files(versions):
    live = {name: tensor.clone() for name, tensor in every_kind(0).items()}
    live["lm_head.weight"] = live["embed.weight"]
    with loader_of(live, rollback_copies=0, current=versions[0]) as loader:
        assert loader.load(versions[0]).bytes == 0
        assert loader.load(versions[1]).can_restore
        loader.commit()
        assert loader.rollback().digest == versions[0].digest
        assert snapshot(live) == snapshot(every_kind(0))


# --- files that are not what was signed ---


@pytest.mark.parametrize("staging", STAGINGS)
@pytest.mark.parametrize("change", ["flip", "cut", "gone"])
def test_files_that_were_changed_never_reach_live_tensors(tmp_path, live, staging, change):
    version = published(tmp_path / "v", every_kind(0))
    shard = sorted(version.path.glob("*.safetensors"))[-1]
    data = bytearray(shard.read_bytes())
    if change == "gone":
        shard.unlink()
    else:
        data[-1] ^= 1
        shard.write_bytes(data if change == "flip" else data[:-1])
    before, files = snapshot(live), open_files()
    with loader_of(live, staging=staging) as loader:
        with pytest.raises(IntegrityError if change != "gone" else StoreError, match=shard.name):
            loader.load(version)
        assert loader.staged is None
        assert open_files() == files
    assert snapshot(live) == before


def test_files_that_change_between_load_and_an_in_place_commit_leave_the_old_weights(tmp_path, live):
    first, second = (published(tmp_path / str(seed), every_kind(seed)) for seed in (0, 100))
    for rollback_copies in (0, 1):
        with loader_of(live, staging="inplace", rollback_copies=rollback_copies) as loader:
            loader.load(first)
            loader.commit()
            loader.load(second)
            shard = sorted(second.path.glob("*.safetensors"))[-1]
            data = shard.read_bytes()
            shard.chmod(0o644)
            with shard.open("r+b") as file:
                file.seek(-1, 2)
                file.write(bytes([data[-1] ^ 1]))
            with pytest.raises(IntegrityError, match="it was changed on this host's disk"):
                loader.commit()
            assert snapshot(live) == snapshot(every_kind(0))
            assert loader.current == first.digest
            shard.write_bytes(data)
            assert loader.commit().digest == second.digest
            assert snapshot(live) == snapshot(every_kind(100))


def test_a_version_that_is_deleted_after_the_load_can_still_be_rolled_back_to(tmp_path, live):
    first, second = (published(tmp_path / str(seed), every_kind(seed)) for seed in (0, 100))
    with loader_of(live, rollback_copies=0) as loader:
        loader.load(first)
        loader.commit()
        assert loader.load(second).can_restore
        loader.commit()
        for file in first.path.iterdir():
            file.unlink()
        assert loader.rollback().digest == first.digest
        assert snapshot(live) == snapshot(every_kind(0))


def test_a_version_that_is_gone_before_the_load_cannot_be_restored_and_the_load_says_so(tmp_path, live):
    first, second = (published(tmp_path / str(seed), every_kind(seed)) for seed in (0, 100))
    files = open_files()
    with loader_of(live, rollback_copies=0) as loader:
        loader.load(first)
        loader.commit()
        for file in first.path.iterdir():
            file.unlink()
        assert not loader.load(second).can_restore
        assert open_files() == files
        loader.commit()
        with pytest.raises(HotLoadError, match="no version to go back to"):
            loader.rollback()


def test_a_header_is_compared_with_the_manifest_too(tmp_path, live):
    version = published(tmp_path / "v", every_kind(0))
    shard = sorted(version.path.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes().replace(b'"BF16"', b'"F16" '))
    with loader_of(live) as loader, pytest.raises(IntegrityError, match="other bytes than were signed"):
        loader.plan(version)


def test_who_writes_to_a_live_tensor_is_found_by_verify(versions, live):
    with loader_of(live) as loader:
        loader.load(versions[0])
        loader.commit()
        live["layers.2.weight"].view(-1).view(torch.uint8)[7] ^= 1
        with pytest.raises(HotLoadError, match=r"'layers\.2\.weight' is not what was published"):
            loader.verify()


def test_a_commit_that_did_not_arrive_is_found_and_undone(versions, live):
    backend = recorder(live)
    before = snapshot(live)
    with loader_of(live, backend=backend) as loader:
        loader.load(versions[0])
        copy, lost = backend.copy, [True]

        def losing(target, source):
            if lost[0] and target.data_ptr() == live["embed.weight"].data_ptr():
                lost[0] = False
                return
            copy(target, source)

        backend.copy = losing  # type: ignore[method-assign]
        with pytest.raises(HotLoadError, match="do not hold what was copied into them"):
            loader.commit()
        assert snapshot(live) == before


# --- which version ---


def test_a_version_needs_a_manifest_and_a_directory(versions, live, tmp_path):
    version = versions[0]
    with loader_of(live) as loader:
        with pytest.raises(ConfigError, match="a path alone does not say"):
            loader.load(version.path)
        with pytest.raises(HotLoadError, match="is not complete on this host"):
            loader.load(SimpleNamespace(path=None, manifest=version.digest))
        with pytest.raises(IntegrityError, match="not that of"):
            loader.load(SimpleNamespace(path=version.path, manifest="b3:" + "0" * 64), manifest=version.manifest)
        with pytest.raises(ConfigError, match="does not have it"):
            loader.load(SimpleNamespace(path=version.path, manifest=version.digest))
        with pytest.raises(ConfigError, match="is no version"):
            loader.load(object())  # type: ignore[arg-type]
        assert loader.load(version.path, manifest=version.manifest.encoded).digest == version.digest
        assert loader.load(SimpleNamespace(path=version.path, manifest=version.manifest)).digest == version.digest


def test_a_slab_must_hold_a_chunk(tmp_path, live):
    tensors = every_kind(0)
    version = published(tmp_path / "v", tensors)
    large = VersionOnDisk.sealed(version.path, chunk_size=2 * CHUNK)
    with loader_of(live) as loader, pytest.raises(ConfigError, match=f"a slab {CHUNK}") as refused:
        loader.load(large)
    assert refused.value.hint == f"give slab_bytes={2 * CHUNK} or more"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"staging": "cloud"}, "staging is auto, device, host or inplace"),
        ({"rollback_copies": 2}, "2 copies of old weights"),
        ({"slabs": 2}, "a ring of 2 slabs"),
        ({"slab_bytes": 0}, "slabs of 0 bytes"),
    ],
)
def test_an_argument_that_is_none_is_refused(live, options, match):
    with pytest.raises(ConfigError, match=match):
        HotLoader(live, **options)
