"""The state database of one data directory.

SQLite in WAL mode with synchronous=FULL: when a call that writes returns, what it wrote survives a power cut. One
connection writes and one reads, each with its lock: all calls may come from any thread, and whoever reads does not wait for
a disk that makes somebody's commit durable. Which rows there are and what they mean is told by the modules that own the
tables.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from shardcast_proto.errors import StoreError

SCHEMA_VERSION: Final = 1

_SCHEMA: Final = """
CREATE TABLE marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;

CREATE TABLE channels (channel BLOB PRIMARY KEY, name TEXT NOT NULL, root BLOB NOT NULL) STRICT;
CREATE TABLE heads (
    channel BLOB NOT NULL, stream BLOB NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    step INTEGER NOT NULL, manifest BLOB NOT NULL, manifest_bytes INTEGER NOT NULL, total_bytes INTEGER NOT NULL,
    envelope BLOB NOT NULL, flags INTEGER NOT NULL, received_at_s REAL NOT NULL, origin INTEGER NOT NULL,
    PRIMARY KEY (channel, stream, epoch, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX heads_by_manifest ON heads (manifest);
CREATE TABLE equivocations (
    channel BLOB NOT NULL, stream BLOB NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    first BLOB NOT NULL, second BLOB NOT NULL,
    PRIMARY KEY (channel, stream, epoch, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE beacons (channel BLOB PRIMARY KEY, envelope BLOB NOT NULL) STRICT;

CREATE TABLE versions (
    manifest BLOB PRIMARY KEY, blob BLOB NOT NULL, state TEXT NOT NULL, chunk_count INTEGER NOT NULL,
    bytes INTEGER NOT NULL, link TEXT NOT NULL, suspect INTEGER NOT NULL,
    completed_at_s REAL, error TEXT
) STRICT;
CREATE TABLE have_pages (
    manifest BLOB NOT NULL, page INTEGER NOT NULL, bits BLOB NOT NULL,
    PRIMARY KEY (manifest, page)
) STRICT, WITHOUT ROWID;
CREATE TABLE files (
    manifest BLOB NOT NULL, file_index INTEGER NOT NULL, content BLOB NOT NULL,
    size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, inode INTEGER,
    PRIMARY KEY (manifest, file_index)
) STRICT, WITHOUT ROWID;
CREATE INDEX files_by_content ON files (content);

CREATE TABLE leases (id INTEGER PRIMARY KEY AUTOINCREMENT, manifest BLOB NOT NULL, holder TEXT NOT NULL) STRICT;
CREATE TABLE pins (manifest BLOB PRIMARY KEY) STRICT;
"""

#: Tables that a release of this schema came to have; an older one passes over them.
_ADDED: Final = """
CREATE TABLE IF NOT EXISTS activations (
    engine TEXT NOT NULL, role TEXT NOT NULL, manifest BLOB NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    step INTEGER NOT NULL, PRIMARY KEY (engine, role)
) STRICT, WITHOUT ROWID;
"""

Row = tuple[Any, ...]


class Database:
    """An open state database."""

    def __init__(self, path: Path) -> None:
        """Open the database, and create its tables when it is new.

        Raises:
            StoreError: It cannot be opened, is damaged, or was written by a later release.
        """
        self._path = path
        self._lock = threading.RLock()
        #: The thread that is in a transaction: it reads what it has written.
        self._writing_thread: int | None = None
        self._reading_lock = threading.Lock()
        with self._errors("opening"):
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
                self._reading = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        (found,) = self._connection.execute("PRAGMA user_version").fetchone()
        if found == SCHEMA_VERSION:
            self._connection.executescript(_ADDED)
            return
        if found:
            raise StoreError(
                f"{self._path} has schema {found}, this release reads {SCHEMA_VERSION}",
                hint="run the release that wrote it, or choose a new --data",
                reason="schema",
                path=str(self._path),
            )
        self._connection.executescript(f"BEGIN; {_SCHEMA} {_ADDED} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Return the rows of a query."""
        if self._writing_thread == threading.get_ident():
            with self._errors("reading"):
                return self._connection.execute(sql, tuple(parameters)).fetchall()
        with self._reading_lock, self._errors("reading"):
            return self._reading.execute(sql, tuple(parameters)).fetchall()

    def row(self, sql: str, parameters: Sequence[object] = ()) -> Row | None:
        """Return the first row of a query, or None."""
        rows = self.rows(sql, parameters)
        return rows[0] if rows else None

    def write(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Run one statement, durably, and return the id of the row that it inserted."""
        with self._lock, self._errors("writing"):
            return self._connection.execute(sql, tuple(parameters)).lastrowid or 0

    def write_many(self, sql: str, parameters: Iterable[Sequence[object]]) -> None:
        """Run one statement for each set of parameters, as one durable transaction."""
        with self.transaction(), self._errors("writing"):
            self._connection.executemany(sql, parameters)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all calls inside one durable transaction, or none of them when one raises; it may be nested."""
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            with self._errors("writing"):
                self._connection.execute("BEGIN IMMEDIATE")
            self._writing_thread = threading.get_ident()
            try:
                yield
                with self._errors("committing"):
                    self._connection.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
            finally:
                self._writing_thread = None

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            with self._errors("rolling back"):
                self._connection.execute("ROLLBACK")

    def mark(self, name: str) -> int | None:
        """Return a small number that was kept under a name."""
        row = self.row("SELECT value FROM marks WHERE name = ?", [name])
        return None if row is None else int(row[0])

    def set_mark(self, name: str, value: int) -> None:
        """Keep a small number under a name."""
        self.write("INSERT OR REPLACE INTO marks VALUES (?, ?)", [name, value])

    def close(self) -> None:
        """Close the database; later calls raise `StoreError`."""
        with self._lock, self._reading_lock, self._errors("closing"):
            self._reading.close()
            self._connection.close()

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
                raise StoreError(f"the store at {self._path.parent} is closed", reason="closed") from error
            is_full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            raise StoreError(
                f"{error} while {action} {self._path}",
                hint="free space on that disk" if is_full else "check the disk; a damaged database must be moved away",
                reason="disk_full" if is_full else "database",
                path=str(self._path),
            ) from error
