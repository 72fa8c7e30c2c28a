"""A hundred silent connections on each port of a real daemon: each is cut within ten seconds, and nobody else notices."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import pytest

from tests.loopback.daemons import Daemon, swarm, tree_of

pytestmark = pytest.mark.timeout(120)

SILENT = 100
CUT_WITHIN_S = 10.0
#: What the selector, the scheduler and a busy test machine may add.
SLACK_S = 0.9


class Crowd:
    """Connections to one port that say nothing; when a time limit cuts one, another takes its place.

    All come from the address that the honest ones come from, so that no limit for an address can tell them apart.
    """

    def __init__(self, port: int) -> None:
        self._address = ("127.0.0.1", port)
        self._selector = selectors.DefaultSelector()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._stay)
        #: The longest that one of them was left alone.
        self.longest_s = 0.0
        #: How many were cut after at least a second, that is by a time limit.
        self.cut_count = 0

    def __enter__(self) -> Self:
        for _ in range(SILENT):
            self._come()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            self._note_age(key.data)
            key.fileobj.close()
        self._selector.close()

    def _come(self) -> None:
        visitor = socket.create_connection(self._address, timeout=20)
        self._selector.register(visitor, selectors.EVENT_READ, time.monotonic())

    def _note_age(self, came_s: float) -> float:
        age_s = time.monotonic() - came_s
        self.longest_s = max(self.longest_s, age_s)
        return age_s

    def _stay(self) -> None:
        while not self._is_over.is_set():
            cut = [key for key, _ in self._selector.select(0.05) if _is_cut(key.fileobj)]
            for key in cut:
                is_by_time = self._note_age(key.data) > 1.0
                self._selector.unregister(key.fileobj)
                key.fileobj.close()
                if is_by_time:
                    self.cut_count += 1
                    self._come()


def test_silent_connections_are_cut_within_ten_seconds_while_others_work(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        path = made.checkpoint(1)
        origin.publish(path, 1)
        began_s = time.monotonic()
        with crowds(origin) as crowded:
            newcomer = made.daemon("newcomer", bootstrap=origin).wait_ready()
            newcomer.wait_complete(1, timeout_s=20.0)
            assert newcomer.pulled_tree(1) == tree_of(path)
            while time.monotonic() - began_s < CUT_WITHIN_S + 2.0:
                asked_s = time.monotonic()
                assert origin.get("status")["peer_id"] == origin.peer
                assert time.monotonic() - asked_s < 2.0
                time.sleep(0.2)
        for name, crowd in crowded.items():
            assert crowd.longest_s < CUT_WITHIN_S + SLACK_S, f"{name} left one alone for {crowd.longest_s:.1f} s"
            assert crowd.cut_count >= 50, f"{name} cut only {crowd.cut_count}"
        assert newcomer.has_neighbour() and origin.has_neighbour()
        assert "Traceback" not in origin.log()


@contextmanager
def crowds(node: Daemon) -> Iterator[dict[str, Crowd]]:
    """Fill all three ports of a node with silence."""
    with Crowd(port_of("p2p", node)) as p2p, Crowd(port_of("serve", node)) as serve, Crowd(port_of("api", node)) as api:
        yield {"p2p": p2p, "serve": serve, "api": api}


def port_of(plane: str, node: Daemon) -> int:
    """Return the port of one plane, from the ready line."""
    text = str(node.ready[plane])
    if plane == "p2p":
        return int(text.split("/")[4])
    return urlsplit(text if "//" in text else f"//{text}").port or 0


def _is_cut(visitor: object) -> bool:
    assert isinstance(visitor, socket.socket)
    try:
        return visitor.recv(4096) == b""
    except OSError:
        return True
