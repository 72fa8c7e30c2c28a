"""The lab is what it says: its links have their rates, its hosts fail when told to, and it leaves nothing behind."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench_fanout_lab import write_checkpoint  # type: ignore[import-not-found]
from lab import Lab, Link, best_seconds, namespaces, why_not  # type: ignore[import-not-found]

from tests.test_tidy import ROOT

MIB = 1 << 20
LINKS = [Link("origin", 100, 100), Link("host-1", 100, 100), Link("host-2", 100, 100)]
PORT = 9000


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("lab") / "checkpoint", 8 * MIB)


@pytest.fixture
def lab():
    if why := why_not():
        pytest.skip(why)
    with Lab(LINKS) as made:
        yield made
        home = made.home
    assert namespaces() == [] and not home.exists()


@pytest.mark.lab
def test_one_flow_between_two_hosts_is_no_faster_than_the_link(lab):
    size_bytes, rate_bytes_per_s = 8 * MIB, 100e6 / 8
    seconds = _flow(lab, size_bytes)
    # no bound from above that a busy machine could break: whether a flow fills its link is for the bench to show
    assert 0.95 * size_bytes / rate_bytes_per_s <= seconds
    assert size_bytes < lab.network.sent_bytes("origin") < 1.1 * size_bytes


@pytest.mark.lab
def test_a_cut_link_carries_nothing_until_it_is_mended(lab):
    lab.cut("host-1")
    with pytest.raises(OSError):
        _flow(lab, MIB, timeout_s=1.0)
    lab.mend("host-1")
    assert _flow(lab, MIB) < 5


@pytest.mark.lab
def test_a_host_that_is_killed_is_dead_and_its_cpu_time_is_still_known(lab):
    lab.start("host-1", [sys.executable, "-c", "sum(range(10**6)); print('here', flush=True); input()"], stdin=True)
    assert lab.stdout_of("host-1").readline() == "here\n" and lab.living == ["host-1"]
    lab.kill("host-1")
    assert lab.living == [] and sum(lab.cpu_seconds()["host-1"]) > 0


@pytest.mark.lab
@pytest.mark.timeout(90)
def test_a_swarm_in_the_lab_is_measured_while_a_host_is_cut_and_then_killed(lab, checkpoint, tmp_path):
    from _lab_nodes import Nodes  # type: ignore[import-not-found]
    from _lab_runs import Case, Fault, measure  # type: ignore[import-not-found]

    nodes = Nodes(lab, checkpoint)
    nodes.prepare()
    run = measure(lab, Case("all", tuple(LINKS)), nodes, checkpoint=checkpoint, hang_factor=30)
    assert run.seconds is not None and run.seconds > 0.9 * run.best_seconds, run
    assert set(run.host_seconds) == {"host-1", "host-2"} and run.cpu_seconds > 0
    assert run.origin_copies >= 1 and run.origin_wire_copies > run.origin_copies
    assert all(0 < first <= run.seconds for first in run.first_chunk_seconds.values())

    for kind in ("cut", "kill"):
        nodes.checkpoint = write_checkpoint(tmp_path / kind, 8 * MIB)
        failing = Case(kind, tuple(LINKS), faults=(Fault(0.3, "host-1", kind),))
        assert failing.awaited == ["host-2"]
        run = measure(lab, failing, nodes, checkpoint=nodes.checkpoint, hang_factor=60)
        assert run.seconds is not None and run.shares["host-1"] < 1, run
    assert lab.living == ["origin", "host-2"]


@pytest.mark.lab
def test_an_interrupted_bench_leaves_no_namespace_no_process_and_no_file(tmp_path):
    if why := why_not():
        pytest.skip(why)
    command = [sys.executable, str(ROOT / "benches" / "bench_fanout_lab.py"), "--cases", "equal", "--systems", "ours"]
    with (tmp_path / "err").open("wb") as err:
        bench = subprocess.Popen([*command, "--size-mib", "4"], stdout=err, stderr=err, process_group=0)
    mine = f"sc-{bench.pid}-"
    try:
        _until(lambda: mine in _all_namespaces() and len(_pids_in(mine)) > 2)
        bench.send_signal(signal.SIGINT)
        assert bench.wait(20) == 130
    finally:
        bench.kill()
        bench.wait()
    assert mine not in _all_namespaces() and _pids_in(mine) == []
    assert list(Path("/dev/shm").glob(f"sc-lab-{bench.pid}-*")) == []


def test_the_best_time_is_that_of_the_narrowest_place():
    def best(up, downs, ups):
        return best_seconds(
            Link("o", up, 1000), [Link("h", *link) for link in zip(ups, downs, strict=True)], 10**9 // 8
        )

    assert best(100, [1000, 1000], [1000, 1000]) == 10.0
    assert best(1000, [50, 1000], [1000, 1000]) == 20.0
    assert best(200, [1000] * 4, [50] * 4) == 10.0


def test_the_written_checkpoint_has_exactly_the_size(checkpoint):
    assert sum(file.stat().st_size for file in checkpoint.iterdir()) == 8 * MIB
    with (checkpoint / "model-0.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert header["weights.0"]["dtype"] == "U8"


def _flow(lab, size_bytes, timeout_s=20.0):
    """Send bytes from the origin to host-1 over one connection, and return the seconds from the first to the last."""
    address = (lab.address("host-1"), PORT)
    listener = lab.call("host-1", lambda: socket.create_server(address)).result()
    with listener:
        listener.settimeout(timeout_s)
        receiving = lab.call("host-1", lambda: _receive(listener, timeout_s))
        try:
            lab.call("origin", lambda: _send(address, size_bytes, timeout_s)).result()
        finally:
            outcome = receiving.exception()
        assert outcome is None, outcome
        received, began_s, ended_s = receiving.result()
    assert received == size_bytes
    return ended_s - began_s


def _send(address, size_bytes, timeout_s):
    with socket.create_connection(address, timeout=timeout_s) as connection:
        connection.sendall(bytes(size_bytes))


def _receive(listener, timeout_s):
    connection, _ = listener.accept()
    began_s, received = time.monotonic(), 0
    with connection:
        connection.settimeout(timeout_s)
        while part := connection.recv(MIB):
            received += len(part)
    return received, began_s, time.monotonic()


def _all_namespaces():
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


def _pids_in(prefix):
    names = [line.split()[0] for line in _all_namespaces().splitlines() if line.startswith(prefix)]
    found = [
        subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False) for name in names
    ]
    return [int(pid) for done in found for pid in done.stdout.split()]


def _until(condition, timeout_s=40.0):
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "too late"
        time.sleep(0.05)
