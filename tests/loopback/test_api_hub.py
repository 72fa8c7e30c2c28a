"""The Hub's routes over real sockets, byte for byte: redirects to the commit, fields, listings, refusals."""

from __future__ import annotations

import pytest

from shardcast_proto.ids import format_digest
from tests.loopback.api_node import CHANNEL, FILES, WEIGHTS, folder_node, serving

MODEL = f"/api/models/shardcast/{CHANNEL}"
FILE = f"/shardcast/{CHANNEL}/resolve/{{}}/weights%201.bin"
SIZE = len(WEIGHTS)


@pytest.fixture
def node(tmp_path):
    return folder_node(tmp_path)


@pytest.fixture
async def call(node):
    async with serving(node) as (_, caller):
        yield caller


@pytest.fixture(autouse=True)
def every_opened_file_is_closed(node):
    yield
    assert node.closed_count == len(node.opened)


def commit_of(version):
    return format_digest(version.manifest.digest).removeprefix("b3:")[:40]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("revision", "index"), [("main", 0), ("20", 0), ("10", 1)])
async def test_a_file_at_a_name_that_moves_is_redirected_to_the_commit(node, call, method, revision, index):
    reply = await call(method, FILE.format(revision))
    commit = commit_of(node.versions_held[index])
    assert (reply.status, reply.body) == (307, b"")
    assert reply.headers["location"] == FILE.format(commit)
    assert reply.headers["x-repo-commit"] == commit
    assert reply.headers["x-linked-size"] == str(SIZE)
    there = await call(method, reply.headers["location"])
    assert (there.status, there.headers["x-linked-etag"]) == (200, reply.headers["x-linked-etag"])


async def test_a_file_at_a_commit_has_what_clients_look_at(node, call):
    commit = commit_of(node.versions_held[1])
    for method, body in (("HEAD", b""), ("GET", WEIGHTS)):
        reply = await call(method, FILE.format(commit))
        assert (reply.status, reply.body) == (200, body)
        assert (reply.headers["content-length"], reply.headers["accept-ranges"]) == (str(SIZE), "bytes")
        assert (reply.headers["x-repo-commit"], reply.headers["x-linked-size"]) == (commit, str(SIZE))
        assert reply.headers["x-linked-etag"] == reply.headers["etag"].replace(":", "-")
    part = await call("GET", FILE.format(commit), "Range: bytes=1000-")
    assert (part.status, part.body) == (206, WEIGHTS[1000:])
    assert part.headers["content-range"] == f"bytes 1000-{SIZE - 1}/{SIZE}"
    beyond = await call("GET", FILE.format(commit), f"Range: bytes={SIZE}-")
    beyond.problem(416)


async def test_a_model_is_described_with_its_files(node, call):
    for path, index in ((MODEL, 0), (f"{MODEL}?blobs=true&expand=sha", 0), (f"{MODEL}/revision/10", 1)):
        reply = await call("GET", path)
        assert (reply.status, reply.json["id"]) == (200, f"shardcast/{CHANNEL}")
        assert reply.json["sha"] == reply.headers["x-repo-commit"] == commit_of(node.versions_held[index])
        assert {row["rfilename"] for row in reply.json["siblings"]} == {*FILES, "step"}


async def test_a_listing_goes_down_only_when_it_is_asked_to(call):
    flat = (await call("GET", f"{MODEL}/tree/main")).json
    assert [(entry["type"], entry["path"]) for entry in flat] == [
        ("file", "config.json"),
        ("file", "empty"),
        ("file", "step"),
        ("directory", "sub"),
        ("file", "weights 1.bin"),
    ]
    deep = (await call("GET", f"{MODEL}/tree/main?recursive=true&expand=True")).json
    assert {entry["path"] for entry in deep} == {*FILES, "step", "sub"}
    assert all(entry["lastCommit"]["title"] == "step 20" for entry in deep)
    (below,) = (await call("GET", f"{MODEL}/tree/main/sub?recursive=false")).json
    assert below["path"] == "sub/größe #%2F+&.txt"
    (await call("GET", f"{MODEL}/tree/main?recursive=perhaps")).problem(400)


async def test_equal_files_have_equal_names_in_two_listings(call):
    first, second = [
        {entry["path"]: entry["oid"] for entry in (await call("GET", f"{MODEL}/tree/{step}")).json}
        for step in ("10", "20")
    ]
    assert {path for path in first if first[path] != second[path]} == {"step"}


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/models/shardcast/none", "RepoNotFound"),
        ("/api/models/gpt2", "RepoNotFound"),
        (f"/api/datasets/somebody/{CHANNEL}", "RepoNotFound"),
        ("/gpt2/resolve/main/config.json", "RepoNotFound"),
        (f"/shardcast/none/resolve/{'0' * 40}/config.json", "RepoNotFound"),
        (f"{MODEL}/revision/11", "RevisionNotFound"),
        (f"{MODEL}/revision/refs%2Fpr%2F1", "RevisionNotFound"),
        (f"{MODEL}/revision/{'9' * 19}", "RevisionNotFound"),
        (f"{MODEL}/revision/latest", "RevisionNotFound"),
        (f"{MODEL}/tree/{'0' * 40}", "RevisionNotFound"),
        (f"/shardcast/{CHANNEL}/resolve/11/config.json", "RevisionNotFound"),
        (f"/shardcast/{CHANNEL}/resolve/main/none", "EntryNotFound"),
        (f"/shardcast/{CHANNEL}/resolve/main/../../v2/config.json", "EntryNotFound"),
        (f"/shardcast/{CHANNEL}/resolve/main/%2Fetc%2Fpasswd", "EntryNotFound"),
        (f"{MODEL}/tree/main/none", "EntryNotFound"),
    ],
)
async def test_what_is_missing_has_a_code(call, path, code):
    reply = await call("GET", path)
    assert (reply.problem(404)["type"], reply.headers["x-error-code"]) == ("urn:shardcast:error:not_found", code)
    assert reply.headers["x-error-message"]
    assert ("x-repo-commit" in reply.headers) == (code == "EntryNotFound")


async def test_a_version_that_is_not_here_yet_is_to_be_asked_for_again(node, call):
    for version in node.versions_held:
        version.is_complete = False
    for path in (MODEL, f"{MODEL}/revision/20", f"{MODEL}/tree/main", FILE.format("main")):
        reply = await call("GET", path)
        assert reply.problem(503)["type"] == "urn:shardcast:error:version_not_ready"
        assert (reply.headers["retry-after"], "x-error-code" in reply.headers) == ("1", False)
