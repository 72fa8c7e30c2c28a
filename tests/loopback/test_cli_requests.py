"""What the newer commands ask of an API over a small node, and what they make of its answers."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import pytest

from shardcast_proto.errors import IntegrityError, TransferError
from tests.loopback.api_node import CHANNEL, FILES, eventually, failing_with, folder_node
from tests.loopback.cli_run import asked, run, run_json


async def test_publish_hands_over_what_is_waited_for(tmp_path, capsys):
    node = folder_node(tmp_path)
    node.may_publish.set()
    flags = ["--channel", CHANNEL, "--step", "30", "--wait", "3", "--wait-marker", "STABLE", "--timeout", "2.5"]
    async with asked(node) as api:
        assert await run("publish", str(tmp_path), *flags, "--api", api) == 0
        assert await run("publish", str(tmp_path), *flags[:4], "--api", api) == 0
    waiting, plain = node.published
    assert (waiting.wait_neighbours, waiting.wait_marker, waiting.timeout_s) == (3, "STABLE", 2.5)
    assert (plain.wait_neighbours, plain.wait_marker) == (0, None)


async def test_publish_says_on_stderr_what_it_waits_for(tmp_path, capsys):
    told: list[str] = []

    def has_told(text: str) -> bool:
        told.append(capsys.readouterr().err)
        return text in "".join(told)

    node = folder_node(tmp_path, steps=[(1, 2)])
    node.waiting_line = {"event": "spreading", "seq": 7, "complete_neighbours": 1, "wait_neighbours": 2}
    flags = ["--channel", CHANNEL, "--step", "3", "--wait", "2", "--progress"]
    async with asked(node) as api:
        running = asyncio.create_task(run("publish", str(tmp_path), *flags, "--api", api))
        await eventually(lambda: has_told("seq 7 is announced; 1 of 2 neighbours hold it complete\n"))
        node.may_publish.set()
        assert await running == 0


async def test_publish_that_waited_in_vain_is_7(tmp_path, capsys):
    node = failing_with(TransferError("0 of 2 neighbours were complete", seq=3), tmp_path, (1, 2))
    async with asked(node) as api:
        flags = ["--channel", CHANNEL, "--step", "1", "--wait", "2", "--api", api]
        code, result = await run_json(capsys, "publish", str(tmp_path), *flags)
    assert (code, result["error"]["facts"]) == (7, {"seq": 3})


async def test_standard_input_is_refused_with_the_reason(tmp_path, capsys):
    node = folder_node(tmp_path)
    async with asked(node) as api:
        assert await run("publish", "-", "--channel", CHANNEL, "--step", "1", "--api", api) == 2
    assert "a checkpoint is a directory of files" in capsys.readouterr().err
    assert node.published == []


async def test_show_prints_a_page_with_every_file(tmp_path, capsys):
    async with asked(folder_node(tmp_path)) as api:
        assert await run("show", f"{CHANNEL}#2", "--api", api) == 0
        out = capsys.readouterr().out
        code, view = await run_json(capsys, "show", f"{CHANNEL}@10", "--api", api)
    assert out.startswith(f"version   {CHANNEL}@20, seq 2, epoch 0: complete\n")
    assert all(name in out for name in FILES)
    assert (code, view["seq"], {row["path"] for row in view["listing"]}) == (0, 1, {*FILES, "step"})


async def test_show_says_what_an_incomplete_version_waits_for(tmp_path, capsys):
    node = folder_node(tmp_path)
    node.versions_held[0].is_complete = False
    async with asked(node) as api:
        assert await run("show", CHANNEL, "--api", api) == 0
    assert "because   waiting\n" in capsys.readouterr().out


async def test_a_node_without_neighbours_says_how_to_join(tmp_path, capsys):
    async with asked(folder_node(tmp_path)) as api:
        assert await run("peers", "--api", api) == 0
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "--bootstrap" in err


async def test_check_is_1_with_the_reason_when_the_node_is_not_ready(tmp_path, capsys):
    async with asked(folder_node(tmp_path, unready="the store fails: disk full")) as api:
        assert await run("check", "--api", api) == 1
        assert capsys.readouterr() == ("", "shardcast: the store fails: disk full\n")
        code, result = await run_json(capsys, "check", "--api", api)
    assert (code, result["error"]["code"]) == (1, "unhealthy")


@pytest.mark.parametrize("steps", [[], [(1, 2)]])
async def test_verify_is_5_when_bytes_are_wrong(tmp_path, capsys, steps):
    error = IntegrityError("2 chunks are wrong", files=["a"], wrong_chunks=[1, 2])
    node = folder_node(tmp_path, verify_error=error, steps=steps)
    node.may_publish.set()
    async with asked(node) as api:
        code, result = await run_json(capsys, "verify", CHANNEL, "--api", api)
    assert (code, result["error"]["facts"]["files"]) == (5, ["a"])


async def test_verify_shows_its_progress_on_stderr_alone(tmp_path, capsys):
    told: list[str] = []

    def has_told() -> bool:
        told.append(capsys.readouterr().err)
        return "verifying 50% of 100 B\n" in "".join(told)

    node = folder_node(tmp_path, steps=[(50, 100)])
    async with asked(node) as api:
        running = asyncio.create_task(run("verify", CHANNEL, "--progress", "--api", api))
        await eventually(has_told)
        node.may_publish.set()
        assert await running == 0
    assert capsys.readouterr().out.startswith(f"{CHANNEL}@20 (seq 2) is right in every byte: ")


async def test_pin_and_unpin_change_one_version(tmp_path, capsys):
    node = folder_node(tmp_path)
    async with asked(node) as api:
        code, view = await run_json(capsys, "pin", f"{CHANNEL}@10", "--api", api)
        assert (code, view["pinned"], [version.is_pinned for version in node.versions_held]) == (0, True, [False, True])
        assert await run("show", f"{CHANNEL}@10", "--api", api) == 0
        assert "complete, pinned\n" in capsys.readouterr().out
        assert await run("unpin", f"{CHANNEL}@10", "--api", api) == 0
    assert [version.is_pinned for version in node.versions_held] == [False, False]


async def test_top_prints_as_many_looks_as_wanted(tmp_path, capsys):
    async with asked(folder_node(tmp_path)) as api:
        assert await run("top", "--interval", "0.1", "--frames", "2", "--api", api) == 0
    assert capsys.readouterr().out.count("no neighbours\n") == 2


async def test_a_line_that_is_completed_knows_channels_and_steps(tmp_path, capsys):
    async with asked(folder_node(tmp_path)) as api:
        assert await run("--complete", "wait", "--api", api, "") == 0
        assert await run("--complete", "--api", api, "pull", f"{CHANNEL}@") == 0
    first, *steps = capsys.readouterr().out.splitlines()
    assert first == f"{CHANNEL}\t2 versions"
    assert [line.split("\t")[0] for line in steps] == [f"{CHANNEL}@20", f"{CHANNEL}@10"]


async def test_gc_says_what_is_gone(tmp_path, capsys):
    node = folder_node(tmp_path)
    async with asked(node) as api:
        code, result = await run_json(capsys, "gc", "--dry-run", "--api", api)
        assert (code, result["dry_run"]) == (0, True)
        assert await run("gc", "--dry-run", "--api", api) == 0
        assert await run("gc", "--api", api) == 0
    dry, real = (line for line in capsys.readouterr().out.splitlines() if " version" in line)
    assert "would be deleted" in dry and "would" not in real
    json.dumps(result)


async def test_completion_offers_each_step_once_and_each_seq(tmp_path, capsys):
    node = folder_node(tmp_path)
    newest = node.versions_held[0]
    node.versions_held.insert(0, dataclasses.replace(newest, seq=3))  # the step again, after a rewind
    async with asked(node) as api:
        for word in (f"{CHANNEL}@", f"{CHANNEL}#", f"{CHANNEL}#3"):
            assert await run("--complete", "--api", api, "pull", word) == 0
    offered = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert offered == [f"{CHANNEL}{end}" for end in ("@20", "@10", "#3", "#2", "#1", "#3")]
