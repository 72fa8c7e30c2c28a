"""The RL loop as it is run by hand: three real nodes, a trainer, two samplers, one of which gets hurt."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch: make torch")
pytest.importorskip("matplotlib", reason="needs matplotlib: make setup")

ROOT = Path(__file__).resolve().parents[2]
STEPS = 30
MAX_OFF_POLICY_STEPS = 3


def run(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """Run the command, and return its one JSON object."""
    done = subprocess.run(
        [sys.executable, "-m", "demos.rl_loop", "--steps", str(STEPS), "--seed", "7", "--json"]  # noqa: RUF005
        + ["--max-off-policy-steps", str(MAX_OFF_POLICY_STEPS), "--png", str(tmp_path / "reward.png"), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "reward.png").read_bytes().startswith(b"\x89PNG")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def check(report: dict[str, Any]) -> None:
    """What holds for every run, hurt or not."""
    assert report["reward_at_start"] < 0.25, "an untrained policy guesses one of six"
    assert report["reward_at_end"] > report["reward_at_start"] + 0.25
    published = report["published"]
    assert sorted(map(int, published)) == list(range(STEPS + 1))
    assert report["unknown"] == 0
    assert set(report["by_digest"]) <= set(published.values())
    assert len(report["by_digest"]) >= 5, "samplers followed step by step"
    assert sum(report["used"].values()) == STEPS * 8 * 64
    assert max(map(int, report["used"])) <= MAX_OFF_POLICY_STEPS < min(map(int, report["dropped"]), default=99)
    for sampler in report["samplers"].values():
        assert sampler["activated"][-1] == STEPS
        assert len(sampler["pauses_s"]) == len(sampler["activated"])


@pytest.mark.timeout(450)
def test_a_sampler_without_its_node_goes_stale_is_left_out_and_comes_back(tmp_path):
    report = run(tmp_path, "--kill", "node")
    check(report)
    assert report["killed"] == ["the node of sampler-2", STEPS // 3]
    assert sum(report["dropped"].values()) > 0
    hurt = report["samplers"]["sampler-2"]
    gaps = [later - earlier for earlier, later in itertools.pairwise(hurt["activated"])]
    assert max(gaps) > MAX_OFF_POLICY_STEPS, "its node came back only when what it had was too old"
    assert hurt["passed_over"] >= max(gaps) - 1, "the newest version, none of those between"


@pytest.mark.timeout(450)
def test_a_sampler_that_is_killed_is_started_again_and_starts_from_the_newest_version(tmp_path):
    report = run(tmp_path, "--kill", "sampler")
    check(report)
    hurt = report["samplers"]["sampler-2"]
    assert hurt["starts"] == 2
    assert hurt["activated"] == sorted(set(hurt["activated"])), (
        "the second start did not begin again with an old version"
    )
