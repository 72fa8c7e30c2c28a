"""One node of the first SHARDCAST, run by the interpreter of the environment that has it; `_first` starts these.

    _first_node.py origin DATA PORT
    _first_node.py middle DATA PORT UPSTREAM
    _first_node.py client DATA SERVER,SERVER

It changes one thing: the server binds loopback instead of all addresses. The rest is the package as installed, with its defaults, but
for the interval at which a middle node looks for new versions, which is a parameter of it. A client looks as often.
Commands come on stdin and answers go to stdout, one line each: an origin reads paths, a middle node waits for a line before it begins, a
client says what it has.
"""

from __future__ import annotations

import logging
import sys
import time

CHECK_INTERVAL_S = 1


def main() -> None:
    role, data, *rest = sys.argv[1:]
    import shardcast.server
    import shardcast.utils

    shardcast.utils.logger.setLevel(logging.WARNING)
    _bind_loopback(shardcast.server)
    if role == "origin":
        _run_origin(data, int(rest[0]))
    elif role == "middle":
        _run_middle(data, int(rest[0]), rest[1])
    else:
        _run_client(data, rest[0].split(","))


def _bind_loopback(server) -> None:  # type: ignore[no-untyped-def]
    original = server.ShardcastServer

    def on_loopback(address, directory, shutdown_event=None):  # type: ignore[no-untyped-def]
        return original(("127.0.0.1", address[1]), directory, shutdown_event)

    server.ShardcastServer = on_loopback


def _run_origin(data: str, port: int) -> None:
    from shardcast.origin_server import OriginServer

    origin = OriginServer(data, port)
    _say("ready")
    for line in sys.stdin:
        _say(f"published {origin.broadcast(line.strip())}")


def _run_middle(data: str, port: int, upstream: str) -> None:
    from shardcast.middle_node import MiddleNode

    _say("imported")
    sys.stdin.readline()
    MiddleNode([upstream], data, port, check_interval=CHECK_INTERVAL_S)
    _say("ready")
    sys.stdin.read()


def _run_client(data: str, servers: list[str]) -> None:
    from shardcast.client_node import ClientNode

    client = ClientNode(servers, data)
    _say("ready")
    done: set[str] = set()
    while True:
        for version in client.list_available_versions():
            if version not in done:
                path = client.download_version(version)
                if path is not None:
                    done.add(version)
                    _say(f"complete {version} {time.time()} {path}")
        time.sleep(CHECK_INTERVAL_S)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
