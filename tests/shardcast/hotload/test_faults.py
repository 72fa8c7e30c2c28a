"""A fault at every step in turn: the weights are wholly old or wholly new, nothing leaks, and the loader goes on."""

from __future__ import annotations

import threading

import pytest

from shardcast.hotload import TornWeights
from shardcast_proto.errors import HotLoadError
from tests.shardcast.hotload.weights import (
    few_kinds,
    live_of,
    loader_of,
    open_files,
    pointers,
    published,
    recorder,
    snapshot,
)

STAGINGS = ["device", "host", "inplace"]


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    home = tmp_path_factory.mktemp("faults")
    return [published(home / str(seed), few_kinds(seed)) for seed in (0, 100)]


def expected(seed: int) -> dict[str, bytes]:
    return snapshot(few_kinds(seed))


@pytest.mark.parametrize("rollback_copies", [0, 1])
@pytest.mark.parametrize("staging", STAGINGS)
def test_a_fault_at_any_step_leaves_weights_that_are_wholly_old_or_wholly_new(versions, staging, rollback_copies):
    old, new = expected(0), expected(100)
    step, ended = 0, False
    files = open_files()
    while not ended:
        step += 1
        live = live_of(few_kinds(0))
        backend = recorder(live)
        where = pointers(live)
        with loader_of(live, backend=backend, staging=staging, rollback_copies=rollback_copies) as loader:
            loader.load(versions[0])
            loader.commit()
            assert snapshot(live) == old
            backend.arm(step)
            try:
                loader.load(versions[1])
                assert snapshot(live) == old
                loader.commit()
                ended = backend.total < step
            except HotLoadError:
                assert snapshot(live) == old, f"a mixture after a fault in call {step}"
                assert loader.current == versions[0].digest
            assert snapshot(live) == (new if loader.current == versions[1].digest else old)
            assert pointers(live) == where
            # the fault has passed: the loader goes on
            backend.arm(0)
            loader.load(versions[1])
            loader.commit()
            assert snapshot(live) == new
            assert loader.verify() > 0
        assert sum(backend.taken.values()) == 0, f"memory is held after a fault in call {step}"
        assert open_files() == files
        assert threading.active_count() < 20
    assert step > 30


@pytest.mark.parametrize("rollback_copies", [0, 1])
@pytest.mark.parametrize("staging", STAGINGS)
def test_a_device_that_fails_for_good_is_never_reported_active(versions, staging, rollback_copies):
    old, new = expected(0), expected(100)
    step, ended, torn = 0, False, 0
    while not ended:
        step += 1
        live = live_of(few_kinds(0))
        backend = recorder(live)
        loader = loader_of(live, backend=backend, staging=staging, rollback_copies=rollback_copies)
        loader.load(versions[0])
        loader.commit()
        loader.load(versions[1])
        backend.arm(step, fail_for=1_000_000)
        try:
            loader.commit()
            ended = backend.total < step
            assert snapshot(live) == new
        except TornWeights as error:
            torn += 1
            assert loader.current is None and loader.is_torn
            assert error.code == "hot_load_torn"
        except HotLoadError:
            assert snapshot(live) == old
            assert loader.current == versions[0].digest
        # a device that works again: a commit makes the weights whole
        backend.arm(0)
        if not ended:
            loader.commit()
        assert (snapshot(live), loader.current, loader.is_torn) == (new, versions[1].digest, False)
        loader.close()
        assert sum(backend.taken.values()) == 0
    assert torn > 0


@pytest.mark.parametrize("staging", STAGINGS)
def test_torn_weights_can_be_rolled_back_when_the_device_works_again(versions, staging):
    live = live_of(few_kinds(0))
    backend = recorder(live)
    with loader_of(live, backend=backend, staging=staging) as loader:
        loader.load(versions[0])
        loader.commit()
        loader.load(versions[1])
        backend.arm(4, fail_for=1_000_000)
        with pytest.raises(TornWeights):
            loader.commit()
        backend.arm(0)
        loader.load(versions[1])  # keeps the old copy: what is live is worth nothing
        back = loader.rollback()
        assert (back.digest, back.previous, loader.current) == (versions[0].digest, None, versions[0].digest)
        assert snapshot(live) == expected(0)


@pytest.mark.parametrize("rollback_copies", [0, 1])
def test_a_fault_at_any_step_of_a_rollback_ends_it_whole(versions, rollback_copies):
    step, ended = 0, False
    while not ended:
        step += 1
        live = live_of(few_kinds(0))
        backend = recorder(live)
        with loader_of(live, backend=backend, rollback_copies=rollback_copies) as loader:
            for version in versions:
                loader.load(version)
                loader.commit()
            backend.arm(step)
            try:
                assert loader.rollback().digest == versions[0].digest
            except HotLoadError:
                assert loader.current == versions[1].digest
            ended = backend.total < step
            assert snapshot(live) == expected(0 if loader.current == versions[0].digest else 100)
            assert not loader.is_torn


def test_weights_that_nobody_kept_are_said_to_be_unrestorable_before_and_torn_after(versions):
    live = live_of(few_kinds(0))
    backend = recorder(live)
    with loader_of(live, backend=backend, rollback_copies=0) as loader:
        staged = loader.load(versions[0])
        assert not staged.can_restore
        backend.arm(6)
        with pytest.raises(TornWeights, match="nobody kept the old weights"):
            loader.commit()
        assert loader.current is None
        assert loader.commit().digest == versions[0].digest
        assert snapshot(live) == expected(0)


def test_ctrl_c_in_a_commit_writes_the_old_weights_back_and_goes_on_as_ctrl_c(versions):
    live = live_of(few_kinds(0))
    before = snapshot(live)
    backend = recorder(live)
    with loader_of(live, backend=backend) as loader:
        loader.load(versions[0])
        copy, left = backend.copy, [5]

        def interrupted(target, source):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            copy(target, source)

        backend.copy = interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            loader.commit()
        assert snapshot(live) == before
        assert loader.commit().digest == versions[0].digest
