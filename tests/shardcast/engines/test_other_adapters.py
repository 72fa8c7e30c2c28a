"""The adapters of prime-rl, a command, a webhook and a link: real directories, processes and sockets."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import signal
import stat
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from shardcast.engine_specs import parse_engine
from shardcast.engines import Effect, Engine, StagedVersion, make_engine
from shardcast.http.engine_client import EngineClient
from shardcast_proto.errors import ConfigError, Conflict
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import format_digest
from shardcast_proto.manifest import Manifest
from tests.loopback.fake_engines import fake_engine, tree_digests

CHUNK = 256 * 1024


class Shelf:
    """Versions with real manifests."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.manifests: dict[str, Manifest] = {}

    def version(self, step: int, text: str = "", activation: str = "a") -> StagedVersion:
        files = {"config.json": b"{}", "model.safetensors": b"weights %d %s" % (step, text.encode())}
        digests = b"".join(digest_of(files[name]) for name in sorted(files))
        manifest = Manifest.build([(name, len(files[name])) for name in sorted(files)], CHUNK, digests)
        name = format_digest(manifest.digest)
        path = self.home / "versions" / manifest.digest.hex()
        if not path.exists():
            path.mkdir(parents=True)
            for file, data in files.items():
                (path / file).write_bytes(data)
                (path / file).chmod(0o444)
        self.manifests[name] = manifest
        return StagedVersion(channel="demo", seq=step, step=step, manifest=name, path=path, activation=activation)

    def engine(self, text: str) -> Engine:
        return make_engine(parse_engine(text), connect=EngineClient, manifest_of=self.manifests.__getitem__)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


async def activate(engine: Engine, wanted: StagedVersion, before: StagedVersion | None = None) -> Any:
    await engine.prepare(wanted)
    return await engine.commit(wanted, fallback=before, owns_pause=False)


# --- prime-rl ---


async def test_prime_rl_finds_the_step_whole_and_stable_before_its_servers_are_told(shelf: Shelf) -> None:
    steps = shelf.home / "broadcasts"
    with fake_engine("prime-rl") as one, fake_engine("prime-rl") as two:
        engine = shelf.engine(f"prime-rl={steps},url={one.url},url={two.url}")
        wanted = shelf.version(42)
        await engine.prepare(wanted)
        assert sorted(path.name for path in (steps / "step_42").iterdir()) == [
            ".shardcast",
            "config.json",
            "model.safetensors",
        ]
        outcome = await engine.commit(wanted, fallback=None, owns_pause=False)
        assert outcome.effect is Effect.ACTIVE and (steps / "step_42" / "STABLE").read_bytes() == b""
        for fake in (one, two):
            # its fake refuses a directory that is not stable
            assert fake.state.loads == [str(steps / "step_42")] and not fake.state.is_paused
            assert fake.state.weights == tree_digests(wanted.path)
            assert [path for path, _ in fake.state.calls if path != "/openapi.json"] == [
                "/pause?mode=keep&clear_cache=false",
                "/update_weights",
                "/resume",
            ]
        # the orchestrator writes there, the files are ours
        assert stat.S_IMODE((steps / "step_42").stat().st_mode) & 0o200
        await engine.aclose()


async def test_prime_rl_reads_no_name_that_is_no_number(shelf: Shelf) -> None:
    steps = shelf.home / "broadcasts"
    engine = shelf.engine(f"prime-rl={steps}")
    for step in range(1, 9):
        assert (await activate(engine, shelf.version(step))).effect is Effect.ACTIVE
        numbers = [int(path.name.split("_")[-1]) for path in steps.glob("step_*")]
        assert max(numbers) == step and all((steps / f"step_{number}" / "STABLE").exists() for number in numbers)
        assert await engine.current() == shelf.version(step).manifest
    assert sorted(path.name for path in steps.iterdir()) == ["step_5", "step_6", "step_7", "step_8"]
    (steps / "step_8" / "NCCL_READY").touch()  # as the orchestrator does
    assert (await activate(engine, shelf.version(8))).effect is Effect.ACTIVE


async def test_prime_rl_replaces_a_step_that_the_trainer_published_anew_and_nothing_of_others(shelf: Shelf) -> None:
    steps = shelf.home / "broadcasts"
    engine = shelf.engine(f"prime-rl={steps}")
    await activate(engine, shelf.version(5))
    again = shelf.version(5, "after a rewind")
    await activate(engine, again)
    assert tree_digests(steps / "step_5") == tree_digests(again.path)
    (steps / "step_6").mkdir()
    (steps / "step_6" / "theirs").write_text("x")
    with pytest.raises(Conflict, match="not made by this node"):
        await engine.prepare(shelf.version(6))
    assert (steps / "step_6" / "theirs").exists()
    assert not [path for path in steps.iterdir() if path.name.startswith(".")]


async def test_prime_rl_with_one_server_that_fails_puts_all_back(shelf: Shelf) -> None:
    steps = shelf.home / "broadcasts"
    before, wanted = shelf.version(1), shelf.version(2)
    with fake_engine("prime-rl") as one, fake_engine("prime-rl") as two:
        engine = shelf.engine(f"prime-rl={steps},url={one.url},url={two.url}")
        await activate(engine, before)
        two.fault("/update_weights", "half")
        outcome = await activate(engine, wanted, before)
        assert outcome.effect is Effect.RESTORED and outcome.is_resumed
        for fake in (one, two):
            assert fake.state.weights == tree_digests(before.path) and not fake.state.is_paused
        two.fault("/update_weights", "drop")
        outcome = await activate(engine, wanted, before)
        assert outcome.effect is Effect.UNKNOWN and outcome.is_resumed
        one.fault("/pause", "500")
        outcome = await activate(engine, wanted, before)
        assert outcome.effect is Effect.UNCHANGED and not two.state.is_paused
        await engine.aclose()


@pytest.mark.parametrize(
    ("fault", "effect"), [("500", Effect.RESTORED), ("false", Effect.RESTORED), ("400", Effect.UNCHANGED)]
)
async def test_prime_rl_never_calls_active_what_its_server_says_it_did_not_take(
    shelf: Shelf, fault: str, effect: Effect
) -> None:
    before, wanted = shelf.version(1), shelf.version(2)
    with fake_engine("prime-rl") as one:
        engine = shelf.engine(f"prime-rl={shelf.home / 'broadcasts'},url={one.url}")
        await activate(engine, before)
        one.fault("/update_weights", fault)
        outcome = await activate(engine, wanted, before)
        assert outcome.effect is effect and outcome.is_resumed and outcome.reason
        assert one.state.weights == tree_digests(before.path) and not one.state.is_paused
        await engine.aclose()


@pytest.mark.parametrize("fault", ["hang 15", "drop"])
async def test_prime_rl_without_an_answer_is_unknown_and_nothing_is_loaded_after_it(shelf: Shelf, fault: str) -> None:
    before, wanted = shelf.version(1), shelf.version(2)
    with fake_engine("prime-rl") as one:
        engine = shelf.engine(f"prime-rl={shelf.home / 'broadcasts'},url={one.url},timeout=500ms")
        await activate(engine, before)
        one.fault("/update_weights", fault)
        outcome = await activate(engine, wanted, before)
        assert outcome.effect is Effect.UNKNOWN and outcome.is_resumed and not one.state.is_paused
        assert one.state.paths().count("/update_weights") == 2  # the one before, and this
        await engine.aclose()


async def test_prime_rl_never_says_that_it_put_back_a_step_that_was_published_anew(shelf: Shelf) -> None:
    before, again = shelf.version(5), shelf.version(5, "after a rewind")
    with fake_engine("prime-rl") as one:
        engine = shelf.engine(f"prime-rl={shelf.home / 'broadcasts'},url={one.url}")
        await activate(engine, before)
        one.fault("/update_weights", "half")
        outcome = await activate(engine, again, before)
        assert outcome.effect is Effect.UNKNOWN and outcome.is_resumed
        assert one.state.paths().count("/update_weights") == 2, "nothing is put back under its name"
        assert (await activate(engine, before)).effect is Effect.ACTIVE
        assert one.state.weights == tree_digests(before.path)
        await engine.aclose()


# --- a command ---


def hook(home: Path, text: str) -> Path:
    path = home / "hook.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


async def test_a_command_is_told_everything_in_its_environment(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOT_FOR_HOOKS", "secret")
    path = hook(tmp_path, f'env > {tmp_path}/env; echo "$1" > {tmp_path}/argument')
    engine = shelf.engine(f"hook={path},arg=two words")
    before, wanted = shelf.version(1), shelf.version(2)
    assert (await activate(engine, wanted, before)).effect is Effect.ACTIVE
    values = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert {name: value for name, value in values.items() if name.startswith("SHARDCAST_")} == {
        "SHARDCAST_ACTION": "activate",
        "SHARDCAST_ENGINE": "hook",
        "SHARDCAST_CHANNEL": "demo",
        "SHARDCAST_STEP": "2",
        "SHARDCAST_SEQ": "2",
        "SHARDCAST_MANIFEST": wanted.manifest,
        "SHARDCAST_PATH": str(wanted.path),
        "SHARDCAST_PREVIOUS_PATH": str(before.path),
        "SHARDCAST_ACTIVATION": "a",
    }
    assert "NOT_FOR_HOOKS" not in values and (tmp_path / "argument").read_text() == "two words\n"


@pytest.mark.parametrize(
    ("script", "effect", "said"),
    [
        ("exit 75", Effect.UNCHANGED, "exit code 75"),
        ("echo no room; exit 3", Effect.UNKNOWN, "exit code 3: no room"),
        ("kill -9 $$", Effect.UNKNOWN, "signal 9"),
        ('test "$SHARDCAST_ACTION" = restore', Effect.RESTORED, "step 1 was put back"),
        ("head -c 3000000 /dev/zero | tr '\\0' x; exit 1", Effect.UNKNOWN, "exit code 1: xxx"),
    ],
)
async def test_what_a_command_ends_with_says_what_it_did(
    shelf: Shelf, tmp_path: Path, script: str, effect: Effect, said: str
) -> None:
    engine = shelf.engine(f"hook={hook(tmp_path, script)}")
    outcome = await activate(engine, shelf.version(2), shelf.version(1))
    assert outcome.effect is effect and said in outcome.reason and len(outcome.reason) < 2000


async def test_a_command_that_hangs_is_killed_with_all_that_it_started(shelf: Shelf, tmp_path: Path) -> None:
    script = f"trap '' TERM; sleep 300 & echo $! > {tmp_path}/child; wait; sleep 300"
    engine = shelf.engine(f"hook={hook(tmp_path, script)},timeout=1s")
    outcome = await activate(engine, shelf.version(2))
    assert outcome.effect is Effect.UNKNOWN and "did not end within 1 s" in outcome.reason
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        if not _runs(child):
            break
        await asyncio.sleep(0.05)
    assert not _runs(child)


async def test_what_a_command_has_started_and_does_not_heed_sigterm_ends_with_it(shelf: Shelf, tmp_path: Path) -> None:
    script = f"(trap '' TERM; echo > {tmp_path}/trapped; while :; do sleep 1; done) & echo $! > {tmp_path}/child; wait"
    engine = shelf.engine(f"hook={hook(tmp_path, script)},timeout=5s")
    outcome = await activate(engine, shelf.version(2))
    assert outcome.effect is Effect.UNKNOWN and (tmp_path / "trapped").exists()
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        if not _runs(child):
            break
        await asyncio.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


async def test_a_command_that_leaves_something_running_has_ended(shelf: Shelf, tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/child; exit 0"
    outcome = await activate(shelf.engine(f"hook={hook(tmp_path, script)},timeout=30s"), shelf.version(2))
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
    assert outcome.effect is Effect.ACTIVE


async def test_a_command_must_be_there(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no command"):
        await shelf.engine(f"hook={tmp_path}/none").prepare(shelf.version(1))
    (tmp_path / "text").write_text("#!/bin/sh\n")
    with pytest.raises(ConfigError, match="can be executed"):
        await shelf.engine(f"hook={tmp_path}/text").prepare(shelf.version(1))


# --- a webhook ---


class Receiver:
    """What a webhook posts to."""

    def __init__(self, *statuses: int) -> None:
        self.posts: list[tuple[dict[str, str], bytes]] = []
        left = list(statuses)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.posts.append((dict(self.headers), body))
                self.send_response(left.pop(0) if left else 204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/weights"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def secret_file(home: Path) -> Path:
    path = home / "secret"
    path.write_text("0123456789abcdef0123")
    path.chmod(0o600)
    return path


async def test_a_webhook_is_signed_and_names_its_activation(shelf: Shelf, tmp_path: Path) -> None:
    receiver = Receiver()
    engine = shelf.engine(f"webhook={receiver.url},secret-file={secret_file(tmp_path)}")
    wanted = shelf.version(3)
    for _ in range(2):
        assert (await activate(engine, wanted)).effect is Effect.ACTIVE
    await activate(engine, shelf.version(3, activation="b"))
    keys = [headers["Idempotency-Key"] for headers, _ in receiver.posts]
    assert keys[0] == keys[1] != keys[2]
    headers, body = receiver.posts[0]
    signed = headers["X-Shardcast-Timestamp"].encode() + b"." + body
    expected = hmac.new(b"0123456789abcdef0123", signed, hashlib.sha256).hexdigest()
    assert headers["X-Shardcast-Signature"] == f"sha256={expected}"
    document = json.loads(body)
    assert (document["action"], document["step"], document["path"]) == ("activate", 3, str(wanted.path))
    receiver.close()
    await engine.aclose()


@pytest.mark.parametrize(
    ("statuses", "effect"),
    [
        ((409,), Effect.UNCHANGED),
        ((500, 200), Effect.RESTORED),
        ((500, 500), Effect.UNKNOWN),
        ((302,), Effect.UNCHANGED),
    ],
)
async def test_what_a_webhook_answers_says_what_it_did(
    shelf: Shelf, tmp_path: Path, statuses: tuple[int, ...], effect: Effect
) -> None:
    receiver = Receiver(*statuses)
    engine = shelf.engine(f"webhook={receiver.url},secret-file={secret_file(tmp_path)}")
    assert (await activate(engine, shelf.version(2), shelf.version(1))).effect is effect
    receiver.close()
    await engine.aclose()


def test_a_weak_secret_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    path = secret_file(tmp_path)
    path.write_text("short")
    with pytest.raises(ConfigError, match="at least 16"):
        shelf.engine(f"webhook=http://127.0.0.1:1/x,secret-file={path}")


# --- a link ---


async def test_a_link_leads_to_one_version_or_the_other(shelf: Shelf, tmp_path: Path) -> None:
    link = tmp_path / "models" / "current"
    engine = shelf.engine(f"symlink={link}")
    assert await engine.current() == ""
    seen: set[str] = set()
    for step in range(1, 6):
        wanted = shelf.version(step)
        assert (await activate(engine, wanted)).effect is Effect.ACTIVE
        assert link.is_symlink() and link.resolve() == wanted.path and await engine.current() == wanted.manifest
        seen.add((link / "model.safetensors").read_text())
    assert len(seen) == 5 and [path.name for path in link.parent.iterdir()] == ["current"]


async def test_what_is_no_link_is_not_replaced(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "current").mkdir()
    with pytest.raises(Conflict, match="no symbolic link"):
        await shelf.engine(f"symlink={tmp_path}/current").prepare(shelf.version(1))
