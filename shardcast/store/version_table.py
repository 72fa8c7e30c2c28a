"""The table of versions: what a node holds of each manifest, as last made durable.

A version is `staging` until all of it is verified and in place, then `complete`; `failed` when the disk or somebody
else destroyed bytes of it. The have-bitmap is kept in pages, so that a batch writes the few pages it touched and not 32
KiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple, cast

from shardcast_proto.bitmap import Bitmap
from shardcast_proto.hashing import ChunkHasher
from shardcast_proto.ids import Digest
from shardcast_proto.limits import DIGEST_BYTES
from shardcast_proto.manifest import Manifest

from .database import Database
from .identity import FileIdentity

State = Literal["staging", "complete", "failed"]
#: How a version's files came here: landed chunk by chunk, or sealed from a publisher's files in one of three ways.
Link = Literal["landed", "reflink", "hardlink", "copy"]

#: 8,192 chunks: the page of a default-sized version is one, of the largest one 32.
PAGE_BYTES: Final = 1024


class VersionRow(NamedTuple):
    """What a node holds of one version.

    `path` is where its files lie, `error` says why the last attempt failed, `link` how the files came here.
    """

    manifest: Digest
    blob: Digest
    state: State
    path: Path
    have_count: int
    chunk_count: int
    bytes: int
    completed_at_s: float | None
    error: str | None
    link: Link


class VersionTable:
    """Rows of versions, their have-bitmaps, their files' identities."""

    def __init__(self, database: Database, data_dir: Path) -> None:
        self._database = database
        self._staging = data_dir / "staging"
        self._versions = data_dir / "versions"

    def path_of(self, manifest: Digest, state: State) -> Path:
        """Return where a version's files lie in a state."""
        return (self._staging if state == "staging" else self._versions) / manifest.hex()

    # --- versions ---

    def row(self, manifest: Digest) -> VersionRow | None:
        """Return what is held of one version."""
        rows = self.rows("WHERE manifest = ?", [manifest])
        return rows[0] if rows else None

    def rows(self, where: str = "", parameters: Iterable[object] = ()) -> list[VersionRow]:
        """Return versions, by manifest; `where` is a constant clause."""
        found = self._database.rows(
            f"""SELECT manifest, blob, state, chunk_count, bytes, completed_at_s, error, link
                FROM versions {where} ORDER BY manifest""",  # noqa: S608 - callers pass constants
            list(parameters),
        )
        return [self._version_of(row) for row in found]

    def _version_of(self, row: tuple[object, ...]) -> VersionRow:
        manifest, blob, state, chunk_count, size, completed_at_s, error, link = cast(
            "tuple[bytes, bytes, State, int, int, float | None, str | None, Link]", row
        )
        name = Digest(manifest)
        have = self._have_count(name) if state == "staging" else chunk_count if state == "complete" else 0
        path = self.path_of(name, state)
        return VersionRow(name, Digest(blob), state, path, have, chunk_count, size, completed_at_s, error, link)

    def insert(self, manifest: Manifest) -> None:
        """Add a version that is about to be staged."""
        self._database.write(
            "INSERT INTO versions VALUES (?, ?, 'staging', ?, ?, 'landed', 0, NULL, NULL)",
            [manifest.digest, manifest.blob.id, manifest.blob.chunk_count, manifest.total_bytes],
        )

    def set_error(self, manifest: Digest, error: str | None) -> None:
        """Say why the last attempt at a version failed, without giving up what it holds."""
        self._database.write("UPDATE versions SET error = ? WHERE manifest = ?", [error, manifest])

    def fail(self, manifest: Digest, error: str) -> None:
        """Give up what is held of a version."""
        with self._database.transaction():
            self._database.write(
                "UPDATE versions SET state = 'failed', error = ? WHERE manifest = ?", [error, manifest]
            )
            self._database.write("DELETE FROM have_pages WHERE manifest = ?", [manifest])
            self._database.write("DELETE FROM files WHERE manifest = ?", [manifest])

    def complete(
        self, manifest: Manifest, *, link: Link, completed_at_s: float, identities: Mapping[int, FileIdentity]
    ) -> None:
        """Make a version complete, whatever row it had before."""
        name, blob = manifest.digest, manifest.blob
        with self._database.transaction():
            self.delete(name)
            self._database.write(
                "INSERT INTO versions VALUES (?, ?, 'complete', ?, ?, ?, 0, ?, NULL)",
                [name, blob.id, blob.chunk_count, blob.length, link, completed_at_s],
            )
            self._database.write_many(
                "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    [name, index, content_of(manifest, index), *identities[index]]
                    for index in range(len(manifest.files))
                ),
            )

    def relink(self, manifest: Digest, *, link: Link, identities: Mapping[int, FileIdentity]) -> None:
        """Note that the files of a complete version were replaced by others with the same bytes."""
        with self._database.transaction():
            self._database.write("UPDATE versions SET link = ? WHERE manifest = ?", [link, manifest])
            for file_index, identity in identities.items():
                self.save_identity(manifest, file_index, identity)

    def delete(self, manifest: Digest) -> None:
        """Forget a version."""
        with self._database.transaction():
            for table in ("versions", "have_pages", "files"):
                self._database.write(f"DELETE FROM {table} WHERE manifest = ?", [manifest])  # noqa: S608

    # --- have-bitmaps ---

    def have(self, manifest: Digest, chunk_count: int) -> Bitmap:
        """Return the have-bitmap of a staged version."""
        bits = bytearray((chunk_count + 7) // 8)
        for page, data in self._pages(manifest):
            bits[page * PAGE_BYTES : page * PAGE_BYTES + len(data)] = data
        return Bitmap.from_bytes(chunk_count, bytes(bits))

    def save_pages(self, manifest: Digest, pages: Mapping[int, bytes]) -> None:
        """Keep pages of a have-bitmap."""
        self._database.write_many(
            "INSERT OR REPLACE INTO have_pages VALUES (?, ?, ?)",
            [[manifest, page, data] for page, data in pages.items()],
        )

    def _have_count(self, manifest: Digest) -> int:
        return sum(int.from_bytes(data, "little").bit_count() for _, data in self._pages(manifest))

    def _pages(self, manifest: Digest) -> list[tuple[int, bytes]]:
        rows = self._database.rows("SELECT page, bits FROM have_pages WHERE manifest = ?", [manifest])
        return [(page, data) for page, data in rows]

    # --- suspicion ---

    def suspect_all(self) -> None:
        """Note that the last run did not end cleanly: bytes are checked before they are next relied on.

        Landed bytes were made durable before their bits, so what is checked again is little: staged chunks when the version is
        resumed, and sealed files, which the publisher and not this store has written, when they are next handed out.
        """
        with self._database.transaction():
            self._database.write("UPDATE versions SET suspect = 1 WHERE state = 'staging'")
            self._database.write(
                """UPDATE files SET inode = NULL WHERE manifest IN
                   (SELECT manifest FROM versions WHERE state = 'complete' AND link <> 'landed')"""
            )

    def is_suspect(self, manifest: Digest) -> bool:
        """Return whether a staged version's bits have to be checked against its bytes."""
        row = self._database.row("SELECT suspect FROM versions WHERE manifest = ?", [manifest])
        return row is not None and bool(row[0])

    def clear_suspicion(self, manifest: Digest) -> None:
        """Note that a staged version's bits were checked."""
        self._database.write("UPDATE versions SET suspect = 0 WHERE manifest = ?", [manifest])

    # --- files of complete versions ---

    def identity(self, manifest: Digest, file_index: int) -> FileIdentity | None:
        """Return what a file looked like when its bytes were last known to be right; None when they have to be checked."""
        row = self._database.row(
            "SELECT size, mtime_ns, ctime_ns, inode FROM files WHERE manifest = ? AND file_index = ?",
            [manifest, file_index],
        )
        return None if row is None or row[3] is None else FileIdentity(*row)

    def save_identity(self, manifest: Digest, file_index: int, identity: FileIdentity) -> None:
        """Keep what a file looks like now that its bytes are known to be right."""
        self._database.write(
            """UPDATE files SET size = ?, mtime_ns = ?, ctime_ns = ?, inode = ?
               WHERE manifest = ? AND file_index = ?""",
            [*identity, manifest, file_index],
        )

    def files_with(self, content: Digest) -> list[tuple[Digest, int]]:
        """Return (manifest, file index) of each complete file of our own with some content."""
        rows = self._database.rows(
            """SELECT manifest, file_index FROM files JOIN versions USING (manifest)
               WHERE content = ? AND state = 'complete' AND link <> 'hardlink' ORDER BY manifest, file_index""",
            [content],
        )
        return [(Digest(manifest), file_index) for manifest, file_index in rows]


def content_of(manifest: Manifest, file_index: int) -> Digest:
    """Return a key that two files share exactly if they have one size, one chunk size, the same chunk digests."""
    chunks = manifest.file_chunks(file_index)
    hasher = ChunkHasher()
    hasher.update(f"{manifest.files[file_index].size} {manifest.blob.chunk_size} ".encode())
    hasher.update(memoryview(manifest.blob.digests)[chunks.start * DIGEST_BYTES : chunks.stop * DIGEST_BYTES])
    return hasher.digest()
