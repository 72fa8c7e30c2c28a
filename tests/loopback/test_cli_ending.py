"""How a command ends when it is interrupted, when nobody can take what it prints, when it has a bug, when it stands nowhere."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loopback.api_node import CHANNEL, eventually, folder_node
from tests.loopback.cli_run import asked
from tests.loopback.daemons import ROOT

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "proto", "relay"))}
CLI = ("-m", "shardcast.cli")

#: A program that gets a SIGINT at the moment in which it imports the module of its first argument.
INTERRUPTED = """
import os, signal, sys
module = sys.argv.pop(1)
class Finder:
    def find_spec(self, name, *_):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from {package} import main
sys.exit(main())
"""

#: A command that gets a SIGINT while it sleeps.
WOKEN = """
import signal, sys, time
time.sleep = lambda seconds: signal.raise_signal(signal.SIGINT)
from shardcast.cli import main
sys.exit(main())
"""

BUGGY = """
import sys
import shardcast.cli.ls
def broken(session):
    raise ValueError("of two\\nlines")
shardcast.cli.ls.list_channels = broken
from shardcast.cli import main
sys.exit(main())
"""


def run(*arguments: str, stdout: int = subprocess.PIPE, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        env={**ENVIRONMENT, **more},
    )


# --- interrupted ---


@pytest.mark.parametrize(
    ("package", "module", "sentence"),
    [
        ("shardcast.cli", "argparse", ""),
        ("shardcast.cli", "shardcast_proto", ""),
        ("shardcast.cli", "shardcast.cli.ending", ""),
        ("shardcast.cli", "shardcast.cli.ls", "shardcast: interrupted\n"),
        ("shardcast.daemon", "typer", ""),
        ("shardcast.daemon", "shardcast.cli.ending", ""),
        ("shardcast.daemon", "shardcast.config", "shardcast-node: interrupted\n"),
        ("shardcast.daemon", "structlog", "shardcast-node: interrupted\n"),
    ],
)
def test_a_program_is_interrupted_while_it_is_imported(package, module, sentence, tmp_path):
    arguments = ("ls",) if package == "shardcast.cli" else ("--data", str(tmp_path), "--channel", "none.root")
    ended = run("-c", INTERRUPTED.format(package=package), module, *arguments)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", sentence)


@pytest.mark.parametrize(
    ("line", "goes_on"),
    [
        (f"wait {CHANNEL}@99", False),
        (f"pull {CHANNEL}@99 out --wait", False),
        (f"publish . --channel {CHANNEL} --step 1", True),
        (f"publish . --channel {CHANNEL} --step 1 --wait-marker DONE", False),
    ],
)
async def test_an_interrupted_command_is_an_object_too(tmp_path, line, goes_on):
    node = folder_node(tmp_path, steps=[(1, 2)])
    if "--wait-marker" in line:
        node.waiting_line = {"event": "waiting", "marker": "DONE"}
    async with asked(node) as api:
        command = [sys.executable, *CLI, *line.split(), "--api", api, "--json", "--progress"]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, cwd=tmp_path
        )
        assert process.stderr is not None
        told = b""
        if line.startswith("publish"):
            said = b"waiting for the file" if "--wait-marker" in line else b"hashing"
            while said not in told:
                told = await process.stderr.readline()
        else:
            await eventually(lambda: node.waiting_count == 1)
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    error = json.loads(out)["error"]
    assert (process.returncode, error["code"]) == (130, "interrupted")
    message = "interrupted; the daemon goes on publishing" if goes_on else "interrupted"
    assert error["message"] == message
    assert err.decode().splitlines()[-1].startswith(f"shardcast: {message}")


async def test_an_interrupted_look_is_an_object_too(tmp_path):
    async with asked(folder_node(tmp_path)) as api:
        ended = await asyncio.to_thread(run, "-c", WOKEN, "top", "--json", "--api", api)
    assert (ended.returncode, json.loads(ended.stdout)["error"]["code"]) == (130, "interrupted")
    assert ended.stderr == "shardcast: interrupted\n"


# --- nobody can take it ---


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("line", ["ls", f"ls {CHANNEL} --json", "completion bash", "--help", "--version", "channel"])
async def test_a_full_disk_under_the_output_is_8_in_one_sentence(tmp_path, line, unbuffered):
    async with asked(folder_node(tmp_path)) as api:
        with Path("/dev/full").open("wb") as full:
            ended = await asyncio.to_thread(
                run, *CLI, *line.split(), stdout=full.fileno(), SHARDCAST_API=api, PYTHONUNBUFFERED=unbuffered
            )
    assert ended.returncode == 8
    (sentence,) = ended.stderr.splitlines()
    assert sentence.startswith("shardcast: cannot write to standard output: No space left on device (")


async def test_closed_streams_are_no_bug(tmp_path):
    async with asked(folder_node(tmp_path)) as api:
        shell = 'exec "$0" -m shardcast.cli ls "$@" >&- 2>&-'
        ended = await asyncio.to_thread(
            subprocess.run, ["sh", "-c", shell, sys.executable, "--api", api], env=ENVIRONMENT, timeout=60
        )
    assert ended.returncode == 0


# --- a bug ---


def test_a_bug_is_70_in_one_sentence_and_a_traceback_for_who_asks():
    ended = run("-c", BUGGY, "ls", "--json")
    assert (ended.returncode, json.loads(ended.stdout)["error"]["code"]) == (70, "invariant")
    sentence = "shardcast: a bug of ours: ValueError: of two\\nlines (run again with SHARDCAST_DEBUG=1 and report it)\n"
    assert ended.stderr == sentence
    ended = run("-c", BUGGY, "ls", SHARDCAST_DEBUG="1")
    assert ended.returncode == 70
    assert ended.stderr.startswith("Traceback (most recent call last):") and ended.stderr.endswith(sentence)


# --- nowhere ---


@pytest.mark.parametrize(
    "line",
    ["publish x --channel m --step 1", "pull m x", "verify m x", "demo --keep x"],
)
def test_a_working_directory_that_is_gone_is_2(line):
    leave = "import os, sys, tempfile; os.chdir(tempfile.mkdtemp()); os.rmdir(os.getcwd())\n"
    ended = run("-c", f"{leave}from shardcast.cli import main; sys.exit(main())", *line.split())
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "shardcast: cannot say where x is: the working directory is gone (cd to one that exists)\n"
