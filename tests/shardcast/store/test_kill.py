"""A process is killed at random moments while it lands a version: what it leaves is sound, and little is lost."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

from shardcast.store import BATCH_BYTES_MAX, Store
from shardcast.store.version_table import PAGE_BYTES
from shardcast_proto.manifest import Manifest
from tests.shardcast.store.trees import CHUNK, manifest_of, noise, read_tree, write_tree, wrong_bits

ROOT = Path(__file__).resolve().parents[3]
KILLS = 20
THREADS = 2


def test_a_kill_at_any_point_leaves_only_verified_bytes_and_costs_one_batch(tmp_path):
    contents = {f"shard-{number}": noise(number, 60 * CHUNK + number) for number in range(4)} | {"config": b"{}"}
    manifest = manifest_of(contents)
    source = write_tree(tmp_path / "source", contents)
    (tmp_path / "manifest").write_bytes(manifest.encoded)
    choice = random.Random(2)
    known: set[int] = set()
    ends: list[str] = []
    for number in range(KILLS):
        if number % 4 == 3:  # the opening, the taking over, the reserving of space
            landed, end = _run_and_kill(tmp_path, source, after_s=choice.uniform(0.0, 0.3))
        else:  # the landing, the completing
            landed, end = _run_and_kill(tmp_path, source, after_lines=choice.randrange(manifest.blob.chunk_count + 20))
        known |= landed
        ends.append(end)
        durable = _durable_bits(tmp_path / "data", manifest)
        staged, final = (tmp_path / "data" / name / manifest.digest.hex() for name in ("staging", "versions"))
        assert wrong_bits(manifest, staged if staged.is_dir() else final, durable) == []
        with Store.open(tmp_path / "data") as store:
            row = store.version(manifest.digest)
            if row is None:
                continue
            if row.state == "complete":
                assert read_tree(row.path) == contents
                store.delete(manifest.digest)
                known = set()
                continue
            assert not final.is_dir()
            held = set(store.begin(manifest).have)
            assert wrong_bits(manifest, row.path, sorted(held)) == []
            lost = sum(manifest.chunk_span(index).length for index in known - held)
            # a batch, and the chunk that each thread was about to add to it
            assert lost <= BATCH_BYTES_MAX + THREADS * CHUNK
            known = held
    assert "landed" in ends, "no kill hit the landing: the test has lost its subject"


def _run_and_kill(
    tmp_path: Path, source: Path, *, after_s: float | None = None, after_lines: int | None = None
) -> tuple[set[int], str]:
    """Run the child, kill it after a time or a number of its lines; return what it had landed, with its last word."""
    path = os.pathsep.join(str(ROOT / folder) for folder in ("proto", "relay", "."))
    child = subprocess.Popen(
        [
            sys.executable,
            Path(__file__).with_name("landing_child.py"),
            tmp_path / "data",
            source,
            tmp_path / "manifest",
        ],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    landed: set[int] = set()
    last = "starting"
    killer = threading.Timer(60.0 if after_s is None else after_s, child.send_signal, [signal.SIGKILL])
    killer.start()
    assert child.stdout is not None
    for count, line in enumerate(child.stdout):
        last, *numbers = line.split()
        landed.update(int(number) for number in numbers)
        if count == after_lines:
            child.send_signal(signal.SIGKILL)
    child.wait()
    killer.cancel()
    return landed, last


def _durable_bits(data_dir: Path, manifest: Manifest) -> list[int]:
    """Read the bits that are committed, before anything of ours has repaired them."""
    connection = sqlite3.connect(data_dir / "state.db")
    try:
        pages = connection.execute("SELECT page, bits FROM have_pages").fetchall()
    finally:
        connection.close()
    return [
        page * PAGE_BYTES * 8 + position
        for page, bits in pages
        for position in range(len(bits) * 8)
        if bits[position >> 3] >> (position & 7) & 1
    ]
