"""A real origin, a real node that follows an engine unattended, and an engine that is a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.loopback.daemons import MIB, ROOT, Daemon, Swarm, swarm, until
from tests.loopback.fake_engines import control, tree_digests

pytestmark = pytest.mark.timeout(300)
SOON_S = 90.0


class Engine:
    """A fake engine in a process of its own, on a port that stays when it is started anew."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.port = 0
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.loopback.fake_engines", self._kind, str(self.port)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    def set(self, **values: Any) -> dict[str, Any]:
        return control(self.url, **values)

    @property
    def state(self) -> dict[str, Any]:
        return control(self.url)

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextmanager
def engine_process(kind: str) -> Iterator[Engine]:
    engine = Engine(kind)
    try:
        yield engine
    finally:
        engine.end()


class Following:
    """An origin, and a node with engines."""

    def __init__(self, made: Swarm, *flags: str) -> None:
        self.made = made
        self.origin = made.origin()
        self.node = made.daemon("node", *flags, bootstrap=self.origin).wait_ready()
        until(self.node.has_neighbour, 30.0, self.node.log)

    def publish(self, step: int, size_bytes: int = MIB) -> None:
        answer = self.origin.publish(self.made.checkpoint(step, size_bytes), step)
        assert answer["event"] == "published", answer

    def engine(self, name: str = "") -> dict[str, Any]:
        views: list[dict[str, Any]] = self.node.get("engines")["engines"]
        return next(view for view in views if name in ("", view["name"]))

    def wait_active(self, step: int, *, name: str = "", timeout_s: float = SOON_S) -> dict[str, Any]:
        def is_there() -> bool:
            view = self.engine(name)
            return view["knowledge"] == "confirmed" and (view["active"] or {}).get("step") == step

        until(is_there, timeout_s, lambda: f"{self.engine(name)} {self.node.log()[-2000:]}")
        return self.engine(name)

    def restart(self, *, wait: bool = True) -> None:
        self.node.start()
        if wait:
            self.node.wait_ready()


def cli(node: Daemon, *arguments: str, timeout_s: float = 120.0) -> tuple[int, dict[str, Any]]:
    """Run a command against a node; return its exit code with the object it printed."""
    path = os.pathsep.join(str(ROOT / part) for part in ("", "proto", "relay"))
    result = subprocess.run(
        [sys.executable, "-m", "shardcast.cli", *arguments, "--api", node.ready["api"], "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=timeout_s,
    )
    return result.returncode, json.loads(result.stdout)


def readyz(node: Daemon) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{node.ready['api']}/readyz", timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def metrics(node: Daemon) -> str:
    with urllib.request.urlopen(f"{node.ready['api']}/metrics", timeout=30) as response:
        return str(response.read().decode())


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_new_versions_become_active_unattended(tmp_path: Path, kind: str) -> None:
    with engine_process(kind) as engine, swarm(tmp_path) as made:
        run = Following(made, "--activate", f"{kind}={engine.url}", "--max-lag", "4", "--max-stale", "10m")
        for step in (1, 2, 3):
            run.publish(step)
            view = run.wait_active(step)
            state = engine.state
            assert state["weights"] == tree_digests(made.home / f"step-{step}") and not state["is_paused"]
            assert state["label"] == f"{step}@{run.node.version(step)['manifest']}"
        assert (view["state"], view["lag_versions"], view["failures"], view["previous"]["step"]) == ("active", 0, 0, 2)
        assert run.node.version(3)["active_in"] == [kind] and run.node.version(2)["active_in"] == []
        assert not engine.state["is_sampling_in_load"] and readyz(run.node)[0] == 200
        events = run.node.get("channels/demo/events?since=x")
        assert events["events"][0]["event"] == "snapshot"
        text = metrics(run.node)
        assert f'shardcast_engine_active_step{{engine="{kind}"}} 3.0' in text
        assert f'shardcast_activations_total{{engine="{kind}",result="active"}} 3.0' in text
        code, document = cli(run.node, "wait", "demo", "--activated", "--timeout", "60")
        assert (code, document["step"], document["engines"][0]["name"]) == (0, 3, kind)


def test_a_slow_engine_skips_versions_and_is_said_to_be_behind(tmp_path: Path) -> None:
    with engine_process("vllm") as engine, swarm(tmp_path) as made:
        run = Following(made, "--activate", f"vllm={engine.url}", "--max-lag", "1", "--keep", "1")
        run.publish(1)
        run.wait_active(1)
        since = run.node.get("channels/demo/events?since=x")["next"]
        engine.set(load_s=30.0)
        for step in range(2, 8):
            run.publish(step)
        # it is said while the load goes on, not after it
        until(lambda: run.engine()["is_behind"], 25.0, lambda: str(run.engine()))
        assert run.engine()["state"] == "activating"
        code, text = readyz(run.node)
        assert code == 503 and "engine vllm is" in text and "behind" in text
        run.node.wait_complete(7)
        engine.set(load_s=0.0)
        run.wait_active(7)
        state = engine.state
        loaded = [Path(path).name for path in state["loads"]]
        assert len(loaded) < 7 and state["load_running_max"] == 1
        assert loaded[-1] == run.node.version(7)["manifest"].removeprefix("b3:")
        until(lambda: readyz(run.node)[0] == 200, SOON_S, lambda: readyz(run.node)[1])

        def told() -> list[str]:
            events = run.node.get(f"channels/demo/events?since={since}")["events"]
            of_engine = [
                (event["event"], event["versions"][0]["step"]) for event in events if event["engine"] == "vllm"
            ]
            return [kind for kind, step in of_engine if (kind, step) != ("activated", 1)]

        until(lambda: "caught_up" in told(), SOON_S, lambda: str(told()))
        kinds = told()
        assert kinds.count("activated") == len(loaded) - 1 and "lagging" in kinds and "caught_up" in kinds
        # --keep 1 would leave the newest alone: the one before is held to go back to

        def held() -> list[int]:
            views = run.node.get("channels/demo/versions")["versions"]
            return [view["step"] for view in views if view["state"] == "complete"]

        until(lambda: held() == [7, run.engine()["previous"]["step"]], SOON_S, lambda: str(held()))


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_node_that_ends_in_an_activation_finds_out_and_goes_on(tmp_path: Path, end: str) -> None:
    with engine_process("vllm") as engine, swarm(tmp_path) as made:
        run = Following(made, "--activate", f"vllm={engine.url}")
        run.publish(1)
        run.wait_active(1)
        engine.set(load_s=8.0)
        run.publish(2)
        until(lambda: engine.state["load_running"] == 1, SOON_S)
        if end == "kill":
            run.node.kill()
        else:
            assert run.node.stop() == 0
        assert engine.state["is_paused"] and engine.state["load_running"] == 1
        run.publish(3)
        engine.set(load_s=0.0)
        run.restart()
        run.wait_active(3)
        state = engine.state
        assert state["weights"] == tree_digests(made.home / "step-3") and not state["is_paused"]
        # the load that nobody waited for had ended before the next one began
        assert state["load_running_max"] == 1 and run.engine()["previous"]["step"] in (1, 2)


def test_what_is_active_outlives_the_daemon_and_is_compared_with_the_engine(tmp_path: Path) -> None:
    with engine_process("vllm") as engine, swarm(tmp_path) as made:
        run = Following(made, "--activate", f"vllm={engine.url}")
        run.publish(1)
        run.publish(2)
        run.wait_active(2)
        loads = len(engine.state["loads"])
        assert run.node.stop() == 0
        run.restart()
        run.wait_active(2)
        assert len(engine.state["loads"]) == loads, "nothing was loaded a second time"
        run.node.kill()
        engine.end()
        engine.start()  # with the weights it was started with
        run.restart()
        run.wait_active(2)
        assert engine.state["weights"] == tree_digests(made.home / "step-2")


def test_an_engine_that_is_started_anew_gets_the_version_again(tmp_path: Path) -> None:
    with engine_process("sglang") as engine, swarm(tmp_path) as made:
        run = Following(made, "--activate", f"sglang={engine.url}")
        run.publish(1)
        run.wait_active(1)
        engine.end()
        until(lambda: run.engine()["state"] == "unreachable", SOON_S, lambda: str(run.engine()))
        engine.start()
        until(lambda: engine.state["weights"] == tree_digests(made.home / "step-1"), SOON_S, run.node.log)
        run.wait_active(1)


def test_an_engine_that_dies_in_a_load_gets_the_newest_when_it_is_back(tmp_path: Path) -> None:
    with engine_process("vllm") as engine, swarm(tmp_path) as made:
        run = Following(made, "--activate", f"vllm={engine.url}")
        run.publish(1)
        run.wait_active(1)
        engine.set(faults={"/collective_rpc": ["die"]})
        run.publish(2)
        until(lambda: run.engine()["failures"] == 1, SOON_S, lambda: str(run.engine()))
        view = run.engine()
        assert view["active"]["step"] == 1 and run.node.version(2)["active_in"] == []
        run.publish(3)
        engine.end()
        engine.start()
        run.wait_active(3)
        assert engine.state["weights"] == tree_digests(made.home / "step-3")


def test_a_rollback_holds_until_something_newer_comes(tmp_path: Path) -> None:
    with engine_process("vllm") as engine, swarm(tmp_path) as made:
        run = Following(made, "--activate", f"vllm={engine.url}", "--keep", "1")
        code, document = cli(run.node, "rollback", "demo")
        assert code == 4, document
        run.publish(1)
        run.wait_active(1)
        run.publish(2)
        run.wait_active(2)
        code, document = cli(run.node, "rollback", "demo")
        assert (code, document["engines"][0]["active"]["step"]) == (0, 1), document
        assert engine.state["weights"] == tree_digests(made.home / "step-1")
        time.sleep(3.0)
        assert run.engine()["active"]["step"] == 1 and "was chosen" in run.engine()["explain"]
        run.node.stop()
        run.restart()
        run.wait_active(1)
        time.sleep(2.0)
        assert run.engine()["active"]["step"] == 1, "the daemon has forgotten that it is held"
        code, document = cli(run.node, "rollback", "demo", "--resume")
        assert code == 0
        run.wait_active(2)
        assert cli(run.node, "rollback", "demo")[0] == 0
        run.publish(3)
        run.wait_active(3)
        code, document = cli(run.node, "activate", "demo@1")
        assert code == 0 and document["engines"][0]["active"]["step"] == 1
        code, document = cli(run.node, "wait", "demo", "--activated", "--timeout", "1")
        assert code == 7 and "was chosen" in document["error"]["message"], document


def test_a_version_that_an_engine_cannot_take_is_put_right_and_said(tmp_path: Path) -> None:
    with engine_process("vllm") as engine, swarm(tmp_path) as made:
        run = Following(
            made, "--activate", f"vllm={engine.url},name=a", "--activate", f"symlink={tmp_path}/current,name=b"
        )
        code, document = cli(run.node, "rollback", "demo")
        assert code == 4 and all(f"engine {name}: there is no" in document["error"]["message"] for name in "ab")
        run.publish(1)
        run.wait_active(1, name="a")
        since = run.node.get("channels/demo/events?since=x")["next"]
        engine.set(faults={"/collective_rpc": ["half"]})
        run.publish(2)
        until(lambda: run.engine("a")["failures"] == 1, SOON_S, lambda: str(run.engine("a")))
        run.wait_active(1, name="a")
        run.wait_active(2, name="b")
        assert engine.state["weights"] == tree_digests(made.home / "step-1")
        assert (tmp_path / "current").resolve() == Path(run.node.version(2)["path"])
        view = run.engine("a")
        assert view["state"] == "failed" and "put back" in view["error"]
        events = run.node.get(f"channels/demo/events?since={since}")["events"]
        (failed,) = [event for event in events if event["event"] == "activation_failed"]
        assert (failed["engine"], failed["versions"][0]["step"]) == ("a", 2)
        code, document = cli(run.node, "activate", "demo@2", "--engine", "a")
        assert (code, document["engines"][0]["active"]["step"]) == (0, 2)
        engine.set(faults={"/collective_rpc": ["500"]})
        code, document = cli(run.node, "activate", "demo@1", "--engine", "a")
        assert code == 9 and document["error"]["facts"]["effect"] == "restored", document
        code, document = cli(run.node, "activate", "demo@2", "--engine", "none")
        assert code == 4


def test_prime_rl_and_a_command_follow_in_real_directories(tmp_path: Path) -> None:
    hook = tmp_path / "hook.sh"
    hook.write_text(f'#!/bin/sh\necho "$SHARDCAST_STEP $SHARDCAST_ACTION" >> {tmp_path}/hook.log\n')
    hook.chmod(0o755)
    with engine_process("prime-rl") as engine, swarm(tmp_path) as made:
        run = Following(
            made,
            "--activate",
            f"prime-rl={tmp_path}/broadcasts,url={engine.url}",
            "--activate",
            f"hook={hook}",
        )
        for step in (1, 2):
            run.publish(step)
            run.wait_active(step, name="prime-rl")
            run.wait_active(step, name="hook")
        assert tree_digests(tmp_path / "broadcasts" / "step_2") == tree_digests(made.home / "step-2")
        assert engine.state["weights"] == tree_digests(made.home / "step-2")
        assert (tmp_path / "hook.log").read_text().splitlines() == ["1 activate", "2 activate"]
        run.node.signal(signal.SIGTERM)
