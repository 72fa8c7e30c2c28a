"""The demo, small, as a process: it proves its bytes, and whatever happens it leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shardcast.demo.fleet import stop_all
from shardcast.demo.interrupts import Interrupts
from tests.loopback.daemons import ROOT, until

pytestmark = pytest.mark.timeout(180)

NODES = ("origin", "relay-1", "relay-2", "relay-3", "client-1", "client-2")


@contextmanager
def demo(home: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """Run `shardcast demo --json` in `home`; end whatever is left of it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "shardcast.cli", "demo", "--keep", str(home), "--json", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "proto", "relay"))},
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
        for left in nodes_in(home).values():
            os.kill(left, signal.SIGKILL)


def nodes_in(home: Path) -> dict[str, int]:
    """Return the process ids of the nodes that work below a directory, by name."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0") if folder.name.isdecimal() else []
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        if b"--data" in words:
            data = Path(os.fsdecode(words[words.index(b"--data") + 1]))
            if data.is_relative_to(home):
                found[data.parent.name] = int(folder.name)
    return found


def is_transferring(home: Path) -> bool:
    """Say whether chunks of the first step arrive at relay-1."""
    return any((home / "relay-1" / "data" / "staging").glob("*/*"))


def test_the_demo_proves_every_byte_and_leaves_no_process(tmp_path):
    home = tmp_path / "demo"
    with demo(home, "--bytes", "8000000") as process:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
        assert nodes_in(home) == {}
    report = json.loads(out)
    assert [step["step"] for step in report["steps"]] == [1, 2]
    for step in report["steps"]:
        published = sum(file.stat().st_size for file in (home / f"step-{step['step']}").iterdir())
        assert [row["node"] for row in step["rows"]] == list(NODES)
        for row in step["rows"][1:]:
            assert row["identical_bytes"] == published == step["size_bytes"]
            assert row["bytes_from_origin"] + row["bytes_from_peers"] > 0 and row["seconds"] > 0
    assert report["probe"]["status"] == 206 and report["probe"]["count"] > 0
    assert report["kept"] == str(home)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demo_leaves_no_process(tmp_path, number):
    home = tmp_path / "demo"
    with demo(home) as process:
        until(lambda: len(nodes_in(home)) == (1 if number == signal.SIGHUP else len(NODES)), 60.0)
        process.send_signal(number)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (130, "shardcast: interrupted\n")
        assert nodes_in(home) == {}


def test_a_demo_that_loses_a_node_says_which_and_leaves_no_process(tmp_path):
    home = tmp_path / "demo"
    with demo(home, "--bytes", "60000000") as process:
        until(lambda: is_transferring(home) or process.poll() is not None, 90.0)
        os.kill(nodes_in(home)["relay-2"], signal.SIGKILL)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 7
        assert err.startswith("shardcast: relay-2 was killed by signal 9 (its log is ")
        assert json.loads(out)["error"]["facts"]["node"] == "relay-2"
        assert nodes_in(home) == {}


def test_a_demo_does_not_work_in_a_directory_that_is_used(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with demo(tmp_path) as process:
        process.communicate(timeout=30)
        assert process.returncode == 6
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("place", "flags"), [("/proc/x", ()), ("/dev/null", ()), ("deep/none", ("--bytes", "999999999999999"))]
)
def test_a_demo_without_a_place_says_so_and_makes_none(tmp_path, place, flags):
    with demo(tmp_path / place, *flags) as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, json.loads(out)["error"]["code"], len(err.splitlines())) == (8, "store", 1)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_does_not_listen_is_killed():
    script = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    deaf = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    polite = subprocess.Popen([sys.executable, "-c", "import signal; print(flush=True); signal.pause()"], stdout=-1)
    for process in (deaf, polite):
        assert process.stdout is not None and process.stdout.readline() == b"\n"
        process.stdout.close()
    stop_all([deaf, polite], 0.5)
    assert (deaf.returncode, polite.returncode) == (-signal.SIGKILL, -signal.SIGTERM)
    stop_all([deaf, polite])


def test_a_signal_waits_while_it_is_held_back_and_comes_once():
    done = []
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.held():
            with interrupts.held():
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGINT)
            done.append("inner")
        with interrupts.held():
            done.append("after")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGHUP)
    assert done == ["inner", "after"]
    assert signal.getsignal(signal.SIGTERM) is before
