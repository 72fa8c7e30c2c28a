"""The description of the API against the API: schemathesis asks a real node, and the route table is asked for each path."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shardcast.http.api_events import Events
from shardcast.http.api_files import FileSender
from shardcast.http.api_openapi import OPERATIONS, openapi_document
from shardcast.http.api_routes import ApiRoutes
from shardcast.http.api_streams import Streams
from shardcast.http.api_target import parse_target
from tests.loopback.api_node import CHANNEL, folder_node, serving
from tests.loopback.daemons import MIB, swarm

EXAMPLES = {
    "channel": CHANNEL,
    "selector": "latest",
    "path": "config.json",
    "lease": "1",
    "spool": "0" * 32,
    "revision": "main",
}
VERSION_PATH = "/v1/channels/{channel}/versions/{selector}"


async def test_the_description_is_served_and_names_what_the_facade_returns(tmp_path: Path) -> None:
    async with serving(folder_node(tmp_path)) as (_, call):
        reply = await call("GET", "/openapi.json")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.json == json.loads(json.dumps(openapi_document()))
    assert reply.json["openapi"].startswith("3.1.")
    view = reply.json["components"]["schemas"]["VersionView"]
    assert view["properties"]["completed_at"] == {"anyOf": [{"type": "number"}, {"type": "null"}]}
    assert view["required"] == sorted(view["properties"])


async def test_every_described_operation_is_a_route_with_just_these_methods(tmp_path: Path) -> None:
    node = folder_node(tmp_path)
    streams = Streams(stall_timeout_s=1.0)
    events = Events(node, stall_timeout_s=1.0)
    routes = ApiRoutes(node, files=FileSender(1.0), streams=streams, events=events, body_timeout_s=1.0, has_token=False)
    described: dict[str, set[str]] = {}
    for operation in OPERATIONS:
        described.setdefault(operation.path, set()).add(operation.method.upper())
    for path, methods in described.items():
        assert set(routes.find(parse_target(path.format(**EXAMPLES)))) == methods, path


def test_every_route_is_described() -> None:
    """The route table's own list, the docstring that people read, has the same paths as the description."""
    documentation = sys.modules[ApiRoutes.__module__].__doc__ or ""
    listed = {
        word.partition("[")[0].replace("{id}", "{}")
        for line in documentation.splitlines()
        if line.startswith(("    GET", "    POST", "    DELETE"))
        for word in line.split()
        if word.startswith("/")
    }
    described = {operation.path.replace("{lease}", "{}").replace("{spool}", "{}") for operation in OPERATIONS}
    assert listed == described


@pytest.mark.timeout(300)
def test_schemathesis_finds_nothing_that_a_real_node_answers_otherwise_than_described(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        root = tmp_path / "published"
        root.mkdir()
        # what is made up lies outside of that: nothing of this host is published, no marker is waited for
        origin = made.origin("--publish-root", str(root))
        made.checkpoint(1, MIB).rename(root / "ckpt")
        assert origin.publish(root / "ckpt", 1)["event"] == "published"
        # apart: schemathesis would publish the empty directories that it is lent
        for chosen in (["--exclude-path-regex", "spool"], ["--include-path-regex", "spool"]):
            report = run_schemathesis(origin.ready["api"], tmp_path, *chosen)
            assert report.returncode == 0, report.stdout[-8000:] + report.stderr[-2000:]
        assert origin.version(1)["state"] == "complete"
        assert "Traceback" not in origin.log() and "api_request_failed" not in origin.log()


def run_schemathesis(api: str, home: Path, *chosen: str) -> subprocess.CompletedProcess[str]:
    config = home / "schemathesis.toml"
    config.write_text(
        '[parameters]\n"path.channel" = "demo"\n"path.selector" = "1"\n"path.path" = "config.json"\n"path.revision" = "main"\n'
        '"query.timeout" = 0.1\n'
    )
    return subprocess.run(
        [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config)]  # noqa: RUF005
        + ["run", f"{api}/openapi.json", "--url", api]
        + ["--checks", "all", "--max-examples", "30", "--seed", "7", "--phases", "examples,coverage,fuzzing"]
        + ["--request-timeout", "70", "--max-response-time", "65", "--generation-database", "none", *chosen],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=280,
        env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
    )
