"""The client commands against a real API over a small node: what they print, and the code they end with."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shardcast.api_client import ApiClient
from shardcast.cli import main
from shardcast_proto.errors import Conflict, DaemonUnreachable, StoreError
from tests.loopback.api_node import CHANNEL, TOKEN, eventually, failing_with, folder_node
from tests.loopback.cli_run import asked, run, run_json

# --- publish ---


async def test_publish_prints_the_version(tmp_path, capsys):
    node = folder_node(tmp_path)
    node.may_publish.set()
    async with asked(node) as api:
        code = await run("publish", str(tmp_path), "--channel", CHANNEL, "--step", "30", "--api", api)
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert out.startswith(f"{CHANNEL}@30 is seq 3, b3:")
    (request,) = node.published
    assert (request.path, request.rewind, request.link) == (str(tmp_path), False, "auto")


async def test_publish_hands_over_an_absolute_path_with_every_flag(tmp_path, capsys, monkeypatch):
    (tmp_path / "ckpt").mkdir()
    monkeypatch.chdir(tmp_path)
    node = folder_node(tmp_path)
    node.may_publish.set()
    flags = ["--channel", CHANNEL, "--step", "30", "--rewind", "--link", "copy", "--wait", "announced"]
    async with asked(node) as api:
        code, result = await run_json(capsys, "--api", api, "publish", "ckpt", *flags)
    assert (code, result["step"], result["signed_at"], result["existing"]) == (0, 30, 2.0, False)
    (request,) = node.published
    assert (request.path, request.rewind, request.link) == (str(tmp_path / "ckpt"), True, "copy")


async def test_publish_shows_its_progress_on_stderr_alone(tmp_path, capsys):
    node = folder_node(tmp_path, steps=[(0, 100), (50, 100), (100, 100)])
    printed: list[tuple[str, str]] = []

    def is_told() -> bool:
        printed.append(capsys.readouterr())
        return any("hashing 100% of 100 B\n" in err for _, err in printed)

    flags = ["--channel", CHANNEL, "--step", "3", "--progress"]
    async with asked(node) as api:
        running = asyncio.create_task(run("publish", str(tmp_path), *flags, "--api", api))
        await eventually(is_told)
        assert [out for out, _ in printed if out] == []
        node.may_publish.set()
        assert await running == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


async def test_publish_of_a_missing_path_is_4_and_asks_nobody(tmp_path, capsys):
    node = folder_node(tmp_path)
    missing = str(tmp_path / "missing")
    async with asked(node) as api:
        code, result = await run_json(capsys, "publish", missing, "--channel", CHANNEL, "--step", "1", "--api", api)
        too_long = await run("publish", f"/{'x' * 5000}", "--channel", CHANNEL, "--step", "1", "--api", api)
    assert (code, result["error"]["code"]) == (4, "not_found")
    assert result["error"]["message"] == f"there is nothing at {missing}"
    assert (too_long, node.published) == (2, [])
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.endswith("leads nowhere: File name too long") and len(sentence) < 300


@pytest.mark.parametrize("steps", [[], [(1, 2)]])
async def test_a_refusal_before_and_after_the_hashing_ends_alike(tmp_path, capsys, steps):
    node = failing_with(Conflict("step 1 exists", hint="take 2", seq=7), tmp_path, *steps)
    async with asked(node) as api:
        code = await run("publish", str(tmp_path), "--channel", CHANNEL, "--step", "1", "--api", api)
        assert (code, *capsys.readouterr()) == (6, "", "shardcast: step 1 exists (take 2)\n")
        code, result = await run_json(
            capsys, "publish", str(tmp_path), "--channel", CHANNEL, "--step", "1", "--api", api
        )
    assert (code, result) == (
        6,
        {"error": {"code": "conflict", "message": "step 1 exists", "hint": "take 2", "facts": {"seq": 7}}},
    )


async def test_a_full_disk_of_the_daemon_is_8(tmp_path, capsys):
    node = failing_with(StoreError("disk full"), tmp_path, (1, 2))
    async with asked(node) as api:
        assert await run("publish", str(tmp_path), "--channel", CHANNEL, "--step", "1", "--api", api) == 8


async def test_a_daemon_that_stops_in_mid_publication_says_so(tmp_path, capsys):
    node = folder_node(tmp_path, steps=[(1, 2)])
    async with asked(node) as api:
        flags = ["--channel", CHANNEL, "--step", "1", "--api", api]
        running = asyncio.create_task(run("publish", str(tmp_path), *flags))
        await eventually(lambda: node.publishing_count == 1)
    assert await running in (3, 7)
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)


# --- tree ---


async def test_tree_prints_the_view_of_one_version(tmp_path, capsys):
    node = folder_node(tmp_path)
    async with asked(node) as api:
        code, view = await run_json(capsys, "tree", f"{CHANNEL}#1", "--api", api)
        assert (code, view) == (0, node.tree(CHANNEL, "seq:1"))
        assert await run("tree", CHANNEL, "--api", api) == 0
        assert capsys.readouterr().out.startswith(f"{CHANNEL}@20, seq 2: complete; all here\n")
        assert [await run("tree", name, "--api", api) for name in (f"{CHANNEL}@99", "none", "a b")] == [4, 4, 2]


# --- wait ---


@pytest.mark.parametrize("name", [CHANNEL, f"{CHANNEL}@20", f"{CHANNEL}#2"])
async def test_wait_returns_at_once_what_is_complete(tmp_path, capsys, name):
    async with asked(folder_node(tmp_path)) as api:
        code, view = await run_json(capsys, "wait", name, "--api", api)
    assert (code, view["step"], view["seq"], view["completed_at"]) == (0, 20, 2, 1001.5)


async def test_wait_returns_when_the_version_becomes_complete(tmp_path, capsys):
    node = folder_node(tmp_path)
    node.versions_held[0].is_complete = False
    async with asked(node) as api:
        waiting = asyncio.create_task(run("wait", f"{CHANNEL}@20", "--api", api))
        await eventually(lambda: node.waiting_count == 1)
        assert not waiting.done()
        node.complete()
        assert await waiting == 0
    assert capsys.readouterr().out.startswith(f"{CHANNEL}@20 is complete: seq 2, b3:")


async def test_wait_gives_up_with_7_and_says_how_far_it_came(tmp_path, capsys):
    node = folder_node(tmp_path)
    node.versions_held[0].is_complete = False
    async with asked(node) as api:
        code, result = await run_json(capsys, "wait", f"{CHANNEL}@20", "--timeout", "0.2", "--api", api)
    error = result["error"]
    assert (code, error["code"], error["facts"]["have_chunks"]) == (7, "version_not_ready", 0)
    assert error["message"] == f"step 20 of {CHANNEL} (seq 2) is not complete: 0 of 7 chunks are here"


async def test_wait_for_a_version_that_never_comes_is_7(tmp_path, capsys):
    async with asked(folder_node(tmp_path)) as api:
        assert await run("wait", f"{CHANNEL}@99", "--timeout", "0.2", "--api", api) == 7
    assert "no version 99 of qwen has appeared within 0.2 s" in capsys.readouterr().err


async def test_wait_for_an_unknown_channel_is_4(tmp_path, capsys):
    async with asked(folder_node(tmp_path)) as api:
        assert await run("wait", "nobody", "--timeout", "5", "--api", api) == 4


# --- ls, status ---


async def test_ls_lists_channels_then_versions(tmp_path, capsys):
    async with asked(folder_node(tmp_path)) as api:
        assert (await run("ls", "--api", api), await run("ls", CHANNEL, "--api", api)) == (0, 0)
        lines = capsys.readouterr().out.splitlines()
        code, result = await run_json(capsys, "ls", CHANNEL, "--api", api)
    assert lines[0].split() == ["CHANNEL", "VERSIONS", "STATE", "ROLE", "ID"]
    assert lines[1].split()[:3] == [CHANNEL, "2", "fresh"]
    assert [line.split()[:4] for line in lines[3:]] == [
        ["20", "2", "complete", "100%"],
        ["10", "1", "complete", "100%"],
    ]
    assert (code, [view["step"] for view in result["versions"]]) == (0, [20, 10])


async def test_status_prints_one_page_even_with_names_that_are_no_text(tmp_path, capsys):
    async with asked(folder_node(tmp_path)) as api:
        code = await run("status", "--api", api)
        assert code == 0
        assert "data in /data/\\udcff" in capsys.readouterr().out
        code, result = await run_json(capsys, "status", "--api", api)
    assert (code, result["peer_id"]) == (0, "12D3KooW")


# --- the daemon that is asked ---


async def test_the_address_comes_from_the_variable_unless_a_flag_says_otherwise(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SHARDCAST_API", "127.0.0.1:1")
    async with asked(folder_node(tmp_path)) as api:
        assert await run("status") == 3
        assert await run("--api", api, "status") == 0
        assert await run("--api", "127.0.0.1:1", "status", "--api", api) == 0
        monkeypatch.setenv("SHARDCAST_API", api)
        assert await run("status") == 0


async def test_a_token_is_read_from_its_file(tmp_path, capsys, monkeypatch):
    token = tmp_path / "token"
    token.write_bytes(TOKEN + b"\n")
    async with asked(folder_node(tmp_path), token=TOKEN) as api:
        assert await run("status", "--api", api) == 10
        assert await run("status", "--api", api, "--token-file", str(token)) == 0
        monkeypatch.setenv("SHARDCAST_TOKEN_FILE", str(token))
        assert await run("status", "--api", api) == 0


@pytest.mark.parametrize("content", [None, b"", b"two words", b"\xff\xfe"])
def test_a_file_without_a_token_is_2(tmp_path, capsys, content):
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    assert main(["status", "--api", "127.0.0.1:1", "--token-file", str(token)]) == 2


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_no_token(tmp_path, capsys, make):
    token = tmp_path / "token"
    make(token)
    assert main(["status", "--api", "127.0.0.1:1", "--token-file", str(token)]) == 2
    assert capsys.readouterr().err.startswith(f"shardcast: the token file {token} is ")


def test_no_daemon_is_3_in_one_sentence(capsys):
    assert main(["status", "--api", "127.0.0.1:1"]) == 3
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "no shardcast-node answers at http://127.0.0.1:1" in err


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<html",
        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"version": ',
        b"",
    ],
)
async def test_a_stranger_on_the_port_is_3(capsys, answer):
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(reply, "127.0.0.1", 0)
    async with server:
        assert await run("status", "--api", f"127.0.0.1:{server.sockets[0].getsockname()[1]}") == 3
    assert len(capsys.readouterr().err.splitlines()) == 1


# --- the command line itself ---


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nosuch",
        "channel",
        "publish",
        "publish x --channel c --step -1",
        "publish x --channel c --step 1 --link soft",
        "publish x --channel c --step 1 --wait all",
        "publish x --channel c --step 1 --wait 0",
        "publish x --channel c --step 1 --wait-marker a/b",
        "publish - --channel c --step 1",
        "top --interval 0",
        "top --frames 0",
        "completion tcsh",
        "unpin",
        "pull c",
        "wait c --timeout nan",
        "wait a/b",
        "status --api ftp://x:1",
        "ls --ap 127.0.0.1:1",
        "demo --bytes 1",
    ],
)
def test_a_line_that_makes_no_sense_is_2(capsys, line):
    assert main(line.split()) == 2


def test_a_usage_error_is_an_object_too(capsys):
    assert main(["publish", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "usage"
    assert len(err.splitlines()) == 1


def test_making_channels_takes_json_in_front_of_create_too(tmp_path, capsys):
    assert main(["channel", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"
    assert main(["channel", "--json", "create", "demo", "--dir", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "demo"


def test_a_script_of_completion_is_an_object_too(capsys):
    assert main(["completion", "bash", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert main(["completion", "bash"]) == 0
    assert made == {"shell": "bash", "script": capsys.readouterr().out}


@pytest.mark.parametrize("line", ["--help", "pull --help", "channel create --help", "--version"])
def test_help_is_0_on_stdout(capsys, line):
    assert main(line.split()) == 0
    out, err = capsys.readouterr()
    assert out and not err


def test_a_channel_is_created_once(tmp_path, capsys):
    assert main(["channel", "create", "demo", "--dir", str(tmp_path), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert Path(made["root"]).read_bytes() and made["channel"].startswith("b3:")
    assert main(["channel", "create", "demo", "--dir", str(tmp_path)]) == 6
    assert main(["channel", "create", "de/mo", "--dir", str(tmp_path)]) == 2


def test_a_reader_that_leaves_ends_the_command_quietly(tmp_path):
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "shardcast.cli", "channel", "create", "demo", "--dir", str(tmp_path)],
            stdout=write,
            stderr=subprocess.PIPE,
            env=environment,
        )
    finally:
        os.close(write)
    assert (ended.returncode, ended.stderr) == (141, b"")


async def test_a_manifest_that_breaks_off_is_no_other_manifest():
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        writer.close()

    server = await asyncio.start_server(reply, "127.0.0.1", 0)
    async with server:
        client = ApiClient(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(DaemonUnreachable, match="stopped answering: 4 of 100 bytes came"):
            await asyncio.to_thread(client.manifest, CHANNEL, "latest")


def test_a_silent_daemon_ends_by_its_time_limit(capsys):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = ApiClient(f"127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(DaemonUnreachable, match="stopped answering: timed out"):
            client.status(timeout_s=0.2)
