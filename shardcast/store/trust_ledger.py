"""The ledger of what a node has accepted as signed.

Whatever is saved here is durable before the call returns, and must be saved before anything of it is exposed: a node
that forgot the newest seq it accepted could be rolled back by whoever replays an old head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from shardcast_proto.errors import Conflict
from shardcast_proto.ids import Digest
from shardcast_proto.limits import DIGEST_BYTES

from .database import Database


class ChannelRow(NamedTuple):
    """A channel that this node follows, with the newest root envelope that it accepted."""

    channel: Digest
    name: str
    root_envelope: bytes


class HeadRow(NamedTuple):
    """An accepted head.

    `received_at_s` is unix seconds; `origin` says that this node signed it; `stream` is empty for the main one.
    """

    channel: Digest
    epoch: int
    seq: int
    step: int
    manifest: Digest
    manifest_bytes: int
    total_bytes: int
    envelope: bytes
    flags: int
    received_at_s: float
    origin: bool
    stream: bytes = b""


class EquivocationRow(NamedTuple):
    """Two validly signed head envelopes with one place in one stream: a proof."""

    channel: Digest
    epoch: int
    seq: int
    first: bytes
    second: bytes
    stream: bytes = b""


_HEAD_COLUMNS = (
    "channel, epoch, seq, step, manifest, manifest_bytes, total_bytes, envelope, flags, received_at_s, origin, stream"
)


class TrustLedger:
    """Roots, heads, beacons, equivocation proofs.

    Invariant: one head for each (channel, stream, epoch, seq).
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def save_channel(self, channel: Digest, name: str, root_envelope: bytes) -> None:
        """Keep a channel with its newest root, over an older one."""
        self._database.write("INSERT OR REPLACE INTO channels VALUES (?, ?, ?)", [channel, name, root_envelope])

    def channels(self) -> list[ChannelRow]:
        """Return all channels, by name."""
        rows = self._database.rows("SELECT channel, name, root FROM channels ORDER BY name, channel")
        return [ChannelRow(Digest(channel), name, root) for channel, name, root in rows]

    def save_head(self, head: HeadRow) -> None:
        """Keep an accepted head. The same one again changes nothing.

        Raises:
            Conflict: Another manifest was accepted at that place of the stream.
        """
        place = [head.channel, head.stream, head.epoch, head.seq]
        with self._database.transaction():
            row = self._database.row(
                "SELECT manifest FROM heads WHERE (channel, stream, epoch, seq) = (?, ?, ?, ?)", place
            )
            if row is None:
                values = [*head[:-2], int(head.origin), head.stream]
                marks = ", ".join("?" * len(values))
                self._database.write(f"INSERT INTO heads ({_HEAD_COLUMNS}) VALUES ({marks})", values)  # noqa: S608
            elif row[0] != head.manifest:
                raise Conflict(f"another head was accepted at epoch {head.epoch}, seq {head.seq}", seq=head.seq)

    def heads(self, channel: Digest, *, stream: bytes = b"", limit: int = -1) -> list[HeadRow]:
        """Return the heads of a stream, the newest first, without those places that were equivocated; at most `limit`."""
        return self._heads(channel, stream, limit=limit)

    def newest_head(
        self, channel: Digest, by: Literal["step", "seq", "manifest"], value: int | bytes
    ) -> HeadRow | None:
        """Return the newest head of the main stream with a step, seq or manifest, as `heads` would list it.

        A manifest may be given by its first bytes.
        """
        condition, values = f"AND {by} = ?", [value]
        if isinstance(value, bytes):
            condition = f"AND {by} BETWEEN ? AND ?"
            values = [value.ljust(DIGEST_BYTES, b"\x00"), value.ljust(DIGEST_BYTES, b"\xff")]
        rows = self._heads(channel, b"", condition=condition, values=values, limit=1)
        return rows[0] if rows else None

    def _heads(
        self, channel: Digest, stream: bytes, *, condition: str = "", values: Sequence[object] = (), limit: int
    ) -> list[HeadRow]:
        rows = self._database.rows(
            f"""SELECT {_HEAD_COLUMNS} FROM heads WHERE channel = ? AND stream = ? {condition} AND (epoch, seq) NOT IN
                (SELECT epoch, seq FROM equivocations WHERE channel = ? AND stream = ?)
                ORDER BY epoch DESC, seq DESC LIMIT ?""",  # noqa: S608 - the columns and conditions are constants
            [channel, stream, *values, channel, stream, limit],
        )
        return [_head_of(row) for row in rows]

    def head_count(self, channel: Digest) -> int:
        """Return how many heads of the main stream were accepted."""
        row = self._database.row("SELECT count(*) FROM heads WHERE channel = ? AND stream = ?", [channel, b""])
        return int(str(row[0])) if row else 0

    def heads_naming(self, manifest: Digest) -> list[HeadRow]:
        """Return every accepted head that names a manifest, in any channel, the newest first."""
        rows = self._database.rows(
            f"SELECT {_HEAD_COLUMNS} FROM heads WHERE manifest = ? ORDER BY epoch DESC, seq DESC",  # noqa: S608
            [manifest],
        )
        return [_head_of(row) for row in rows]

    def save_equivocation(self, proof: EquivocationRow) -> None:
        """Keep the proof that two heads were signed for one place; the first proof stays.

        `heads` leaves that place out.
        """
        self._database.write(
            """INSERT OR IGNORE INTO equivocations (channel, epoch, seq, first, second, stream)
               VALUES (?, ?, ?, ?, ?, ?)""",
            proof,
        )

    def equivocations(self, channel: Digest) -> list[EquivocationRow]:
        """Return the proofs of a channel, the newest place first."""
        rows = self._database.rows(
            """SELECT channel, epoch, seq, first, second, stream FROM equivocations
               WHERE channel = ? ORDER BY epoch DESC, seq DESC""",
            [channel],
        )
        return [EquivocationRow(Digest(row[0]), *row[1:]) for row in rows]

    def save_beacon(self, channel: Digest, envelope: bytes) -> None:
        """Keep the newest beacon of a channel, over an older one."""
        self._database.write("INSERT OR REPLACE INTO beacons VALUES (?, ?)", [channel, envelope])

    def beacon(self, channel: Digest) -> bytes | None:
        """Return the beacon that was kept last."""
        row = self._database.row("SELECT envelope FROM beacons WHERE channel = ?", [channel])
        return None if row is None else bytes(row[0])


def _head_of(row: tuple[object, ...]) -> HeadRow:
    head = HeadRow(*row)  # type: ignore[arg-type]  # STRICT tables hold the declared types
    return head._replace(channel=Digest(head.channel), manifest=Digest(head.manifest), origin=bool(head.origin))
