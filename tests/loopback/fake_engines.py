"""Engines that speak the routes of vLLM, SGLang and prime-rl, and can be told to misbehave: in this process, or as one of their own.

    python -m tests.loopback.fake_engines KIND PORT

They "load" a directory by reading every file of it. What they answer, with which status, is what the servers of these projects answer; a
load that fails half-way leaves half of the files. What a test may set or read of a process goes through `/_fake`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROUTES = {
    "vllm": [
        "/pause",
        "/resume",
        "/is_paused",
        "/collective_rpc",
        "/init_weight_transfer_engine",
        "/start_weight_update",
        "/update_weights",
        "/finish_weight_update",
        "/update_weight_version",
        "/weight_info",
        "/reset_prefix_cache",
        "/health",
    ],
    "sglang": ["/pause_generation", "/continue_generation", "/update_weights_from_disk", "/model_info", "/health"],
    "prime-rl": ["/pause", "/resume", "/update_weights", "/health"],
}


#: What the engine's core does, one thing after another; its front answers the rest meanwhile.
CORE = {
    "/pause",
    "/resume",
    "/is_paused",
    "/collective_rpc",
    "/update_weights",
    "/start_weight_update",
    "/finish_weight_update",
    "/update_weights_from_disk",
    "/pause_generation",
    "/continue_generation",
}


@dataclass
class State:
    """What a fake engine is and does."""

    kind: str
    routes: list[str]
    label: str = "default"
    is_paused: bool = False
    #: Digests of the loaded files, by name.
    weights: dict[str, str] = field(default_factory=dict)
    #: Step of the last directory that was loaded whole.
    loads: list[str] = field(default_factory=list)
    #: Every call: path with query, body.
    calls: list[tuple[str, Any]] = field(default_factory=list)
    #: What to do instead, by path, one for each call: "500", "400", "false", "garbage", "huge", "drop", "hang 5", "half", "die".
    faults: dict[str, list[str]] = field(default_factory=dict)
    has_plugin: bool = False
    load_s: float = 0.0
    load_running: int = 0
    load_running_max: int = 0
    is_sampling_in_load: bool = False
    #: What its prefix cache was computed with.
    cached: str = "old weights"
    core: threading.Lock = field(default_factory=threading.Lock)

    def paths(self) -> list[str]:
        return [path.partition("?")[0] for path, _ in self.calls]


def tree_digests(path: Path) -> dict[str, str]:
    """The digest of each file below a directory, but those that are markers."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.name not in ("STABLE", ".shardcast")
    }


class Refused(Exception):
    def __init__(self, status: int, body: object) -> None:
        super().__init__(status)
        self.status, self.body = status, body


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve({})

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._serve(json.loads(data) if data else None)

    def _serve(self, body: Any) -> None:
        path = self.path.partition("?")[0]
        if path == "/_fake":
            self._control(body)
            return
        state = self.state
        state.calls.append((self.path, body))
        fault = state.faults[path].pop(0) if state.faults.get(path) else ""
        word, _, number = fault.partition(" ")
        match word:
            case "hang":
                time.sleep(float(number))
            case "drop":
                self.close_connection = True
                return
            case "die":
                os._exit(9)
            case "garbage":
                self._send(200, b"<html>\x00 nothing of yours")
                return
            case "huge":
                self._send(200, b'{"a":"' + b"x" * 10_000_000 + b'"}')
                return
            case "500" | "400" | "404" | "503":
                self._send(int(word), b'{"error":"as the test wants it"}')
                return
            case "false":
                self._send(200, b'{"success": false, "message": "as the test wants it"}')
                return
            case "redirect":
                self.send_response(307)
                self.send_header("Location", "/resume")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        try:
            if path in CORE:
                with self.state.core:
                    answer = self._answer(path, body, word)
            else:
                answer = self._answer(path, body, word)
            self._send(200, json.dumps(answer).encode())
        except Refused as refused:
            self._send(refused.status, json.dumps(refused.body).encode())

    def _send(self, status: int, data: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True

    def _control(self, body: Any) -> None:
        for name, value in (body or {}).items():
            setattr(self.state, name, value)
        self._send(
            200, json.dumps({name: value for name, value in vars(self.state).items() if name != "core"}).encode()
        )

    def _answer(self, path: str, body: Any, word: str) -> Any:
        state = self.state
        if path == "/openapi.json":
            if not state.routes:
                raise Refused(404, {"detail": "Not Found"})
            return {"openapi": "3.1.0", "paths": {route: {} for route in state.routes}}
        if path not in state.routes and state.routes:
            raise Refused(404, {"detail": "Not Found"})
        match path:
            case "/health":
                return {}
            case "/pause":
                state.is_paused = True
                return {"status": "paused"}
            case "/reset_prefix_cache":
                # requests that are frozen hold blocks, and the server does not say that nothing was reset
                if "reset_running_requests=true" in self.path:
                    state.cached = ""
                return {}
            case "/resume":
                state.is_paused = False
                return {"status": "resumed"}
            case "/is_paused":
                return {"is_paused": state.is_paused}
            case "/pause_generation" | "/continue_generation":
                state.is_paused = path == "/pause_generation"
                return {"message": "done", "status": "ok"}
            case "/weight_info" | "/model_info":
                return {"weight_version": state.label}
            case "/update_weight_version":
                state.label = body["new_version"]
                return {"success": True, "new_version": state.label}
            case "/collective_rpc":
                if body["method"] == "reload_weights":
                    self._load(Path(body["kwargs"]["weights_path"]), word)
                elif body["method"] == "shardcast_load":
                    self._load(Path(body["args"][0]), word)
                else:
                    raise Refused(500, {"error": f"no method {body['method']}"})
                return {"results": [None]}
            case "/init_weight_transfer_engine":
                if not (state.has_plugin and body == {"init_info": {"shardcast": 1}}):
                    raise Refused(500, {"error": "ValueError: Invalid init_info"})
                return {"message": "Weight transfer initialized"}
            case "/start_weight_update":
                return {"message": "Weight update started"}
            case "/update_weights" if state.kind == "vllm":
                self._load(Path(body["update_info"]["path"]), word)
                return {"message": "Weights updated"}
            case "/finish_weight_update":
                state.label = body["weight_version"]
                return {"message": "Weight update finished"}
            case "/update_weights":
                if not (Path(body["weight_dir"]) / "STABLE").exists():
                    raise Refused(500, {"error": "not stable"})
                self._load(Path(body["weight_dir"]), word)
                return {"status": "ok"}
            case "/update_weights_from_disk":
                try:
                    self._load(Path(body["model_path"]), word)
                except Refused as refused:
                    raise Refused(400, {"success": False, "message": str(refused.body)}) from refused
                if body.get("weight_version") is not None:
                    state.label = body["weight_version"]
                state.cached = "" if body["flush_cache"] else state.cached
                return {"success": True, "message": "Succeeded to update model weights.", "num_paused_requests": 0}
        raise Refused(404, {"detail": "Not Found"})

    def _load(self, path: Path, word: str) -> None:
        state = self.state
        state.load_running += 1
        state.load_running_max = max(state.load_running_max, state.load_running)
        state.is_sampling_in_load |= not state.is_paused
        try:
            time.sleep(state.load_s)
            if not path.is_dir():
                raise Refused(500, {"error": f"no directory {path}"})
            loaded = tree_digests(path)
            if word == "half":
                first = next(iter(loaded))
                state.weights[first] = loaded[first]
                raise Refused(500, {"error": "a worker has failed"})
            state.weights = loaded
            state.loads.append(str(path))
        finally:
            state.load_running -= 1


class FakeEngine:
    """A fake engine in a thread of this process."""

    def __init__(self, kind: str, **options: Any) -> None:
        self.state = State(kind, list(ROUTES[kind]))
        for name, value in options.items():
            setattr(self.state, name, value)
        self._server = make_server(self.state, 0)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def fault(self, path: str, *faults: str) -> None:
        """Have the next calls of a path answered otherwise."""
        self.state.faults[path] = list(faults)

    def close(self) -> None:
        """Stop listening; doing it again does nothing."""
        self._server.shutdown()
        self._server.server_close()


def make_server(state: State, port: int) -> ThreadingHTTPServer:
    handler = type("BoundHandler", (Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    return server


@contextmanager
def fake_engine(kind: str, **options: Any) -> Iterator[FakeEngine]:
    engine = FakeEngine(kind, **options)
    try:
        yield engine
    finally:
        engine.close()


def control(url: str, **values: Any) -> dict[str, Any]:
    """Set something of an engine that is a process of its own, and return all of its state."""
    request = urllib.request.Request(f"{url}/_fake", data=json.dumps(values).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=30) as response:
        state: dict[str, Any] = json.load(response)
    return state


def main() -> None:
    kind, port = sys.argv[1], int(sys.argv[2])
    server = make_server(State(kind, list(ROUTES[kind])), port)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
