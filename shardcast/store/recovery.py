"""The reconciliation of disk with database when a store is opened.

Every step of the store makes bytes durable before it writes the row that speaks of them, and removes rows before it
removes bytes. So after a kill at any point each difference has one meaning, told here, and none is a question for the
operator.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from shardcast_proto.manifest import Manifest

from .disk import remove_tree, sync_directory
from .faults import disk_errors
from .identity import FileIdentity
from .objects import ObjectShelf
from .version_table import VersionRow, VersionTable

_log = logging.getLogger(__name__)


def reconcile(data_dir: Path, table: VersionTable, objects: ObjectShelf) -> None:
    """Bring disk and database together.

    Raises:
        StoreError: The disk fails.
    """
    objects.sweep()
    for row in table.rows():
        final = table.path_of(row.manifest, "complete")
        if row.state == "staging" and final.is_dir():
            _finish(row, final, table, objects)
        elif row.state == "complete" and not final.is_dir():
            table.fail(row.manifest, f"its directory {final} is gone")
    _sweep(data_dir / "staging", table)
    _sweep(data_dir / "versions", table)


def _finish(row: VersionRow, final: Path, table: VersionTable, objects: ObjectShelf) -> None:
    """Note what a killed run did not: it had renamed the version, so all of it was verified, durable, in place."""
    encoded = objects.get(row.manifest)
    if encoded is None or row.have_count < row.chunk_count:
        # only a damaged disk or a stranger's hand leads here
        table.fail(row.manifest, f"{final} is there, but not all that belongs to it")
        return
    manifest = Manifest.decode(encoded)
    with disk_errors("reading the status of files in", final):
        sync_directory(final.parent)
        identities = {index: FileIdentity.of((final / file.path).lstat()) for index, file in enumerate(manifest.files)}
    table.complete(manifest, link="landed", completed_at_s=time.time(), identities=identities)


def _sweep(directory: Path, table: VersionTable) -> None:
    """Remove directories that no row speaks of: deletions, or sealings, that a kill cut short."""
    wanted = {row.path for row in table.rows() if row.state != "failed"}
    with disk_errors("sweeping", directory):
        for path in directory.iterdir():
            if path not in wanted:
                _log.info("removing %s, which belongs to no version", path)
                remove_tree(path)
