"""The balance of the active view: neighbours whose uplinks together are what everybody's are.

In a mesh a node gives each neighbour that wants it the same part of its uplink. What a node can take is then the sum of its neighbours'
uplinks over the number of theirs, and with neighbours drawn at random from mixed uplinks that is 0.5 for the poorest node where the mean
is 1: the poorest ends last, while fast nodes with rich neighbours have nobody left to give to. So two nodes that would both be nearer to
the mean as neighbours of each other become that, each in place of a neighbour that keeps it from there. An uplink that nobody has told
counts as the mean, so where none are told nothing changes.

Source: X-BOT (Leitao et al., SRDS 2009) for bettering a view by exchange; the measure is of this package.
"""

from __future__ import annotations

from collections.abc import Sequence

from shardcast_proto.ids import PeerId

from .events import Contact


def mean_uplink(contacts: Sequence[Contact]) -> float:
    """Return the mean of the uplinks that are told, in bytes/s; 0.0 without one."""
    told = [contact.up_bytes_per_s for contact in contacts if contact.up_bytes_per_s]
    return sum(told) / len(told) if told else 0.0


def excess(contacts: Sequence[Contact], target: float) -> float:
    """Return by how much the uplinks of neighbours are together above the target, in bytes/s."""
    unknown = mean_uplink(contacts)
    return sum(contact.up_bytes_per_s or unknown for contact in contacts) - target


def is_balanced(contacts: Sequence[Contact], target: float, tolerance: float) -> bool:
    """Whether the uplinks of neighbours are together near enough to what they should be."""
    return abs(excess(contacts, target)) <= tolerance * target


def fits(newcomer: Contact, contacts: Sequence[Contact], target: float, *, gain: float) -> bool:
    """Whether one neighbour more would bring the sum nearer to the target by at least `gain`."""
    over = excess(contacts, target)
    return newcomer.up_bytes_per_s > 0 and abs(over) - abs(over + newcomer.up_bytes_per_s) >= gain


def place_for(newcomer: Contact, contacts: Sequence[Contact], target: float, *, gain: float) -> PeerId | None:
    """Return the neighbour in whose place a newcomer would bring the sum nearest to the target, and nearer by `gain`; None without one."""
    if not newcomer.up_bytes_per_s or not target:
        return None
    over = excess(contacts, target)
    best, best_excess = None, abs(over) - gain
    for contact in contacts:
        after = abs(over - contact.up_bytes_per_s + newcomer.up_bytes_per_s)
        if contact.up_bytes_per_s and after <= best_excess and (best is None or after < best_excess):
            best, best_excess = contact.peer, after
    return best
