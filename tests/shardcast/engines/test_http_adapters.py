"""The adapters of vLLM and SGLang against servers that speak their routes, on real sockets."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shardcast.engine_specs import parse_engine
from shardcast.engines import Effect, Engine, EngineFault, Health, StagedVersion, make_engine
from shardcast.http.engine_client import EngineClient
from shardcast_proto.errors import ConfigError
from tests.loopback.fake_engines import FakeEngine, fake_engine, tree_digests

LOAD = {"vllm": "/collective_rpc", "sglang": "/update_weights_from_disk"}
RESUME = {"vllm": "/resume", "sglang": "/continue_generation"}
PAUSE = {"vllm": "/pause", "sglang": "/pause_generation"}
KINDS = ("vllm", "sglang")


def version(home: Path, step: int) -> StagedVersion:
    path = home / f"v{step}"
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"weights of step %d" % step)
    return StagedVersion(channel="demo", seq=step, step=step, manifest=f"b3:{step:064x}", path=path, activation="a")


@asynccontextmanager
async def adapter(fake: FakeEngine, options: str = "") -> AsyncIterator[Engine]:
    spec = parse_engine(f"{fake.state.kind}={fake.url}{options}")
    engine = make_engine(spec, connect=EngineClient, manifest_of=lambda digest: pytest.fail("no manifest is needed"))
    try:
        yield engine
    finally:
        await engine.aclose()


@pytest.fixture(params=KINDS)
def fake(request: pytest.FixtureRequest) -> Iterator[FakeEngine]:
    with fake_engine(request.param) as engine:
        yield engine


async def activate(
    engine: Engine, wanted: StagedVersion, before: StagedVersion | None = None, owns: bool = False
) -> Any:
    await engine.prepare(wanted)
    return await engine.commit(wanted, fallback=before, owns_pause=owns)


async def test_a_version_is_loaded_under_a_pause_and_the_engine_says_so(fake: FakeEngine, tmp_path: Path) -> None:
    wanted = version(tmp_path, 7)
    async with adapter(fake) as engine:
        assert await engine.current() == "default"
        outcome = await activate(engine, wanted)
        assert (outcome.effect, outcome.is_resumed, outcome.reason) == (Effect.ACTIVE, True, "")
        assert await engine.current() == wanted.manifest and await engine.health() is Health.HEALTHY
    state = fake.state
    assert state.weights == tree_digests(wanted.path) and state.label == f"7@{wanted.manifest}"
    assert not state.is_paused and not state.is_sampling_in_load
    order = [path for path in state.paths() if path in (PAUSE[state.kind], LOAD[state.kind], RESUME[state.kind])]
    assert order == [PAUSE[state.kind], LOAD[state.kind], RESUME[state.kind]]


async def test_what_can_fail_before_the_pause_does(fake: FakeEngine, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    wanted = StagedVersion(channel="demo", seq=1, step=1, manifest="b3:1", path=empty)
    async with adapter(fake) as engine:
        with pytest.raises(ConfigError, match=r"no \*.safetensors"):
            await engine.prepare(wanted)
        fake.state.routes = ["/health"]
        with pytest.raises(EngineFault, match="has no"):
            await engine.prepare(version(tmp_path, 1))
    assert PAUSE[fake.state.kind] not in fake.state.paths()


async def test_an_engine_that_is_not_there_is_unreachable_and_was_not_touched(fake: FakeEngine, tmp_path: Path) -> None:
    fake.close()
    async with adapter(fake) as engine:
        assert await engine.health() is Health.UNREACHABLE
        with pytest.raises(EngineFault) as caught:
            await engine.prepare(version(tmp_path, 1))
    assert (caught.value.may_have_acted, caught.value.is_answer) == (False, False)


@pytest.mark.parametrize("fault", ["500", "half", "garbage", "huge", "400", "false"])
async def test_an_engine_that_says_it_failed_gets_back_what_it_had(
    fake: FakeEngine, tmp_path: Path, fault: str
) -> None:
    if fault == "400" and fake.state.kind == "vllm":
        pytest.skip("vLLM answers 400 before it acts: see the next test")
    before, wanted = version(tmp_path, 1), version(tmp_path, 2)
    async with adapter(fake) as engine:
        await activate(engine, before)
        fake.fault(LOAD[fake.state.kind], fault)
        outcome = await activate(engine, wanted, before)
        assert outcome.effect is Effect.RESTORED and outcome.is_resumed and "step 1 was put back" in outcome.reason
        assert await engine.current() == before.manifest
    assert fake.state.weights == tree_digests(before.path) and not fake.state.is_paused


async def test_vllm_that_answers_400_has_not_acted(tmp_path: Path) -> None:
    with fake_engine("vllm") as fake:
        async with adapter(fake) as engine:
            await activate(engine, version(tmp_path, 1))
            fake.fault("/collective_rpc", "400")
            outcome = await activate(engine, version(tmp_path, 2), version(tmp_path, 1))
            assert (outcome.effect, outcome.is_resumed) == (Effect.UNCHANGED, True) and "400" in outcome.reason
            assert await engine.current() == f"b3:{1:064x}"
        assert not fake.state.is_paused and fake.state.loads == [str(tmp_path / "v1")]


@pytest.mark.parametrize("fault", ["500", "half", "garbage", "huge"])
async def test_without_anything_to_put_back_a_failure_leaves_the_weights_unknown(
    fake: FakeEngine, tmp_path: Path, fault: str
) -> None:
    async with adapter(fake) as engine:
        fake.fault(LOAD[fake.state.kind], fault)
        outcome = await activate(engine, version(tmp_path, 2))
    assert outcome.effect is Effect.UNKNOWN and outcome.is_resumed and not fake.state.is_paused
    assert fake.state.paths().count(LOAD[fake.state.kind]) == 1


async def test_an_engine_that_fails_to_take_back_what_it_had_is_unknown(fake: FakeEngine, tmp_path: Path) -> None:
    before, wanted = version(tmp_path, 1), version(tmp_path, 2)
    async with adapter(fake) as engine:
        await activate(engine, before)
        fake.fault(LOAD[fake.state.kind], "half", "500")
        outcome = await activate(engine, wanted, before)
    assert outcome.effect is Effect.UNKNOWN and "could not be put back" in outcome.reason and outcome.is_resumed


@pytest.mark.parametrize(("fault", "said"), [("hang 15", "did not answer within"), ("drop", "broke off")])
async def test_a_load_without_an_answer_is_unknown_and_nothing_is_sent_after_it(
    fake: FakeEngine, tmp_path: Path, fault: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # also what an engine has to greet us: a busy machine needs more than a moment
    monkeypatch.setattr("shardcast.engines.vllm.ASK_TIMEOUT_S", 3.0)
    before, wanted = version(tmp_path, 1), version(tmp_path, 2)
    async with adapter(fake, ",timeout=500ms") as engine:
        await activate(engine, before)
        fake.fault(LOAD[fake.state.kind], fault)
        outcome = await activate(engine, wanted, before)
    assert outcome.effect is Effect.UNKNOWN and said in outcome.reason
    assert fake.state.paths().count(LOAD[fake.state.kind]) == 2  # the one before, and this
    assert outcome.is_resumed and not fake.state.is_paused


@pytest.mark.parametrize("fault", ["500", "503", "404", "drop", "garbage", "false"])
async def test_an_engine_that_is_not_paused_is_not_touched(fake: FakeEngine, tmp_path: Path, fault: str) -> None:
    async with adapter(fake) as engine:
        fake.fault(PAUSE[fake.state.kind], fault)
        outcome = await activate(engine, version(tmp_path, 2))
    assert outcome.effect is Effect.UNCHANGED and "not paused" in outcome.reason and outcome.is_resumed
    assert LOAD[fake.state.kind] not in fake.state.paths() and fake.state.label == "default"


async def test_an_engine_that_is_gone_when_it_is_to_be_paused_was_not_paused(fake: FakeEngine, tmp_path: Path) -> None:
    async with adapter(fake, ",resume-timeout=20s") as engine:
        await engine.prepare(version(tmp_path, 2))
        fake.close()
        outcome = await engine.commit(version(tmp_path, 2), fallback=None, owns_pause=False)
        assert (outcome.effect, outcome.is_resumed) == (Effect.UNCHANGED, True)
        outcome = await engine.commit(version(tmp_path, 2), fallback=None, owns_pause=True)
        assert (outcome.effect, outcome.is_resumed) == (Effect.UNCHANGED, False)


async def test_a_refused_resume_is_asked_for_again(fake: FakeEngine, tmp_path: Path) -> None:
    async with adapter(fake) as engine:
        fake.fault(RESUME[fake.state.kind], "500")
        outcome = await activate(engine, version(tmp_path, 2))
    assert (outcome.effect, outcome.is_resumed, fake.state.is_paused) == (Effect.ACTIVE, True, False)
    assert fake.state.paths().count(RESUME[fake.state.kind]) == 2


async def test_an_engine_that_never_resumes_is_said_to_be_paused(fake: FakeEngine, tmp_path: Path) -> None:
    async with adapter(fake, ",resume-timeout=1500ms") as engine:
        fake.fault(RESUME[fake.state.kind], "500", "500", "500", "hang 3", "hang 3", "hang 3")
        began_s = time.monotonic()
        outcome = await activate(engine, version(tmp_path, 2))
        assert outcome.effect is Effect.ACTIVE and not outcome.is_resumed and fake.state.is_paused
        assert not await engine.resume() and time.monotonic() - began_s < 60.0  # and not without end
        fake.state.faults.clear()
        assert await engine.resume()


async def test_no_redirect_is_followed(fake: FakeEngine, tmp_path: Path) -> None:
    async with adapter(fake) as engine:
        fake.fault(LOAD[fake.state.kind], "redirect")
        outcome = await activate(engine, version(tmp_path, 2))
    assert outcome.effect is Effect.UNCHANGED and "307" in outcome.reason


async def test_an_engine_that_was_started_in_another_way_is_looked_at_anew(fake: FakeEngine, tmp_path: Path) -> None:
    async with adapter(fake) as engine:
        await activate(engine, version(tmp_path, 1))
        routes, fake.state.routes = fake.state.routes, ["/health"]
        with pytest.raises(EngineFault, match="404"):
            await engine.current()
        with pytest.raises(EngineFault, match="has no"):
            await engine.current()
        fake.state.routes = routes
        assert await engine.current() == f"b3:{1:064x}"


async def test_a_pause_of_somebody_else_is_left_alone_and_one_of_ours_is_not(tmp_path: Path) -> None:
    with fake_engine("vllm", is_paused=True) as fake:
        async with adapter(fake) as engine:
            outcome = await activate(engine, version(tmp_path, 2))
            assert outcome.effect is Effect.UNCHANGED and "somebody" in outcome.reason
            assert fake.state.is_paused and "/resume" not in fake.state.paths()
            outcome = await activate(engine, version(tmp_path, 2), owns=True)
            assert outcome.effect is Effect.ACTIVE and not fake.state.is_paused


async def test_vllm_takes_the_way_of_our_plugin_where_it_is_loaded(tmp_path: Path) -> None:
    with fake_engine("vllm", has_plugin=True) as fake:
        async with adapter(fake) as engine:
            assert (await engine.probe()).way == "vllm transfer"
            outcome = await activate(engine, version(tmp_path, 2))
        assert outcome.effect is Effect.ACTIVE and fake.state.weights == tree_digests(tmp_path / "v2")
        (update,) = [body for path, body in fake.state.calls if path == "/update_weights"]
        wanted = version(tmp_path, 2)
        assert update == {
            "update_info": {"path": str(wanted.path), "version": wanted.label, "manifest": wanted.manifest}
        }
        fake.fault("/update_weights", "400")
        async with adapter(fake) as engine:
            outcome = await activate(engine, version(tmp_path, 3))
        assert outcome.effect is Effect.UNKNOWN  # the update had been started


async def test_vllm_without_the_plugin_reloads_and_says_so_when_told_otherwise(tmp_path: Path) -> None:
    with fake_engine("vllm") as fake:
        async with adapter(fake) as engine:
            assert (await engine.probe()).way == "vllm reload"
        async with adapter(fake, ",via=transfer") as engine:
            with pytest.raises(EngineFault) as caught:
                await engine.prepare(version(tmp_path, 1))
            assert "--weight-transfer-config" in str(caught.value.hint)
        async with adapter(fake, ",via=extension") as engine:
            assert (await activate(engine, version(tmp_path, 1))).effect is Effect.ACTIVE
        (call,) = [body for path, body in fake.state.calls if path == "/collective_rpc"]
        assert (call["method"], call["args"]) == ("shardcast_load", [str(tmp_path / "v1"), f"b3:{1:064x}"])


async def test_vllm_that_keeps_its_description_to_itself_is_taken_to_have_the_routes(tmp_path: Path) -> None:
    with fake_engine("vllm", routes=[]) as fake:
        async with adapter(fake) as engine:
            assert (await activate(engine, version(tmp_path, 1))).effect is Effect.ACTIVE
            assert await engine.current() is None
        assert fake.state.cached == ""


async def test_vllm_that_cannot_be_labelled_serves_the_version_and_tells_nothing(tmp_path: Path) -> None:
    with fake_engine("vllm") as fake:
        async with adapter(fake) as engine:
            fake.fault("/update_weight_version", "500")
            assert (await activate(engine, version(tmp_path, 1))).effect is Effect.ACTIVE
            assert await engine.current() is None
            assert (await activate(engine, version(tmp_path, 2))).effect is Effect.ACTIVE
            assert await engine.current() == f"b3:{2:064x}"


async def test_an_engine_that_is_not_to_be_paused_is_not(fake: FakeEngine, tmp_path: Path) -> None:
    async with adapter(fake, ",pause=never") as engine:
        outcome = await activate(engine, version(tmp_path, 1))
    assert (outcome.effect, outcome.pause_s, fake.state.is_sampling_in_load) == (Effect.ACTIVE, 0.0, True)
    assert PAUSE[fake.state.kind] not in fake.state.paths()


@pytest.mark.parametrize(("options", "cached"), [("", ""), (",kv=keep", "old weights")])
async def test_what_was_cached_with_other_weights_is_forgotten_unless_callers_salt_it(
    fake: FakeEngine, tmp_path: Path, options: str, cached: str
) -> None:
    async with adapter(fake, options) as engine:
        assert (await activate(engine, version(tmp_path, 1))).effect is Effect.ACTIVE
    assert fake.state.cached == cached
    assert not fake.state.is_paused and fake.state.weights == tree_digests(tmp_path / "v1")


@pytest.mark.parametrize("fault", ["500", "false"])
async def test_a_prefix_cache_that_is_not_reset_does_not_undo_a_load(tmp_path: Path, fault: str) -> None:
    with fake_engine("vllm") as fake:
        fake.fault("/reset_prefix_cache", fault)
        async with adapter(fake) as engine:
            assert (await activate(engine, version(tmp_path, 1))).effect is Effect.ACTIVE
    assert fake.state.cached == "old weights" and not fake.state.is_paused


async def test_the_token_comes_from_a_file_that_only_its_owner_reads(fake: FakeEngine, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("very-secret\n")
    secret.chmod(0o640)
    with pytest.raises(ConfigError, match="others can read"):
        async with adapter(fake, f",token-file={secret}"):
            pass
    secret.chmod(0o600)
    async with adapter(fake, f",token-file={secret}") as engine:
        assert engine._http._headers["Authorization"] == "Bearer very-secret"  # type: ignore[attr-defined]
