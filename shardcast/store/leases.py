"""The book of leases: who needs which version to stay.

A lease belongs to a reader and outlives the daemon, because an engine keeps reading a version's files while the daemon
restarts; a holder that comes back drops what it held before with `release_holder`. A pin belongs to the operator. What an
engine serves, is being given, or may go back to is held by the row that says so, for as long as that stands (`activations`).
"""

from __future__ import annotations

from collections.abc import Iterable

from shardcast_proto.ids import Digest

from .database import Database


class LeaseBook:
    """Leases with pins."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def lease(self, manifest: Digest, holder: str) -> int:
        """Keep a version from being deleted until the returned lease is released."""
        return self._database.write("INSERT INTO leases (manifest, holder) VALUES (?, ?)", [manifest, holder])

    def release(self, lease_id: int) -> None:
        """Give a lease back. Giving it back again does nothing."""
        self._database.write("DELETE FROM leases WHERE id = ?", [lease_id])

    def release_all(self, lease_ids: Iterable[int]) -> None:
        """Give many leases back at once, all or none; those that were given back before are passed over."""
        self._database.write_many("DELETE FROM leases WHERE id = ?", ([lease_id] for lease_id in lease_ids))

    def release_holder(self, holder: str) -> None:
        """Give back all leases of one holder."""
        self._database.write("DELETE FROM leases WHERE holder = ?", [holder])

    def leased(self) -> dict[Digest, list[str]]:
        """Return the leased versions, each with its holders."""
        holders: dict[Digest, list[str]] = {}
        for manifest, holder in self._database.rows("SELECT manifest, holder FROM leases ORDER BY id"):
            holders.setdefault(Digest(manifest), []).append(holder)
        for manifest, engine in self._database.rows(
            "SELECT DISTINCT manifest, engine FROM activations WHERE role <> 'hold' ORDER BY engine"
        ):
            holders.setdefault(Digest(manifest), []).append(f"engine {engine}")
        return holders

    def pin(self, manifest: Digest) -> None:
        """Keep a version until it is unpinned."""
        self._database.write("INSERT OR IGNORE INTO pins VALUES (?)", [manifest])

    def unpin(self, manifest: Digest) -> None:
        """Let retention decide over a version again."""
        self._database.write("DELETE FROM pins WHERE manifest = ?", [manifest])

    def pinned(self) -> set[Digest]:
        """Return the pinned versions."""
        return {Digest(manifest) for (manifest,) in self._database.rows("SELECT manifest FROM pins")}
