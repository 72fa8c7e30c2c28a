"""The report of the demo: what each node did in each step, as a table or as one object."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from .compare import RangeProbe

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_MB = 1e6


@dataclass(frozen=True)
class NodeRow:
    """One node in one step.

    Attributes:
        node: Its name.
        role: What it does.
        seconds: From the signature to the complete version here; None for the origin.
        mb_per_s: The version's bytes over these seconds, in 10**6 bytes.
        bytes_from_origin: Bytes that it received from the origin.
        bytes_from_peers: Bytes that it received from others.
        bytes_sent: Bytes of chunks that it sent.
        chunks_verified: Chunks whose digest it compared.
        duplicate_chunks: Chunks that it received once more than needed.
        identical_bytes: Bytes that were compared with the published ones, all equal; None for the origin.
    """

    node: str
    role: str
    seconds: float | None
    mb_per_s: float | None
    bytes_from_origin: int
    bytes_from_peers: int
    bytes_sent: int
    chunks_verified: int
    duplicate_chunks: int
    identical_bytes: int | None


@dataclass(frozen=True)
class StepReport:
    """One published version.

    Attributes:
        step: Its step.
        seq: Its place in the channel.
        manifest: Its digest.
        size_bytes: Bytes of its files.
        hash_seconds: What hashing them took.
        rows: The nodes, the origin first.
    """

    step: int
    seq: int
    manifest: str
    size_bytes: int
    hash_seconds: float
    rows: tuple[NodeRow, ...]

    @property
    def copies_sent_by_origin(self) -> float:
        """How many copies of the version left the origin; one is the least."""
        return self.rows[0].bytes_sent / self.size_bytes


@dataclass(frozen=True)
class DemoReport:
    """The whole demo; it exists only when every byte was right.

    Attributes:
        steps: The published versions.
        probe: The tensor that was fetched over HTTP.
        seconds: From the first to the last line.
        kept: The directory that was kept, or None.
    """

    steps: tuple[StepReport, ...]
    probe: RangeProbe
    seconds: float
    kept: str | None

    @property
    def compared_bytes(self) -> int:
        """Bytes of pulled directories that were compared with the published ones."""
        return sum(row.identical_bytes or 0 for step in self.steps for row in step.rows)

    def document(self) -> dict[str, object]:
        """Return the report as one JSON object."""
        return {**asdict(self), "identical": True, "compared_bytes": self.compared_bytes}

    def tables(self) -> list[RenderableType]:
        """Return the report as rich draws it: a table for each step, and what was compared."""
        probe = self.probe
        drawn: list[RenderableType] = [table for step in self.steps for table in (_table(step), "")]
        drawn.append(
            f"[green]✓[/] {self.compared_bytes / _MB:,.1f} MB in {sum(len(step.rows) - 1 for step in self.steps)}"
            " pulled directories: every byte as published"
        )
        drawn.append(
            f"[green]✓[/] {probe.count / _MB:.1f} MB by HTTP Range from {probe.node}: every byte as published"
            f"\n  [dim]{probe.tensor}, in {probe.path}[/]"
        )
        drawn.append(f"  {self.seconds:.1f} s in all" + (f"; everything is in {self.kept}" if self.kept else ""))
        return drawn


def _table(step: StepReport) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"step {step.step}: {step.size_bytes / _MB:.1f} MB, hashed in {step.hash_seconds:.2f} s,"
        f" {step.copies_sent_by_origin:.2f} copies sent by the origin",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    # headings of two lines, so that 80 columns are enough
    table.add_column("\nnode", no_wrap=True)
    for heading in (
        "\nseconds",
        "\nMB/s",
        "from origin\nMB",
        "from peers\nMB",
        "sent\nMB",
        "chunks\nverified",
        "\nidentical",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in step.rows:
        is_origin = row.identical_bytes is None
        table.add_row(
            row.node,
            "–" if row.seconds is None else f"{row.seconds:.2f}",
            "–" if row.mb_per_s is None else f"{row.mb_per_s:.0f}",
            "–" if is_origin else f"{row.bytes_from_origin / _MB:.1f}",
            "–" if is_origin else f"{row.bytes_from_peers / _MB:.1f}",
            f"{row.bytes_sent / _MB:.1f}",
            "–" if is_origin else f"{row.chunks_verified}",
            "–" if is_origin else "[green]✓[/]",
        )
    return table
