"""The control network: who is connected, what they say, what the swarm gossips.

This room owns libp2p and the trio loop that it needs; nothing else in the project imports either. Seen from outside
there is one object, `P2pNode`, which lives on the asyncio side: it takes calls and reports events (`P2pEvents`) there.
Bulk bytes take the data plane, not this; `carriage` is the
capped exception, for peers that nothing else reaches.

Reading order: `events` and `limits` (the interface), `node` (the asyncio side), `bridge` (the two crossings), `host`,
`links`, `gossip` and `carriage` (the trio side), `guards` and `mux_guards` (what keeps a peer from ending the host), `addresses`
(who may be dialled).

Importing this package costs nothing: libp2p (1.2 s, 78 MB) is loaded with the first use of `P2pNode`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .addresses import AddressPolicy, P2pAddress, parse_endpoint, parse_p2p_address
from .events import CarriedReceiver, P2pEvents
from .identity import load_or_create_seed, peer_id_of_seed
from .limits import P2pLimits

if TYPE_CHECKING:
    from .node import P2pNode

__all__ = [
    "AddressPolicy",
    "CarriedReceiver",
    "P2pAddress",
    "P2pEvents",
    "P2pLimits",
    "P2pNode",
    "load_or_create_seed",
    "parse_endpoint",
    "parse_p2p_address",
    "peer_id_of_seed",
]


def __getattr__(name: str) -> object:
    if name == "P2pNode":
        from .node import P2pNode

        return P2pNode
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
