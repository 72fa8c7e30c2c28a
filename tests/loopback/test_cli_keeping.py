"""The commands that look at a node and say what it keeps, each a process, against one swarm of real daemons."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.loopback.daemons import MIB, ROOT, Daemon, Swarm, swarm

pytestmark = pytest.mark.timeout(180)
SIZE = 8 * MIB

#: A program that runs the command on a terminal of its own, and presses Ctrl-C there when the first picture has been drawn.
ON_A_TERMINAL = """
import os, pty, sys
told = b""
def read(terminal):
    global told
    data = os.read(terminal, 65536)
    if b"VERSION" in told + data and b"VERSION" not in told:
        os.write(terminal, b"\\x03")
    told += data
    return data
command = [sys.executable, "-m", "shardcast.cli", *sys.argv[1:]]
sys.exit(os.waitstatus_to_exitcode(pty.spawn(command, read)))
"""


class Fleet(NamedTuple):
    """An origin with one neighbour."""

    swarm: Swarm
    origin: Daemon
    client: Daemon


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with swarm(tmp_path_factory.mktemp("fleet")) as made:
        origin = made.origin("--keep", "1")
        (client,) = made.others(origin, "client", flags=("--keep", "1"))
        yield Fleet(made, origin, client)


class Ended(NamedTuple):
    """How a command has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """The one object that it has printed."""
        (line,) = self.out.splitlines()
        return json.loads(line)


def shardcast(*arguments: str | Path, ask: Daemon | None) -> Ended:
    """Run `shardcast …` as a user does."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "proto", "relay"))}
    if ask is not None:
        environment["SHARDCAST_API"] = ask.ready["api"]
    ended = subprocess.run(
        [sys.executable, "-m", "shardcast.cli", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def published(fleet: Fleet, step: int) -> Path:
    """Publish a step, and return where it was written once both nodes hold it."""
    path = fleet.swarm.checkpoint(step, SIZE)
    ended = shardcast(
        "publish", path, "--channel", "demo", "--step", str(step), "--wait", "1", "--timeout", "60", ask=fleet.origin
    )
    assert ended.code == 0, ended.err
    return path


def test_publish_returns_when_a_neighbour_holds_the_version(fleet):
    path = fleet.swarm.checkpoint(1, SIZE)
    flags = ("--channel", "demo", "--step", "1", "--wait", "1", "--timeout", "60", "--progress")
    ended = shardcast("publish", path, *flags, ask=fleet.origin)
    assert ended.code == 0, ended.err
    assert ended.out.rstrip().endswith("1 neighbour holds it complete")
    assert fleet.client.version(1)["state"] == "complete"
    again = shardcast("publish", path, *flags, "--json", ask=fleet.origin)
    assert (again.code, again.json["existing"], again.json["complete_neighbours"]) == (0, True, 1)


def test_publish_gives_up_on_neighbours_that_are_not_there(fleet):
    path = fleet.swarm.checkpoint(2, SIZE)
    flags = ("--channel", "demo", "--step", "2", "--wait", "5", "--timeout", "1", "--json")
    ended = shardcast("publish", path, *flags, ask=fleet.origin)
    assert (ended.code, ended.json["error"]["facts"]["seq"]) == (7, fleet.origin.version(2)["seq"])
    assert len(ended.err.splitlines()) == 1


def test_publish_waits_for_the_marker_of_a_directory(fleet):
    path = fleet.swarm.checkpoint(3, SIZE)
    command = ["publish", str(path), "--channel", "demo", "--step", "3", "--wait-marker", "STABLE", "--progress"]
    late = shardcast(*command, "--timeout", "0.3", ask=fleet.origin)
    assert late.code == 7 and "STABLE" in late.err.splitlines()[-1]
    running = subprocess.Popen(
        [sys.executable, "-m", "shardcast.cli", *command, "--api", fleet.origin.ready["api"]],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "proto", "relay"))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with running:
        assert running.stderr.readline() == "shardcast: waiting for the file STABLE\n"
        assert running.poll() is None and fleet.origin.version(3)["state"] == "unknown"
        (path / "STABLE").write_text("")
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out.startswith("demo@3 is seq ")) == (0, True), err


def test_show_lists_the_files_of_a_version(fleet):
    path = published(fleet, 4)
    ended = shardcast("show", "demo@4", ask=fleet.client)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("version   demo@4, seq ")
    named = {line.split()[-1] for line in ended.out.splitlines() if line.endswith((".json", ".safetensors"))}
    assert named == {file.name for file in path.iterdir()}
    view = shardcast("show", "demo@4", "--json", ask=fleet.client).json
    assert {row["path"]: row["bytes"] for row in view["listing"]} == {
        file.name: file.stat().st_size for file in path.iterdir()
    }
    assert sum(row["chunks"] for row in view["listing"]) == view["chunks"]
    assert shardcast("show", "demo@99", ask=fleet.client).code == 4


def test_peers_lists_the_neighbours(fleet):
    ended = shardcast("peers", ask=fleet.client)
    heading, row = ended.out.splitlines()
    assert heading.split()[:2] == ["PEER", "ROLES"]
    assert row.split()[:3] == [fleet.origin.peer, "origin,client", fleet.origin.ready["serve"]]
    assert shardcast("peers", "--json", ask=fleet.client).json["peers"][0]["peer"] == fleet.origin.peer


def test_top_is_one_look_where_no_terminal_is(fleet):
    ended = shardcast("top", "--interval", "0.2", ask=fleet.client)
    assert (ended.code, ended.err) == (0, "")
    assert f"…{fleet.client.peer[-10:]} at {fleet.client.ready['serve']}: down " in ended.out.splitlines()[0]
    assert f"…{fleet.origin.peer[-10:]}" in ended.out
    look = shardcast("top", "--interval", "0.2", "--json", ask=fleet.client).json
    assert set(look["peer_rates"]) == {fleet.origin.peer}
    assert look["received_bytes_per_s"] >= 0 and look["status"]["neighbours"] == 1


def test_top_on_a_terminal_ends_well_by_ctrl_c(fleet):
    ended = subprocess.run(
        [sys.executable, "-c", ON_A_TERMINAL, "top", "--interval", "0.2", "--api", fleet.client.ready["api"]],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "proto", "relay")),
            "TERM": "xterm",
            "COLUMNS": "140",
            "LINES": "40",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert "VERSION" in ended.stdout and fleet.origin.peer[-10:] in ended.stdout
    assert "Traceback" not in ended.stdout
    assert ended.stdout.rstrip().endswith("\x1b[?1049l")


def test_check_is_what_a_container_asks(fleet):
    ended = shardcast("check", ask=fleet.client)
    assert (ended.code, ended.out, ended.err) == (0, "ready\n", "")
    assert shardcast("check", "--json", ask=fleet.client).json["ready"] is True
    nobody = shardcast("check", "--api", "127.0.0.1:1", "--json", ask=None)
    assert (nobody.code, nobody.json["error"]["code"], len(nobody.err.splitlines())) == (1, "unhealthy", 1)


def test_verify_hashes_the_files_of_the_node_again(fleet):
    published(fleet, 5)
    ended = shardcast("verify", "demo@5", ask=fleet.client)
    assert (ended.code, ended.err) == (0, "")
    assert "is right in every byte" in ended.out
    told = shardcast("verify", "demo@5", "--json", "--progress", ask=fleet.client)
    assert told.json["chunks"] == fleet.client.version(5)["chunks"]


def test_verify_finds_bytes_that_have_rotted(fleet):
    published(fleet, 6)
    held = Path(fleet.client.version(6)["path"])
    victim = max(held.iterdir(), key=lambda file: file.stat().st_size)
    victim.chmod(0o644)
    with victim.open("r+b") as file:
        file.seek(MIB)
        byte = file.read(1)
        file.seek(MIB)
        file.write(bytes([byte[0] ^ 1]))
    ended = shardcast("verify", "demo@6", "--json", ask=fleet.client)
    assert (ended.code, ended.json["error"]["code"]) == (5, "integrity")
    assert victim.name in json.dumps(ended.json["error"]["facts"]["files"])
    fleet.client.wait_complete(6)
    assert shardcast("verify", "demo@6", ask=fleet.client).code == 0


def test_verify_compares_a_directory_with_a_version(fleet, tmp_path):
    path = published(fleet, 7)
    assert shardcast("verify", "demo@7", path, ask=fleet.client).code == 0
    assert shardcast("pull", "demo@7", tmp_path / "out", ask=fleet.client).code == 0
    (tmp_path / "out" / "config.json").write_text("{}")
    (tmp_path / "out" / "new").write_text("")
    ended = shardcast("verify", "demo@7", tmp_path / "out", "--json", ask=fleet.client)
    assert ended.code == 5
    assert {found["kind"] for found in ended.json["error"]["facts"]["differences"]} == {"size", "extra"}
    assert shardcast("verify", "demo@7", tmp_path / "none", ask=fleet.client).code == 4


def test_a_pinned_version_stays_until_it_is_unpinned(fleet):
    published(fleet, 8)
    ended = shardcast("pin", "demo@8", ask=fleet.client)
    assert (ended.code, ended.err) == (0, "")
    assert "is pinned" in ended.out and ", pinned" in shardcast("show", "demo@8", ask=fleet.client).out
    published(fleet, 9)
    assert shardcast("gc", "--json", ask=fleet.client).code == 0
    assert fleet.client.version(8)["state"] == "complete"

    assert shardcast("unpin", "demo@8", ask=fleet.client).code == 0
    wanted = shardcast("gc", "--dry-run", "--json", ask=fleet.client).json
    manifest = fleet.client.version(8)["manifest"]
    assert (wanted["deleted"], wanted["dry_run"]) == ([manifest], True)
    assert fleet.client.version(8)["state"] == "complete"
    gone = shardcast("gc", ask=fleet.client)
    assert (gone.code, gone.out.splitlines()[0]) == (0, f"{manifest} deleted")
    assert fleet.client.version(8)["state"] == "gone"
    assert shardcast("pin", "demo@8", ask=fleet.client).code == 4
