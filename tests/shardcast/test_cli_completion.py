"""Completion: what the word under the cursor may become, and the scripts that ask for it in real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shardcast.cli.candidates import candidates
from shardcast.cli.grammar import SHELLS, build

ROOT = Path(__file__).resolve().parents[2]
#: For each shell, a program that prints what a line may be completed to; the script of `completion` goes in front.
ASK = {
    "bash": 'COMP_LINE=$LINE COMP_POINT=${#LINE}; _shardcast; printf "%s\\n" "${COMPREPLY[@]}"',
    "fish": "complete -C $LINE",
}


def complete(line: str) -> list[str]:
    *before, current = line.split(" ")
    return [candidate for candidate, _ in candidates(build(), before, current)]


def test_a_command_is_completed():
    assert complete("pu") == ["publish", "pull"]
    assert complete("channel ") == ["create"]
    assert {"show", "peers", "top", "tree", "verify", "pin", "unpin", "gc", "check", "completion"} <= set(complete(""))


def test_a_flag_is_completed_where_it_is_allowed():
    assert complete("publish . --wa") == ["--wait", "--wait-marker"]
    assert complete("ls --wa") == []
    assert "--api" in complete("--")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("publish . --link ", ["auto", "reflink", "hardlink", "copy"]),
        ("publish . --link h", ["hardlink"]),
        ("publish . --wait ", ["announced"]),
        ("publish ", [":directories"]),
        ("publish . ", []),
        ("pull demo ", [":directories"]),
        ("pull demo@1 --timeout 5 ", [":directories"]),
        ("pull --api 127.0.0.1:1 --json demo ", [":directories"]),
        ("status --token-file ", [":files"]),
        ("channel create new ", []),
        ("completion ", list(SHELLS)),
        ("nosuch --what ", []),
    ],
)
def test_a_value_is_completed_by_what_it_is(line, words):
    assert complete(line) == words


def test_a_daemon_that_does_not_answer_leaves_the_line_as_it_is():
    assert complete("--api 127.0.0.1:1 wait ") == []
    assert complete("wait --api 127.0.0.1:1 demo@") == []
    assert complete("wait --api nonsense demo@") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_reads_its_script(shell, tmp_path):
    program = _program(shell)
    script = tmp_path / "script"
    script.write_text(_shardcast(tmp_path, "completion", shell).stdout)
    flags = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    ended = subprocess.run([program, *flags, "-n", str(script)], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("shell", sorted(ASK))
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("shardcast pu", ["publish", "pull"]),
        ("shardcast publish --link h", ["hardlink"]),
        ("shardcast pull demo@1 o", ["one"]),
        ("shardcast status --token-file t", ["two"]),
    ],
)
def test_a_shell_completes_a_line(shell, line, words, tmp_path):
    program = _program(shell)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").write_text("")
    script = _shardcast(tmp_path, "completion", shell).stdout
    ended = _run(tmp_path, [program, "-c", script + ASK[shell]], LINE=line)
    assert [answer.split("\t")[0].rstrip("/") for answer in ended.stdout.splitlines()] == words, ended.stderr


def _program(shell: str) -> str:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    return program


def _shardcast(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return _run(home, [sys.executable, "-m", "shardcast.cli", *arguments])


def _run(home: Path, command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a place where `shardcast` is this one."""
    own = home / ".bin"
    own.mkdir(exist_ok=True)
    (own / "shardcast").write_text(f'#!/bin/sh\nexec {sys.executable} -m shardcast.cli "$@"\n')
    (own / "shardcast").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{own}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(str(ROOT / folder) for folder in ("", "proto", "relay")),
        "HOME": str(home),
        **more,
    }
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=60)
