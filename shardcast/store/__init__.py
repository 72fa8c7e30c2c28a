"""The store of one node: its trust state, its versions, the chunks it holds.

Start with `store` for the directory and the whole, with `staging` for how chunks become durable, with `held_tree` for
what is checked before bytes leave. It refuses to hand out a byte that it has not verified, and to share its directory
with a second daemon.
"""

from .chunk_files import HASH_THREADS, ChunkPlace, digest_chunks, places_in, wrong_chunks
from .held_tree import HeldTree
from .identity import FileIdentity
from .location import ChunkLocation, close_all
from .retention import KEEP_DEFAULT, UNNAMED, HeldVersion, plan_retention
from .staging import BATCH_BYTES_MAX, FLUSH_AGE_S, Staging
from .store import Store
from .trust_ledger import ChannelRow, EquivocationRow, HeadRow
from .version_table import Link, State, VersionRow

__all__ = [
    "Store",
    "Staging",
    "HeldTree",
    "VersionRow",
    "State",
    "Link",
    "ChunkLocation",
    "close_all",
    "ChannelRow",
    "HeadRow",
    "EquivocationRow",
    "HeldVersion",
    "plan_retention",
    "FileIdentity",
    "ChunkPlace",
    "digest_chunks",
    "places_in",
    "wrong_chunks",
    "BATCH_BYTES_MAX",
    "FLUSH_AGE_S",
    "HASH_THREADS",
    "KEEP_DEFAULT",
    "UNNAMED",
]
