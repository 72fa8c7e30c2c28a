"""The stock `huggingface_hub` in a process of its own, as somebody's program has it, with a wire that can be read or cut."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

#: Calls a function of huggingface_hub, and prints what it returns, or the names of the classes of what it raises.
_CHILD = """
import json, os, sys
import huggingface_hub
name, arguments = sys.argv[1], json.loads(sys.argv[2])
try:
    value = getattr(huggingface_hub, name, None) or getattr(huggingface_hub.HfApi(), name)
    value = value(**arguments)
    if name == "list_repo_tree":
        value = [[type(item).__name__, item.path] for item in value]
    print(json.dumps({"value": value if isinstance(value, (str, bool, list)) else value.__dict__}, default=str))
except Exception as error:
    print(json.dumps({"error": [kind.__name__ for kind in type(error).__mro__], "text": str(error)}))
"""
_HEAD = re.compile(rb"(GET|HEAD|POST) (\S+) HTTP/1\.1\r\n(.*?)\r\n\r\n", re.DOTALL)


class HubError(Exception):
    """What huggingface_hub raised.

    Attributes:
        kinds: The names of its class and of those above.
    """

    def __init__(self, kinds: list[str], text: str) -> None:
        super().__init__(f"{kinds[0]}: {text}")
        self.kinds = kinds


def environment(endpoint: str, home: Path, *, token: str | None = None) -> dict[str, str]:
    """What a user sets for a program that pulls from a node, and nothing else of this machine's."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    mine |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    return mine | ({"HF_TOKEN": token} if token else {})


def hub(endpoint: str, home: Path, function: str, *, token: str | None = None, **arguments: Any) -> Any:
    """Call a function of huggingface_hub, or of its HfApi, and return what it returns.

    Raises:
        HubError: It raised.
    """
    home.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, function, json.dumps(arguments)],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=110,
        env=environment(endpoint, home, token=token),
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        raise HubError(answer["error"], answer["text"])
    return answer["value"]


class Asked(NamedTuple):
    """A request that went over a wire."""

    method: str
    path: str
    range: str | None


@dataclass
class Wire:
    """A TCP forwarder before a node."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    #: The first answer that is longer is cut there, once.
    cut_after_bytes: int | None = None

    def gets(self, part: str = "/resolve/") -> list[Asked]:
        """Return the requests for bytes that a path with `part` named."""
        return [asked for asked in self.asked if asked.method == "GET" and part in asked.path]


@contextlib.contextmanager
def wire_to(api: str) -> Iterator[Wire]:
    """Forward connections to a node's API, and note what is asked."""
    target = urlsplit(api)
    listener = socket.create_server(("127.0.0.1", 0))
    wire = Wire(f"http://127.0.0.1:{listener.getsockname()[1]}")

    def serve() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection((str(target.hostname), int(target.port or 80)))
            for pump in (_note, _answer):
                threading.Thread(target=pump, args=(near, far, wire), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield wire
    finally:
        # a thread that waits in accept is not woken by close alone
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _note(near: socket.socket, far: socket.socket, wire: Wire) -> None:
    pending = b""
    with contextlib.suppress(OSError):
        while data := near.recv(65536):
            pending += data
            while match := _HEAD.search(pending):
                wanted = re.search(rb"^range: *(.*?)\r?$", match[3], re.IGNORECASE | re.MULTILINE)
                wire.asked.append(
                    Asked(match[1].decode(), unquote(match[2].decode()), wanted[1].decode() if wanted else None)
                )
                pending = pending[match.end() :]
            far.sendall(data)
    _end(near, far)


def _answer(near: socket.socket, far: socket.socket, wire: Wire) -> None:
    passed = 0
    with contextlib.suppress(OSError):
        while data := far.recv(65536):
            limit = wire.cut_after_bytes
            passed += len(data)
            if limit is not None and passed > limit:
                wire.cut_after_bytes = None
                break
            near.sendall(data)
    _end(near, far)


def _end(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
