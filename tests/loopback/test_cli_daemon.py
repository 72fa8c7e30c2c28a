"""The commands as a user types them, each a process, against real daemons: the main job by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loopback.daemons import ROOT, Daemon, swarm, tree_of

pytestmark = pytest.mark.timeout(180)


def shardcast(*arguments: str | Path, ask: Daemon | None = None) -> tuple[int, dict, str]:
    """Run `shardcast … --json`; return its exit code, its object, and what it said on stderr."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "proto", "relay"))}
    if ask is not None:
        environment["SHARDCAST_API"] = ask.ready["api"]
    ended = subprocess.run(
        [sys.executable, "-m", "shardcast.cli", *map(str, arguments), "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    (line,) = ended.stdout.splitlines()
    return ended.returncode, json.loads(line), ended.stderr


def test_a_checkpoint_goes_by_hand_from_publish_to_pull(tmp_path):
    with swarm(tmp_path) as made:
        origin = made.origin()
        (client,) = made.others(origin, "client")
        first = made.checkpoint(1)
        code, published, err = shardcast("publish", first, "--channel", "demo", "--step", "1", ask=origin)
        assert (code, err, published["seq"], published["existing"]) == (0, "", 1, False)

        code, view, _ = shardcast("wait", "demo@1", "--timeout", "60", ask=client)
        assert (code, view["manifest"]) == (0, published["manifest"])
        assert view["completed_at"] >= published["signed_at"]

        code, pulled, _ = shardcast("pull", f"demo@{published['manifest']}", tmp_path / "out", ask=client)
        assert (code, pulled["directory"]) == (0, str(tmp_path / "out"))
        assert tree_of(tmp_path / "out") == tree_of(first)

        code, listed, _ = shardcast("ls", "demo", ask=client)
        assert [(row["step"], row["state"]) for row in listed["versions"]] == [(1, "complete")]
        code, status, _ = shardcast("status", ask=client)
        assert (code, status["channels"][0]["head"]["step"], status["neighbours"]) == (0, 1, 1)


def test_publish_ends_with_the_code_of_what_became_of_it(tmp_path):
    with swarm(tmp_path) as made:
        origin = made.origin()
        first, second = made.checkpoint(1), made.checkpoint(2)

        def publish(path: Path, *flags: str) -> tuple[int, dict, str]:
            return shardcast("publish", path, "--channel", "demo", *flags, ask=origin)

        assert publish(first, "--step", "1")[0] == 0
        code, again, err = publish(first, "--step", "1")
        assert (code, again["existing"], again["seq"], err) == (0, True, 1, "")
        code, refused, err = publish(second, "--step", "1")
        assert (code, refused["error"]["code"], len(err.splitlines())) == (6, "conflict", 1)
        code, _, err = publish(tmp_path / "missing", "--step", "3")
        assert (code, len(err.splitlines())) == (4, 1)
        (second / "model.safetensors.index.json").write_text('{"weight_map": {"a": "not-there.safetensors"}}')
        code, refused, err = publish(second, "--step", "3")
        assert (code, refused["error"]["code"], len(err.splitlines())) == (2, "checkpoint_refused", 1)
        origin.stop()
        code, _, err = publish(first, "--step", "1")
        assert (code, len(err.splitlines())) == (3, 1)
