"""Small versions, as bytes in memory."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

from shardcast.store import Staging, Store, VersionRow, close_all
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest
from shardcast_proto.manifest import Manifest, sort_by_path

KIB = 1024
CHUNK = 256 * KIB

Contents = Mapping[str, bytes]


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def model(seed: int = 1, *, shard_bytes: int = 5 * CHUNK + 17) -> dict[str, bytes]:
    """Return a version of two shards, an empty file, a small one in a directory."""
    return {
        "a.weights": noise(seed, shard_bytes),
        "b.weights": noise(seed + 1000, shard_bytes),
        "conf/config.json": b'{"seed": %d}' % seed,
        "empty.txt": b"",
    }


def manifest_of(contents: Contents, chunk_size: int = CHUNK) -> Manifest:
    sizes = [(path, len(data)) for path, data in contents.items()]
    digests = b"".join(
        digest_of(contents[path][offset : offset + chunk_size])
        for path, size in sort_by_path(sizes)
        for offset in range(0, size, chunk_size)
    )
    return Manifest.build(sizes, chunk_size, digests)


def chunk_of(contents: Contents, manifest: Manifest, index: int) -> bytes:
    span = manifest.chunk_span(index)
    return contents[manifest.files[span.file_index].path][span.offset : span.offset + span.length]


def land_all(staging: Staging, contents: Contents) -> None:
    for index in range(staging.manifest.blob.chunk_count):
        staging.land(index, [chunk_of(contents, staging.manifest, index)])


def land_version(store: Store, contents: Contents) -> VersionRow:
    """Land a whole version, and return its row."""
    staging = store.begin(manifest_of(contents))
    land_all(staging, contents)
    staging.complete()
    row = store.version(staging.manifest.digest)
    assert row is not None
    return row


def write_tree(root: Path, contents: Contents) -> Path:
    for path, data in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def read_tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def served(store: Store, blob: Digest, first: int, count: int) -> list[bytes]:
    """Return the bytes of the chunks that the store hands out for a run."""
    locations = store.locate_run(blob, first, count)
    try:
        return [os.pread(place.file.fileno(), place.length, place.offset) for place in locations]
    finally:
        close_all(locations)


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def kill(store: Store) -> None:
    """End a store as SIGKILL would: what the kernel holds stays, nothing of ours is flushed."""
    store._is_closed = True
    store._database.close()
    store._lock.release()


def wrong_bits(manifest: Manifest, root: Path, held: Iterable[int]) -> list[int]:
    """Return the chunks that are claimed but not there, without using the code under test."""
    wrong = []
    for index in held:
        span = manifest.chunk_span(index)
        with (root / manifest.files[span.file_index].path).open("rb") as file:
            file.seek(span.offset)
            if digest_of(file.read(span.length)) != manifest.blob.digest(index):
                wrong.append(index)
    return wrong
