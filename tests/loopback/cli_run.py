"""What the tests of the commands share: an API to ask, and a command that is run as if in a process of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog

from shardcast.cli import main
from shardcast.http.api import ApiServer
from tests.loopback.api_node import FolderNode


@asynccontextmanager
async def asked(node: FolderNode, *, host: str = "127.0.0.1", token: bytes | None = None) -> AsyncIterator[str]:
    """Serve the node's API, and yield its address; what it logs stays out of what the command prints."""
    with structlog.testing.capture_logs():
        async with ApiServer(node, token=token) as server:
            bound, port = await server.start(host, 0)
            yield f"{bound}:{port}"


async def run(*arguments: str) -> int:
    """Run one command and return its exit code."""
    return await asyncio.to_thread(main, arguments)


async def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict]:
    """Run one command with --json; return its exit code with the one object that it printed."""
    code = await run(*arguments, "--json")
    (line,) = capsys.readouterr().out.splitlines()
    return code, json.loads(line)
