"""The loopback bench, run for a tiny file: what it needs of the nodes still works, and it says what it has measured."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.test_tidy import ROOT

BENCHES = ROOT / "benches"


@pytest.mark.timeout(180)
def test_the_bench_measures_our_nodes_and_compares_every_byte(tmp_path):
    report = tmp_path / "report.json"
    command = [sys.executable, str(BENCHES / "bench_loopback.py"), "--only", "ours", "--runs", "1", "--disk-runs", "0"]
    done = subprocess.run(
        [*command, "--bytes", "3000000", "--json", str(report)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (runs,) = [place["ours"] for place in json.loads(report.read_text())["runs"].values()]
    assert len(runs) == 1 and 0 < runs[0]["seconds"] < 60 and runs[0]["cpu_seconds"] > 0
    assert "| ours" in done.stdout and "3 MB, 1 origin, 2 relays, 4 clients" in done.stdout


@pytest.mark.parametrize(
    ("seconds", "median"), [([2.0, 4.0, 3.0], "3.0"), ([None, 4.0], "4.0"), ([None, None], "None"), ([], "None")]
)
def test_a_median_is_of_the_runs_that_ended(seconds, median):
    code = f"from _measure import *; print(median_seconds([Run(value, 1.0) for value in {seconds!r}]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCHES, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == median
