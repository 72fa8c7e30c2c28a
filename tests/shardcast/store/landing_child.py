"""A process that lands a version until it is killed; see test_kill."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shardcast.store import Store
from shardcast_proto.manifest import Manifest


def say(line: str) -> None:
    """Print a line in one piece, whichever thread says it."""
    os.write(1, f"{line}\n".encode())


def main(data_dir: Path, source: Path, encoded: Path) -> None:
    manifest = Manifest.decode(encoded.read_bytes())
    contents = {row.path: (source / row.path).read_bytes() for row in manifest.files}
    store = Store.open(data_dir)
    staged = store.begin(manifest)

    def land(index: int) -> None:
        span = manifest.chunk_span(index)
        data = memoryview(contents[manifest.files[span.file_index].path])
        if staged.land(index, [data[span.offset : span.offset + span.length]]):
            say(f"landed {index}")

    say("ready")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(land, (index for index in range(manifest.blob.chunk_count) if index not in staged.have)))
    say("full")
    staged.complete()
    say("complete")
    store.close()


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
