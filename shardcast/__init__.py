"""Everything of SHARDCAST that touches the world: disks, sockets, devices, clocks, processes.

The decisions are made in `shardcast_relay` (who, what and when) and `shardcast_proto` (what is acceptable); this
package carries them out. Importing it imports neither libp2p nor aiohttp nor torch.
"""

from __future__ import annotations


def __getattr__(name: str) -> str:
    """Look `__version__` up when it is asked for: the metadata cost a command 30 ms that most never need."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("shardcast-node")
    except PackageNotFoundError:  # a source tree on the path, not installed
        return "0.0.0+source"
