"""Everything of SHARDCAST that touches the world: disks, sockets, devices, clocks, processes.

The decisions are made in `shardcast_relay` (who, what and when) and `shardcast_proto` (what is acceptable); this
package carries them out. Importing it imports neither libp2p nor aiohttp nor torch.

For programs: `shardcast.Publisher`, `shardcast.Subscriber` and, with torch, `shardcast.HotLoader`.
"""

from __future__ import annotations

#: As type checkers know it. Importing `typing` for it would take a third of a command's time to where Ctrl-C is caught.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from .hotload import HotLoader
    from .publisher import Published, Publisher
    from .subscriber import Subscriber, Version
    from .tensors import RawTensor

    __version__: str

#: Where each public name is; looked up when it is asked for, because a command needs none of them.
_PLACES = {
    "HotLoader": "hotload",
    "Published": "publisher",
    "Publisher": "publisher",
    "RawTensor": "tensors",
    "Subscriber": "subscriber",
    "Version": "subscriber",
}
__all__ = ["HotLoader", "Published", "Publisher", "RawTensor", "Subscriber", "Version", "__version__"]


def __getattr__(name: str) -> object:
    """Look a name up when it is asked for. The metadata for `__version__` costs a command 30 ms that most never need."""
    if name in _PLACES:
        from importlib import import_module

        return getattr(import_module(f".{_PLACES[name]}", __name__), name)
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("shardcast-node")
    except PackageNotFoundError:  # a source tree on the path, not installed
        return "0.0.0+source"
