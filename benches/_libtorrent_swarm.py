"""The other system under test in the lab: libtorrent, a process in every host, in an environment of the bench's own.

Everybody adds the torrent and is connected to everybody else before the seed adds it. The clock starts when the seed seeds; nothing is
hashed before. `default` is libtorrent as it comes, with its own size of pieces. `super` is tuned for such a swarm (see `_libtorrent_peer`),
has pieces of 512 KiB, and seeds by BEP 16: the seed shows each peer other pieces, so that it sends each about once.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from _lab_runs import ORIGIN, Arrival, Totals
from lab import Lab

REQUIREMENT: Final = "libtorrent==2.1.1"
_PEER: Final = Path(__file__).with_name("_libtorrent_peer.py")
_PORT: Final = 6881
_TUNED_PIECE_BYTES: Final = 512 * 1024
_START_TIMEOUT_S: Final = 30.0
#: The tool that makes the torrent file, run by the other Python: where it lies, what it is of, the size of a piece (0: by libtorrent).
_MAKE: Final = """
import sys, libtorrent as lt
target, folder, piece = sys.argv[1:4]
from pathlib import Path
files = lt.list_files(folder) if hasattr(lt, "list_files") else None
if files is None:
    files = lt.file_storage(); lt.add_files(files, folder)
made = lt.create_torrent(files, int(piece))
lt.set_piece_hashes(made, str(Path(folder).parent))
Path(target).write_bytes(lt.bencode(made.generate()))
"""


class Unavailable(Exception):
    """libtorrent cannot be run here; the message says why."""


def install(home: Path) -> Path:
    """Make the environment, and return its Python.

    Raises:
        Unavailable: pip could not install it.
    """
    venv.create(home, with_pip=True, symlinks=True)
    python = home / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason"])[-1]
        raise Unavailable(f"pip could not install {REQUIREMENT}: {reason}")
    return python


def make_torrent(python: Path, checkpoint: Path, target: Path, *, is_tuned: bool) -> Path:
    """Write the torrent file of a checkpoint, and return its path."""
    piece = _TUNED_PIECE_BYTES if is_tuned else 0
    done = subprocess.run(
        [str(python), "-c", _MAKE, str(target), str(checkpoint), str(piece)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Unavailable(f"no torrent could be made: {done.stderr[-500:]}")
    return target


class Torrents:
    """A swarm of libtorrent's peers, one in each host of a lab."""

    def __init__(self, lab: Lab, python: Path, torrent: Path, *, checkpoint: Path, is_tuned: bool) -> None:
        self._lab = lab
        self._python = python
        self._torrent = torrent
        self._checkpoint = checkpoint
        self._is_tuned = is_tuned
        self._processes: dict[str, subprocess.Popen[str]] = {}
        #: What each peer has said last, by the word.
        self._heard: dict[str, dict[str, Any]] = {}

    def prepare(self) -> None:
        """Start all peers, and connect those that download to each other."""
        profile = "tuned" if self._is_tuned else "default"
        for host in self._lab.hosts:
            command = [str(self._python), "-I", str(_PEER), self._lab.address(host), profile]
            process = self._lab.start(host, command, environment=dict(os.environ), stdin=True)
            self._processes[host], self._heard[host] = process, {}
            threading.Thread(target=self._read, args=(host,), daemon=True).start()
        others = [host for host in self._lab.hosts if host != ORIGIN]
        self._await(lambda: all("ready" in heard for heard in self._heard.values()), "start")
        for host in others:
            (self._lab.home / host).mkdir()
            self._tell(host, add=str(self._torrent), save=str(self._lab.home / host), seed=False, super=False)
        self._await(lambda: all("added" in self._heard[host] for host in others), "add the torrent")
        for number, host in enumerate(others):
            self._tell(host, peers=[[self._lab.address(other), _PORT] for other in others[number + 1 :]])
        wanted = len(others) - 1
        self._await(lambda: all(self._heard[host].get("connected", 0) >= wanted for host in others), "connect")

    def begin(self) -> float:
        """Have the seed seed, and return when it began."""
        save = str(self._checkpoint.parent)
        self._tell(ORIGIN, add=str(self._torrent), save=save, seed=True, super=self._is_tuned)
        others = [host for host in self._lab.hosts if host != ORIGIN]
        self._tell(ORIGIN, peers=[[self._lab.address(host), _PORT] for host in others])
        self._await(lambda: "seeding" in self._heard[ORIGIN], "seed")
        return float(self._heard[ORIGIN]["seeding"])

    def arrivals(self) -> dict[str, Arrival]:
        """Return how far every host is."""
        found = {}
        for host, heard in self._heard.items():
            if host != ORIGIN:
                done = heard.get("done")
                is_lost = done is None and not self._lab.is_running(host)
                share = 1.0 if done is not None else float(heard.get("counts", {}).get("share", 0.0))
                found[host] = Arrival(heard.get("first"), done, is_lost, share)
        return found

    def totals(self) -> Totals:
        """Return what the living peers have counted."""
        living = self._lab.living
        for host in living:
            self._heard[host].pop("counts", None)
            self._tell(host, count=True)
        self._await(lambda: all("counts" in self._heard[host] for host in living), "count")
        counts = [self._heard[host]["counts"] for host in living]
        return Totals(
            origin_payload_bytes=self._heard[ORIGIN]["counts"]["sent_payload"],
            duplicate_bytes=sum(count["duplicates"] for count in counts),
            control_bytes=sum(count["sent"] - count["sent_payload"] for count in counts),
            hash_seconds=None,
        )

    def copy_at(self, host: str) -> Path:
        """Return the directory that a peer has written."""
        return self._lab.home / host / self._checkpoint.name

    def _tell(self, host: str, **order: object) -> None:
        stdin = self._processes[host].stdin
        if stdin is None:
            raise ValueError(f"{host} has no pipe")
        stdin.write(json.dumps(order) + "\n")
        stdin.flush()

    def _read(self, host: str) -> None:
        for line in self._lab.stdout_of(host):
            self._heard[host].update(json.loads(line))

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not condition():
            if time.monotonic() > deadline_s:
                logs = {host: self._lab.log_of(host).read_text()[-300:] for host in self._lab.hosts}
                raise Unavailable(f"its peers did not {what} in time: {self._heard} {logs}")
            time.sleep(0.01)
