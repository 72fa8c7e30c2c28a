"""The routes and the commands of engines, against a node of folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shardcast_proto.errors import HotLoadError
from tests.loopback.api_engines import CHANNEL, engine_view
from tests.loopback.api_node import TOKEN, FolderNode, folder_node, serving
from tests.loopback.cli_run import asked, run, run_json

JSON = "Content-Type: application/json"
ACTIVATE = f"/v1/channels/{CHANNEL}/versions/10/activate"


@pytest.fixture
def node(tmp_path: Path) -> FolderNode:
    return folder_node(tmp_path, engines_held=[engine_view("a"), engine_view("b")])


def last_line(body: bytes) -> dict:
    return json.loads(body.splitlines()[-1])


async def test_engines_are_listed_also_in_the_status(node: FolderNode) -> None:
    async with serving(node) as (_, call):
        listed = (await call("GET", "/v1/engines")).json
        status = (await call("GET", "/v1/status")).json
    assert [engine["name"] for engine in listed["engines"]] == ["a", "b"] and status["engines"] == listed["engines"]


async def test_an_activation_is_a_stream_that_ends_in_the_engines(node: FolderNode) -> None:
    async with serving(node) as (_, call):
        reply = await call("POST", ACTIVATE, JSON, body=b'{"engine": "b", "timeout_s": 5}')
        (engine,) = last_line(reply.body)["engines"]
        assert (reply.status, last_line(reply.body)["event"]) == (200, "activated")
        assert (engine["name"], engine["active"]["step"]) == ("b", 10)
        reply = await call("POST", ACTIVATE.replace("/10/", "/20/"), JSON, body=b"{}")
        assert [engine["active"]["step"] for engine in last_line(reply.body)["engines"]] == [20, 20]
        reply = await call("POST", f"/v1/channels/{CHANNEL}/rollback", JSON, body=b'{"engine": "b"}')
        assert last_line(reply.body)["event"] == "rolled_back"
        assert last_line(reply.body)["engines"][0]["active"]["step"] == 10
        reply = await call("POST", f"/v1/channels/{CHANNEL}/follow", JSON, body=b"{}")
        assert reply.status == 200 and len(reply.json["engines"]) == 2


async def test_what_an_engine_did_not_take_is_a_problem_with_its_effect(node: FolderNode) -> None:
    node.activate_error = HotLoadError("it broke", effect="restored")
    async with serving(node) as (_, call):
        problem = (await call("POST", ACTIVATE, JSON, body=b"{}")).problem(409)
        assert (problem["type"], problem["facts"]) == ("urn:shardcast:error:hot_load", {"effect": "restored"})
        (await call("POST", ACTIVATE, JSON, body=b'{"engine": "none"}')).problem(404)


@pytest.mark.parametrize(
    "body",
    [b'{"engine": 5}', b'{"engine": "a b"}', b'{"timeout_s": -1}', b'{"timeout_s": true}', b'{"more": 1}', b"[]"],
)
async def test_a_request_that_makes_no_sense_is_refused(node: FolderNode, body: bytes) -> None:
    async with serving(node) as (_, call):
        (await call("POST", ACTIVATE, JSON, body=body)).problem(400)
        (await call("POST", f"/v1/channels/{CHANNEL}/rollback", JSON, body=body)).problem(400)


async def test_engines_are_nobodys_who_has_no_token(node: FolderNode) -> None:
    async with serving(node, token=TOKEN) as (_, call):
        for path in (ACTIVATE, f"/v1/channels/{CHANNEL}/rollback", f"/v1/channels/{CHANNEL}/follow"):
            (await call("POST", path, JSON, body=b"{}")).problem(401)
        (await call("GET", "/v1/engines")).problem(401)


async def test_the_commands_say_what_engines_serve(node: FolderNode, capsys: pytest.CaptureFixture[str]) -> None:
    async with asked(node) as api:
        code, document = await run_json(capsys, "--api", api, "activate", f"{CHANNEL}@10", "--engine", "a")
        assert code == 0 and document["engines"][0]["active"]["step"] == 10
        assert await run("--api", api, "activate", CHANNEL) == 0
        assert "serves   step 20" in capsys.readouterr().out
        assert await run("--api", api, "rollback", CHANNEL, "--engine", "a") == 0
        assert "serves   step 10" in capsys.readouterr().out
        assert await run("--api", api, "rollback", CHANNEL, "--resume") == 0
        capsys.readouterr()
        assert await run("--api", api, "status") == 0
        assert "engine     a (vllm http://127.0.0.1:8000)" in capsys.readouterr().out
        node.activate_error = HotLoadError("it broke")
        assert await run("--api", api, "activate", CHANNEL) == 9
        assert "it broke" in capsys.readouterr().err


async def test_waiting_for_an_activation_ends_when_all_engines_serve_it_or_a_newer_one(
    node: FolderNode, capsys: pytest.CaptureFixture[str]
) -> None:
    async with asked(node) as api:
        code, document = await run_json(capsys, "--api", api, "wait", CHANNEL, "--activated", "--timeout", "0.2")
        assert code == 7 and "engine a" in document["error"]["message"]
        for engine in node.engines_held:
            engine["knowledge"], engine["active"] = "confirmed", {"step": 20, "seq": 2, "epoch": 0, "manifest": "b3:2"}
        for which in (CHANNEL, f"{CHANNEL}@10"):
            code, document = await run_json(capsys, "--api", api, "wait", which, "--activated", "--timeout", "30")
            assert code == 0 and len(document["engines"]) == 2
        node.engines_held[1]["knowledge"] = "lost"
        assert await run("--api", api, "wait", CHANNEL, "--activated", "--timeout", "0.2") == 7
        assert await run("--api", api, "wait", CHANNEL, "--activated", "--engine", "a", "--timeout", "0.2") == 0
        assert await run("--api", api, "wait", CHANNEL, "--activated", "--engine", "none") == 4
        assert await run("--api", api, "wait", CHANNEL, "--engine", "a") == 2
        assert await run("--api", api, "wait", "other", "--activated", "--timeout", "1") == 4
