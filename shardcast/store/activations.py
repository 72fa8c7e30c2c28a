"""The book of activations: which version each engine serves, served before, is being given, as last noted.

It outlives the daemon, and each of these rows but `hold` keeps its version from being deleted (see `LeaseBook.leased`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

from shardcast_proto.ids import Digest

from .database import Database

#: `hold` is a place in the channel: nothing that is not newer is taken up unasked.
Role = Literal["active", "previous", "attempting", "hold"]


class ActivationRow(NamedTuple):
    """A version in one role of one engine."""

    manifest: Digest
    epoch: int
    seq: int
    step: int


class ActivationBook:
    """What was noted of engines."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def activations(self, engine: str) -> dict[str, ActivationRow]:
        """Return what is noted of an engine, by role."""
        rows = self._database.rows(
            "SELECT role, manifest, epoch, seq, step FROM activations WHERE engine = ?", [engine]
        )
        return {role: ActivationRow(Digest(manifest), epoch, seq, step) for role, manifest, epoch, seq, step in rows}

    def note_activations(self, engine: str, rows: Mapping[Role, ActivationRow]) -> None:
        """Replace what is noted of an engine, all of it or nothing."""
        with self._database.transaction():
            self._database.write("DELETE FROM activations WHERE engine = ?", [engine])
            self._database.write_many(
                "INSERT INTO activations VALUES (?, ?, ?, ?, ?, ?)",
                ([engine, role, *row] for role, row in rows.items()),
            )

    def forget_engines(self, kept: Collection[str]) -> None:
        """Forget the engines that are not among `kept`, so that they hold nothing any more."""
        known = [engine for (engine,) in self._database.rows("SELECT DISTINCT engine FROM activations")]
        self._database.write_many(
            "DELETE FROM activations WHERE engine = ?", ([engine] for engine in known if engine not in kept)
        )
