"""What the service manager is told, on a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from shardcast.systemd import keep_watchdog, notify, watchdog_interval_s


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path, monkeypatch):
    name = str(tmp_path / "notify") if request.param == "path" else f"@shardcast-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as messages:
        messages.settimeout(10)
        messages.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield messages


def test_assignments_arrive_as_the_lines_of_one_datagram(manager):
    assert notify("READY=1", "STATUS=größer")
    assert manager.recv(4096).decode() == "READY=1\nSTATUS=größer"


def test_without_a_manager_nobody_is_told(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")


def test_a_manager_that_is_gone_ends_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not notify("READY=1")


@pytest.mark.parametrize(
    ("variables", "interval_s"),
    [
        ({"WATCHDOG_USEC": "20000000"}, 10.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}, 10.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_interval(monkeypatch, variables, interval_s):
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert watchdog_interval_s() == interval_s


async def test_the_watchdog_is_fed_only_while_the_pulse_returns(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "2000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    hung, beats = asyncio.Event(), iter(range(3))

    async def pulse() -> None:
        if next(beats, None) is None:
            hung.set()
            await asyncio.Event().wait()

    feeding = asyncio.ensure_future(keep_watchdog(pulse))
    await asyncio.wait_for(hung.wait(), 10)
    feeding.cancel()
    manager.setblocking(False)
    assert [manager.recv(64) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    with pytest.raises(BlockingIOError):
        manager.recv(64)
