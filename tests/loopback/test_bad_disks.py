"""Bad days of the disk under whole nodes: full before and in the middle of a transfer, failing in the middle, read-only at the start.

Where a disk is full or read-only the node lives in a mount namespace of its own, in which its data directory is a small file system; it
is gone with the process. A disk that fails is made by system calls that fail for as long as a file is there.
"""

from __future__ import annotations

import errno
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.loopback.daemons import MIB, Daemon, swarm, tree_of, until

pytestmark = pytest.mark.timeout(120)

#: As root a mount namespace is enough; others need a user namespace round it.
UNSHARE = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--user", "--map-root-user", "--mount")


#: A node whose system calls of these names, and if so wished whose database, fail while a file exists.
FAILING = """
import os, sqlite3
from pathlib import Path
def failing(right):
    def call(*arguments):
        if Path({broken!r}).exists():
            raise OSError({number}, os.strerror({number}))
        return right(*arguments)
    return call
for name in {calls!r}:
    setattr(os, name, failing(getattr(os, name)))
class Connection(sqlite3.Connection):
    def execute(self, sql, *more):
        if {has_database} and not sql.startswith("SELECT") and Path({broken!r}).exists():
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *more)
connect = sqlite3.connect
sqlite3.connect = lambda *arguments, **more: connect(*arguments, factory=Connection, **more)
from shardcast.daemon import main
main()
"""


@pytest.fixture
def _namespaces(tmp_path: Path) -> None:
    """Skip, and say so, where this user may mount nothing."""
    probe = [*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs in a namespace of its own")


def on_small_disk(path: Path, size_bytes: int) -> tuple[str, ...]:
    """Return the words before a node's command that put a small file system at `path`."""
    path.mkdir(mode=0o700)
    mount = f"mount -t tmpfs -o mode=0700,size={size_bytes} tmpfs '{path}'"
    return (*UNSHARE, "sh", "-c", f'{mount} && exec "$@"', "sh")


def read_only(path: Path) -> tuple[str, ...]:
    """Return the words before a node's command that make what lies at `path` read-only."""
    mount = f"mount --bind '{path}' '{path}' && mount -o remount,bind,ro '{path}'"
    return (*UNSHARE, "sh", "-c", f'{mount} && exec "$@"', "sh")


def on_disk_that_is_full_at_first(path: Path, size_bytes: int) -> tuple[str, ...]:
    """Return the words that start a node on a full file system, see it end with 8, make space, and start it again."""
    *words, script, name = on_small_disk(path, size_bytes)
    filler = f"'{path}/filler'"
    twice = f'(head -c {size_bytes} /dev/zero >{filler}; "$@"; test $? = 8) && rm {filler} && exec'
    return (*words, script.replace("exec", twice), name)


def filler(node: Daemon) -> Path:
    """Return a file on a node's own file system, as it is seen from here."""
    return Path(f"/proc/{node.pid}/root{node.data}/filler")


def fill(path: Path, *, keep_bytes: int = 0) -> None:
    """Take all space but `keep_bytes`."""
    status = os.statvfs(path.parent)
    left = status.f_bavail * status.f_frsize - keep_bytes
    with path.open("wb", buffering=0) as file:
        try:
            while left > 0:
                left -= file.write(b"\xff" * min(left, 64 * 1024))
        except OSError:
            assert not keep_bytes  # the node writes too: what matters is that nothing is left


def readiness(node: Daemon) -> tuple[int, str]:
    """Return what /readyz says."""
    try:
        with urllib.request.urlopen(f"{node.ready['api']}/readyz", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def assert_says_that_the_disk_is_full(node: Daemon) -> None:
    assert "full" in node.get("status")["store_error"]
    code, text = readiness(node)
    assert code == 503 and "full" in text
    assert node.is_running


def assert_is_well_again(node: Daemon) -> None:
    assert node.get("status")["store_error"] is None
    assert readiness(node)[0] == 200
    assert "Traceback" not in node.log()


@pytest.mark.usefixtures("_namespaces")
def test_a_disk_too_full_for_a_version_is_a_state_that_ends_when_space_returns(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        client = made.daemon("client", bootstrap=origin, wrap=on_small_disk(tmp_path / "client", 32 * MIB)).wait_ready()
        until(client.has_neighbour, 20.0, client.log)
        first, second = made.checkpoint(1, 4 * MIB), made.checkpoint(2)
        origin.publish(first, 1)
        client.wait_complete(1)
        fill(filler(client), keep_bytes=6 * MIB)
        origin.publish(second, 2)
        until(lambda: bool(client.get("status")["store_error"]), 20.0, client.log)
        assert_says_that_the_disk_is_full(client)
        view = client.version(2)
        assert view["state"] in ("announced", "staging") and "disk full" in view["error"]
        name = next(iter(tree_of(first)))
        assert client.get_bytes(f"channels/demo/versions/1/files/{name}") == tree_of(first)[name]
        filler(client).unlink()
        client.wait_complete(2, timeout_s=30.0)
        assert_pulls(client, 2, second)
        assert_is_well_again(client)


@pytest.mark.usefixtures("_namespaces")
def test_a_disk_that_fills_up_in_mid_transfer_costs_no_verified_chunk(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin("--up-mbps", "24")
        client = made.daemon("client", bootstrap=origin, wrap=on_small_disk(tmp_path / "client", 40 * MIB)).wait_ready()
        until(client.has_neighbour, 20.0, client.log)
        path = made.checkpoint(1)
        origin.publish(path, 1)
        until(lambda: client.version(1)["have_chunks"] > 3, 30.0)
        fill(filler(client))
        until(lambda: bool(client.get("status")["store_error"]), 20.0, client.log)
        assert_says_that_the_disk_is_full(client)
        view = client.version(1)
        assert view["state"] == "staging" and view["have_chunks"] > 3 and "full" in view["error"]
        filler(client).unlink()
        view = client.wait_complete(1, timeout_s=30.0)
        assert view["chunks_verified"] <= view["chunks"] and view["duplicate_chunks"] <= 4
        assert_pulls(client, 1, path)
        assert_is_well_again(client)


@pytest.mark.parametrize(
    ("number", "calls", "has_database"),
    [
        (errno.EIO, ("pwritev",), False),
        (errno.EIO, ("fdatasync",), False),
        (errno.EROFS, ("pwritev", "fdatasync", "fsync", "posix_fallocate"), True),
    ],
    ids=["writes fail", "syncs fail", "read-only"],
)
def test_a_disk_that_fails_in_mid_transfer_is_a_state_that_ends_when_it_works_again(
    tmp_path: Path, number: int, calls: tuple[str, ...], has_database: bool
) -> None:
    keeps_chunks = calls == ("pwritev",)
    with swarm(tmp_path) as made:
        broken, name = tmp_path / "broken", errno.errorcode[number]
        origin = made.origin("--up-mbps", "24")
        program = FAILING.format(broken=str(broken), number=number, calls=calls, has_database=has_database)
        client = made.daemon("client", bootstrap=origin, program=("-c", program)).wait_ready()
        until(client.has_neighbour, 20.0, client.log)
        path = made.checkpoint(1)
        origin.publish(path, 1)
        until(lambda: client.version(1)["have_chunks"] > 3, 30.0)
        broken.touch()
        until(lambda: bool(client.get("status")["store_error"]), 20.0, client.log)
        assert name in client.get("status")["store_error"]
        code, text = readiness(client)
        assert code == 503 and name in text
        view = client.version(1)
        assert view["state"] in ("staging", "failed") and name in view["error"]
        assert not keeps_chunks or view["have_chunks"] > 3
        assert client.is_running
        if has_database:  # not even that the version is given up can be noted
            until(lambda: "disk I/O error" in (client.version(1)["error"] or ""), 20.0, client.log)
        broken.unlink()
        view = client.wait_complete(1, timeout_s=60.0)
        assert view["error"] is None
        assert not keeps_chunks or view["chunks_verified"] == view["chunks"]
        assert client.pulled_tree(1) == tree_of(path)
        assert [peer for peer in client.get("peers")["peers"] if peer["quarantined_for_s"]] == []
        assert_is_well_again(client)


@pytest.mark.usefixtures("_namespaces")
def test_a_node_that_could_not_start_on_a_full_disk_starts_when_there_is_space(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        node = made.daemon("node", wrap=on_disk_that_is_full_at_first(tmp_path / "node", 8 * MIB)).wait_ready()
        (sentence,) = [line for line in node.log().splitlines() if line.startswith("shardcast-node: ")]
        assert "full" in sentence and "Traceback" not in node.log()
        assert readiness(node)[0] == 200


@pytest.mark.usefixtures("_namespaces")
@pytest.mark.parametrize("has_run_before", [False, True])
def test_a_node_refuses_a_read_only_data_directory_in_one_sentence(tmp_path: Path, has_run_before: bool) -> None:
    with swarm(tmp_path) as made:
        data = tmp_path / "node"
        if has_run_before:
            assert made.daemon("node").wait_ready().stop() == 0
        else:
            data.mkdir(mode=0o700)
        node = made.daemon("node", wrap=read_only(data))
        until(lambda: not node.is_running, 20.0)
        assert node.stop() == 8
        sentence = node.log().splitlines()[-1]
        assert sentence.startswith("shardcast-node: ") and "read-only" in sentence and str(data) in sentence
        assert "Traceback" not in node.log()


def assert_pulls(node: Daemon, step: int, path: Path) -> None:
    """Compare a version with its source through the API: the node's file system cannot be seen from here."""
    for name, data in tree_of(path).items():
        assert node.get_bytes(f"channels/demo/versions/{step}/files/{name}") == data
