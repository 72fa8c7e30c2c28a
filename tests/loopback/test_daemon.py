"""The life of a real daemon: how it refuses to start, how it stops, how it ends when it is broken."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shardcast.channel_files import create_channel
from shardcast.store import Store
from tests.loopback.daemons import MIB, ROOT, Daemon, swarm, tree_of, until

pytestmark = pytest.mark.timeout(120)

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "proto", "relay"))}


class Place:
    """A channel, and the flags of a node that would start."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.files = create_channel("demo", home)
        self.other = create_channel("other", home)

    def flags(self, **changes: object) -> list[str]:
        wanted: dict[str, object] = {
            "data": self.home / "data",
            "channel": self.files.root,
            "p2p": "127.0.0.1:0",
            "serve": "127.0.0.1:0",
            "api": "127.0.0.1:0",
            **changes,
        }
        return [part for name, value in wanted.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=30, env=ENVIRONMENT, check=False
    )


def root_of(data: bytes) -> Callable[[Place], list[str]]:
    def write(place: Place) -> list[str]:
        path = place.home / "bad.root"
        path.write_bytes(data)
        return place.flags(channel=path)

    return write


def pipe(place: Place) -> Path:
    path = place.home / "pipe"
    os.mkfifo(path)
    return path


def forged_root(place: Place) -> list[str]:
    path, data = place.home / "forged.root", bytearray(place.files.root.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return place.flags(channel=path)


def loose_key(place: Place) -> list[str]:
    place.files.origin_key.chmod(0o644)
    return place.flags(origin_key=place.files.origin_key)


def broken_identity(place: Place) -> list[str]:
    (place.home / "data").mkdir(mode=0o700)
    (place.home / "data" / "node.key").write_bytes(b"short")
    (place.home / "data" / "node.key").chmod(0o600)
    return place.flags()


def file_for_data(place: Place) -> list[str]:
    (place.home / "file").write_bytes(b"")
    return place.flags(data=place.home / "file")


REFUSALS: dict[str, tuple[Callable[[Place], list[str]], int, str]] = {
    "a root that is none": (root_of(b"this is no root"), 10, "bad.root is no root file: "),
    "a root that is empty": (root_of(b""), 10, "bad.root is no root file: "),
    "a key in the place of a root": (
        lambda place: place.flags(channel=place.files.origin_key),
        10,
        "demo.key is no root file: ",
    ),
    "a root that is a pipe": (lambda place: place.flags(channel=pipe(place)), 2, "pipe is no regular file"),
    "a root whose signature is bad": (forged_root, 10, "forged.root is no root file: "),
    "a root that is missing": (lambda place: place.flags(channel=place.home / "none.root"), 2, "none.root"),
    "a key of another channel": (lambda place: place.flags(origin_key=place.other.origin_key), 2, "other.key"),
    "a key that others can read": (loose_key, 2, "0644"),
    "a bootstrap address that is none": (lambda place: place.flags(bootstrap="10.0.0.1:7481"), 2, "--bootstrap"),
    "an identity that is broken": (broken_identity, 2, "node.key"),
    "a data directory that is a file": (file_for_data, 8, "file"),
    "an api for everybody": (lambda place: place.flags(api="0.0.0.0:0"), 2, "--token-file"),
    "a token that is missing": (lambda place: place.flags(token_file=place.home / "none"), 2, "token file"),
    "a token that never ends": (lambda place: place.flags(token_file="/dev/zero"), 2, "/dev/zero is no regular file"),
    "a token that is a pipe": (lambda place: place.flags(token_file=pipe(place)), 2, "pipe is no regular file"),
    "settings that are a directory": (lambda place: place.flags(config=place.home), 2, "is a directory"),
    "an address that is none": (
        lambda place: place.flags(announce_p2p="foo"),
        2,
        "--announce-p2p: 'foo' is not IP:PORT",
    ),
    "a place to publish from that is none": (
        lambda place: place.flags(publish_root="/nonexist"),
        2,
        "--publish-root: /nonexist cannot be looked at: No such file or directory",
    ),
    "a flag that there is not": (lambda place: [*place.flags(), "--foo"], 2, "No such option: --foo"),
    "a number that is none": (lambda place: [*place.flags(), "--keep", "x"], 2, "'--keep'"),
    "a flag without its value": (lambda place: [*place.flags(), "--keep"], 2, "'--keep' requires an argument"),
    "a word too many": (lambda place: [*place.flags(), "extra"], 2, "(extra)"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_daemon_refuses_to_start_in_one_sentence_with(what: str, tmp_path: Path) -> None:
    make_flags, exit_code, words = REFUSALS[what]
    ended = run("-m", "shardcast.daemon", *make_flags(Place(tmp_path)))
    assert_refused(ended, exit_code, words)


@pytest.mark.parametrize("plane", ["p2p", "serve", "api"])
def test_a_daemon_refuses_to_start_on_a_port_that_is_taken(plane: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = Place(tmp_path).flags(**{plane: f"127.0.0.1:{port}"})
        assert_refused(run("-m", "shardcast.daemon", *flags), 2, str(port))


def assert_refused(ended: subprocess.CompletedProcess[str], exit_code: int, words: str) -> None:
    assert ended.returncode == exit_code, ended.stderr
    assert ended.stdout == "" and "Traceback" not in ended.stderr
    (sentence,) = [line for line in ended.stderr.splitlines() if " level=" not in line]
    assert sentence.startswith("shardcast-node: ") and words in sentence


def test_a_second_daemon_on_a_data_directory_names_the_first_and_leaves_it_alone(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        first = made.origin()
        flags = ["--data", str(first.data), "--channel", str(made.channel.root), "--p2p", "127.0.0.1:0"]
        flags += ["--serve", "127.0.0.1:0", "--api", "127.0.0.1:0"]
        second = run("-m", "shardcast.daemon", *flags)
        assert_refused(second, 8, "in use by process")
        assert first.get("status")["peer_id"] == first.peer


def test_daemons_stopped_in_mid_transfer_end_cleanly_within_five_seconds_and_go_on_where_they_were(
    tmp_path: Path,
) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin("--up-mbps", "80")
        (client,) = made.others(origin, "client")
        path = made.checkpoint(1)
        origin.publish(path, 1)
        held = stop_in_mid_transfer(client, client, step=1)
        client.start().wait_ready()
        view = client.wait_complete(1)
        assert view["chunks_verified"] <= view["chunks"] - held, "verified chunks were fetched again"
        assert client.pulled_tree(1) == tree_of(path)
        origin.publish(made.checkpoint(2), 2)
        stop_in_mid_transfer(origin, client, step=2)
        assert_stops_cleanly(client)


def stop_in_mid_transfer(node: Daemon, client: Daemon, *, step: int) -> int:
    """Stop a node while a client fetches a step; return the chunks that the client held by then."""
    until(lambda: client.version(step)["have_chunks"] > 3, 30.0, client.log)
    view = client.version(step)
    assert view["state"] == "staging", "the transfer was over too soon to test anything"
    assert_stops_cleanly(node)
    return int(view["have_chunks"])


def test_a_daemon_stopped_while_it_publishes_ends_cleanly_and_shows_nothing_of_it(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        path = tmp_path / "large"
        path.mkdir()
        with (path / "zeros.weights").open("wb") as file:
            file.truncate(4096 * MIB)  # takes no space, and over a second to hash
        body = f'{{"path": "{path}", "step": 1, "link": "hardlink"}}'
        api = origin.ready["api"]
        asking = subprocess.Popen(
            ["curl", "-sN", "-H", "Content-Type: application/json", "-d", body, f"{api}/v1/channels/demo/versions"],
            stdout=subprocess.PIPE,
        )
        assert asking.stdout is not None
        assert b"hashing" in asking.stdout.readline()
        assert_stops_cleanly(origin)
        asking.stdout.close()
        asking.wait(10)
        assert list((origin.data / "versions").iterdir()) == list((origin.data / "staging").iterdir()) == []
        origin.start().wait_ready()
        assert origin.get("channels/demo/versions")["versions"] == []


def assert_stops_cleanly(node: Daemon) -> None:
    began_s = time.monotonic()
    assert node.stop() == 0, node.log()
    assert time.monotonic() - began_s < 5.0
    log = node.log()
    assert "Traceback" not in log and "level=error" not in log and "never retrieved" not in log, log


BROKEN = """
import sys
from shardcast_proto.errors import InvariantViolated
import shardcast_relay.machine as machine
def broken(self, out):
    raise InvariantViolated("a chunk is in two states")
machine.Machine._reconcile = broken
from shardcast.daemon import main
main()
"""

DEAF = """
import asyncio
from shardcast.p2p.node import P2pNode
start = P2pNode.start
def die():
    raise RuntimeError("trio is gone")
async def start_and_die(self):
    addresses = await start(self)
    asyncio.get_running_loop().call_later(1.0, self._bridge.poke, die)
    return addresses
P2pNode.start = start_and_die
from shardcast.daemon import main
main()
"""


@pytest.mark.parametrize(("program", "words"), [(BROKEN, "two states"), (DEAF, "p2p side ended")])
def test_a_daemon_that_is_broken_ends_with_seventy_and_says_why(program: str, words: str, tmp_path: Path) -> None:
    ended = run("-c", program, *Place(tmp_path).flags())
    assert ended.returncode == 70, ended.stderr
    assert ended.stdout.startswith('{"ready": true')
    assert words in ended.stderr and "never retrieved" not in ended.stderr
    assert "shardcast-node: " in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_that_is_told_to_stop_while_it_starts_stops(number: signal.Signals, tmp_path: Path) -> None:
    place = Place(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "shardcast.daemon", *place.flags()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    until(lambda: (place.home / "data" / "state.db").exists(), 20.0)
    process.send_signal(number)
    ready, log = process.communicate(timeout=10)
    assert process.returncode == (130 if number == signal.SIGINT and not ready else 0), log
    assert "Traceback" not in log


#: A node whose control network does not end, and one whose thread goes on and on: neither is told to.
NETWORK_HANGS = """
import asyncio
from shardcast.p2p.node import P2pNode
async def hang(self):
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
P2pNode.aclose = hang
from shardcast.daemon import main
main()
"""
THREAD_HANGS = """
import threading, time
from shardcast.node import Node
right = Node.start
async def start(self):
    threading.Thread(target=time.sleep, args=(60,)).start()
    return await right(self)
Node.start = start
from shardcast.daemon import main
main()
"""
DISK_HANGS = """
import time
from shardcast.store import Store
Store.close = lambda self: time.sleep(60)
from shardcast.daemon import main
main()
"""
LOOP_HANGS = """
import asyncio, time
from shardcast.http.api import ApiServer
async def hang(self):
    time.sleep(60)
ApiServer.aclose = hang
from shardcast.daemon import main
main()
"""


@pytest.mark.parametrize(
    ("program", "code"),
    [(NETWORK_HANGS, 0), (THREAD_HANGS, 0), (DISK_HANGS, 8), (LOOP_HANGS, 8)],
    ids=["network", "thread", "disk", "loop"],
)
def test_a_daemon_of_which_something_hangs_stops_in_mid_transfer_and_saves_what_it_can(
    program: str, code: int, tmp_path: Path
) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin("--up-mbps", "60")
        client = made.daemon("client", bootstrap=origin, program=("-c", program)).wait_ready()
        until(client.has_neighbour, 20.0)
        origin.publish(made.checkpoint(1), 1)
        until(lambda: client.version(1)["have_chunks"] > 3, 30.0, client.log)
        began_s = time.monotonic()
        assert client.stop() == code, client.log()
        assert time.monotonic() - began_s < 5.0
        assert ("not everything stopped" in client.log()) == bool(code)
        with Store.open(client.data) as store:
            assert store.was_killed == bool(code)
            (row,) = store.versions()
            assert row.state == "staging" and (code or row.have_count > 3)


def test_a_daemon_that_serves_ends_well_by_ctrl_c(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        node = made.origin()
        node.signal(signal.SIGINT)
        until(lambda: not node.is_running, 10.0)
        assert node.stop() == 0 and "Traceback" not in node.log(), node.log()


@pytest.mark.parametrize("flag", [None, "--print-config", "--help"])
def test_a_daemon_whose_output_goes_to_a_full_disk_says_so(flag: str | None, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shardcast.daemon", *Place(tmp_path).flags(), *([flag] if flag else [])]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, env=ENVIRONMENT)
    (sentence,) = [line for line in ended.stderr.splitlines() if " level=" not in line]
    assert ended.returncode == 8
    assert sentence.startswith("shardcast-node: cannot write to standard output: No space left on device"), sentence
