"""How little a command imports: what is not imported takes no time, however loaded the host."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"aiohttp", "asyncio", "libp2p", "numpy", "pydantic", "rich", "structlog", "torch", "trio", "typer"}
#: A command that starts in 70 ms has about 230 modules; each further one is a third of a millisecond.
MODULES_MAX = 300
SCRIPT = """
import json, sys
from shardcast.cli import main
code = main(sys.argv[1:])
print(json.dumps({"code": code, "modules": sorted(sys.modules)}), file=sys.stderr)
"""


@pytest.fixture
def nobody() -> Iterator[str]:
    """The address of a port that is taken, and where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("--help", 0),
        ("status", 3),
        ("ls demo", 3),
        ("publish . --channel demo --step 1", 3),
        ("wait demo", 3),
        ("pull demo somewhere", 3),
        ("show demo", 3),
        ("peers", 3),
        ("top", 3),
        ("tree demo", 3),
        ("verify demo", 3),
        ("pin demo", 3),
        ("gc", 3),
        ("check", 1),
        ("completion bash", 0),
        ("--complete wait demo@", 0),
    ],
)
def test_a_command_imports_little(nobody, tmp_path, command, code):
    ended = _run(tmp_path, *command.split(), api=nobody)
    facts = json.loads(ended.stderr.splitlines()[-1])
    assert facts["code"] == code, ended.stderr
    assert HEAVY & set(facts["modules"]) == set()
    assert len(facts["modules"]) <= MODULES_MAX


def test_making_a_channel_imports_little(tmp_path):
    ended = _run(tmp_path, "channel", "create", "demo", "--dir", str(tmp_path), api="")
    facts = json.loads(ended.stderr.splitlines()[-1])
    assert (facts["code"], HEAVY & set(facts["modules"])) == (0, set())


def _run(cwd: Path, *arguments: str, api: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(ROOT / folder) for folder in ("proto", "relay", "."))
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "SHARDCAST_API": api},
        capture_output=True,
        text=True,
        timeout=60,
    )
