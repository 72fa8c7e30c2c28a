"""The command `pull` against a real API over a small node: whole directories or none, on this host and over HTTP."""

from __future__ import annotations

import asyncio

import pytest

from tests.loopback.api_node import CHANNEL, FILES, FolderNode, eventually, folder_node
from tests.loopback.cli_run import asked, run, run_json
from tests.loopback.daemons import tree_of

TREE = {**FILES, "step": b"20"}


async def test_pull_makes_the_directory_and_gives_its_lease_back(tmp_path, capsys):
    node = folder_node(tmp_path)
    target = tmp_path / "out" / "ckpt"
    async with asked(node) as api:
        code, result = await run_json(capsys, "pull", CHANNEL, str(target), "--api", api)
    assert (code, result["step"], result["directory"], result["was_there"]) == (0, 20, str(target), False)
    assert tree_of(target) == TREE
    assert (node.leases, node.opened) == ({}, [])


async def test_pull_over_http_makes_the_same_directory(tmp_path, capsys):
    node = folder_node(tmp_path)
    target = tmp_path / "out" / "ckpt"
    # not the address of this host that the client knows: as from another one, the node's directory counts for nothing
    async with asked(node, host="127.0.0.2") as api:
        code, result = await run_json(capsys, "pull", f"{CHANNEL}@20", str(target), "--api", api)
    total = sum(map(len, TREE.values()))
    assert (code, result["downloaded_bytes"], result["linked_bytes"]) == (0, total, 0)
    assert tree_of(target) == TREE
    assert {file.stat().st_nlink for file in target.rglob("*") if file.is_file()} == {1}
    assert [path.name for path in target.parent.iterdir()] == ["ckpt"]
    assert (node.leases, len(node.opened)) == ({}, len(TREE))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
async def test_pull_into_an_identical_directory_does_nothing(tmp_path, capsys, host):
    node = folder_node(tmp_path)
    target = tmp_path / "out"
    async with asked(node, host=host) as api:
        assert await run("pull", CHANNEL, str(target), "--api", api) == 0
        inodes = sorted(file.stat().st_ino for file in target.rglob("*"))
        node.opened.clear()
        assert await run("pull", CHANNEL, str(target), "--api", api) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("already")
    assert (sorted(file.stat().st_ino for file in target.rglob("*")), node.opened) == (inodes, [])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
async def test_pull_into_another_directory_is_6_and_touches_nothing(tmp_path, capsys, host):
    node = folder_node(tmp_path)
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine").write_text("precious")
    async with asked(node, host=host) as api:
        code, result = await run_json(capsys, "pull", CHANNEL, str(target), "--api", api)
    assert (code, result["error"]["code"]) == (6, "conflict")
    assert (tree_of(target), node.leases, node.opened) == ({"mine": b"precious"}, {}, [])


async def test_a_chunk_with_one_flipped_bit_is_5_and_leaves_nothing(tmp_path, capsys):
    node = folder_node(tmp_path)
    weights = node.versions_held[0].root / "weights 1.bin"
    data = bytearray(weights.read_bytes())
    data[600_000] ^= 4
    weights.write_bytes(data)
    target = tmp_path / "out" / "ckpt"
    async with asked(node, host="127.0.0.2") as api:
        code, result = await run_json(capsys, "pull", CHANNEL, str(target), "--api", api)
    assert (code, result["error"]["code"]) == (5, "integrity")
    assert "weights 1.bin" in result["error"]["message"]
    assert (list(target.parent.iterdir()), node.leases) == ([], {})


async def test_pull_of_an_incomplete_version_is_7_and_says_what_to_do(tmp_path, capsys):
    node = folder_node(tmp_path)
    node.versions_held[0].is_complete = False
    async with asked(node) as api:
        assert await run("pull", CHANNEL, str(tmp_path / "out"), "--api", api) == 7
    assert capsys.readouterr().err.endswith("(give --wait to wait for it)\n")
    assert not (tmp_path / "out").exists()


async def test_pull_waits_when_it_is_told_to(tmp_path, capsys):
    node = folder_node(tmp_path)
    node.versions_held[0].is_complete = False
    async with asked(node) as api:
        pulling = asyncio.create_task(run("pull", CHANNEL, str(tmp_path / "out"), "--wait", "--api", api))
        await eventually(lambda: node.waiting_count == 1)
        node.complete()
        assert await pulling == 0
    assert tree_of(tmp_path / "out") == TREE


async def test_pull_of_an_unknown_version_is_4(tmp_path, capsys):
    async with asked(folder_node(tmp_path)) as api:
        assert await run("pull", f"{CHANNEL}@99", str(tmp_path / "out"), "--api", api) == 4


async def test_what_a_killed_download_left_is_swept_by_the_next(tmp_path, capsys):
    left = tmp_path / ".tmp-out-0123456789abcdef"
    left.mkdir()
    (left / "half").write_bytes(b"x")
    async with asked(folder_node(tmp_path), host="127.0.0.2") as api:
        assert await run("pull", CHANNEL, str(tmp_path / "out"), "--api", api) == 0
    assert not left.exists()


class _Swapper(FolderNode):
    """A node that hands out another manifest than the one that was asked for."""

    def manifest_bytes(self, channel: str, selector: str) -> bytes:
        return self.versions_held[1].manifest.encoded


async def test_a_manifest_that_is_not_the_named_one_is_5(tmp_path, capsys):
    node = _Swapper(folder_node(tmp_path).versions_held)
    async with asked(node) as api:
        assert await run("pull", CHANNEL, str(tmp_path / "out"), "--api", api) == 5
    assert "the node sent another manifest than b3:" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
