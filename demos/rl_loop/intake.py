"""The trainer's door for rollouts: an HTTP server that holds a few groups, and lets samplers wait while it is full."""

from __future__ import annotations

import json
import queue
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from .rollouts import Group

_BODY_BYTES_MAX: Final = 4 * 1024 * 1024
#: How long a sampler is kept waiting for room before it is told to come again.
_PATIENCE_S: Final = 20.0
_LOOK_S: Final = 0.1


class Intake:
    """Takes rollouts in, and leaves out those of versions that are too old.

    Attributes:
        used, dropped: How many rollouts went each way, by how many steps old they were.
        by_digest: How many came in, by the digest that they carry.
        unknown: How many carried a digest that was never published.
    """

    def __init__(self, *, groups_max: int, off_policy_steps_max: int) -> None:
        self._groups: queue.Queue[Group] = queue.Queue(groups_max)
        self._off_policy_steps_max = off_policy_steps_max
        self._lock = threading.Lock()
        self._publishing = threading.Lock()
        self._published: dict[str, int] = {}
        self._step = 0
        self._is_over = threading.Event()
        self.used: Counter[int] = Counter()
        self.dropped: Counter[int] = Counter()
        self.by_digest: Counter[str] = Counter()
        self.unknown = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where samplers deliver."""
        return f"http://127.0.0.1:{self._server.server_port}/rollouts"

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Make a block in which a version is published: its rollouts may come before it ends, and are judged after that."""
        with self._publishing:
            yield

    def published(self, digest: str, step: int) -> None:
        """Note the version that is the newest from now on."""
        with self._lock:
            self._published[digest], self._step = step, step

    def take(self) -> Group:
        """Return the next group that is fresh enough; wait for it."""
        while True:
            group = self._groups.get()
            if not self._is_dropped(group):
                with self._lock:
                    self.used[self._step - group.step] += group.size
                return group

    def put(self, group: Group) -> bool | None:
        """Keep a group for the trainer; wait for room. Say whether it was taken, or None when there was no room for long."""
        if group.digest not in self._published:
            with self._publishing:
                pass
        with self._lock:
            if self._published.get(group.digest) != group.step:
                self.unknown += group.size
                return False
            self.by_digest[group.digest] += group.size
        if self._is_dropped(group):
            return False
        for _ in range(int(_PATIENCE_S / _LOOK_S)):
            if self._is_over.is_set():
                return False
            try:
                self._groups.put(group, timeout=_LOOK_S)
            except queue.Full:
                continue
            return True
        return None

    @property
    def is_over(self) -> bool:
        """Whether nothing is taken any more."""
        return self._is_over.is_set()

    def end(self) -> None:
        """Tell samplers from now on that the run is over."""
        self._is_over.set()

    def _is_dropped(self, group: Group) -> bool:
        """Count a group out if it is too old."""
        with self._lock:
            lag = self._step - group.step
            if lag <= self._off_policy_steps_max:
                return False
            self.dropped[lag] += group.size
            return True


def _handler_of(intake: Intake) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if intake.is_over:
                self._answer(410, {"error": "the run is over"})
                return
            length = int(self.headers.get("Content-Length", "0"))
            if not 0 < length <= _BODY_BYTES_MAX:
                self._answer(413, {"error": f"a group has 1 to {_BODY_BYTES_MAX} bytes"})
                return
            try:
                group = Group.read(self.rfile.read(length))
            except ValueError as error:
                self._answer(400, {"error": str(error)})
                return
            taken = intake.put(group)
            self._answer(503 if taken is None else 200, {"taken": taken})

        def _answer(self, status: int, value: dict[str, object]) -> None:
            body = json.dumps(value).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except ConnectionError:
                self.close_connection = True  # a sampler that was killed meanwhile

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing: the trainer's output is its events."""

    return Handler
