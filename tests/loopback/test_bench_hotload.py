"""The bench of the hot-load, run for small weights: it still works, and its lines about correctness hold."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.test_tidy import ROOT


@pytest.mark.timeout(300)
def test_the_bench_finds_equal_weights_planned_memory_and_no_mixture(tmp_path):
    pytest.importorskip("torch", reason="needs torch: make torch")
    pytest.importorskip("safetensors", reason="needs safetensors")
    report = tmp_path / "report.json"
    command = [sys.executable, str(ROOT / "benches" / "bench_hotload.py"), "--size-mib", "40", "--repeats", "2"]
    done = subprocess.run(
        [*command, "--loads", "60", "--device", "cpu", "--json", str(report)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert [len(found[part]) for part in ("equal", "pause", "memory", "faults")] == [18, 3, 6, 6]
    assert all(row["good"] for part in ("equal", "pause", "memory", "faults") for row in found[part])
    assert all(row["loads"] == 60 and row["failed"] > 40 for row in found["faults"])
    assert "| inplace" in done.stdout and "copy_ ms" in done.stdout
