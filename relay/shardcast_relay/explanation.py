"""The explanation of a blob: one sentence on where it stands at this node, and on why it stands still when it does.

It reads the books of the machine and changes nothing. What it cannot know, because it lies outside of the machine (why the disk refuses,
which manifest is on its way), its reader adds.
"""

from __future__ import annotations

from shardcast_proto.ids import Digest, PeerId

from .downloads import Downloads
from .membership import Membership
from .pushes import Pushes
from .transfer import Transfer
from .tree import Forest


def explain(
    blob: Digest, *, downloads: Downloads, membership: Membership, trees: Forest, pushes: Pushes, now_s: float
) -> str:
    """Return the sentence, without a full stop."""
    transfer = downloads.transfers.get(blob)
    if transfer is None:
        return "not known here"
    if transfer.is_complete:
        return _handing_out(transfer, pushes) or "complete"
    missing = f"{_chunks(transfer.have.count - transfer.have.held)} missing"
    if now_s < downloads.store_paused_until_s:
        return f"our disk refused what came, tried again in {downloads.store_paused_until_s - now_s:.0f} s; {missing}"
    feeding = _feeding(transfer, downloads, trees)
    covering = downloads.fetches.covering(blob) | downloads.arrivals.covering(blob)
    if feeding and (transfer.pace_per_s or covering):
        return f"{feeding}{_pace(transfer)}; {missing}"
    still = _standing_still(transfer, downloads, membership, now_s)
    return f"{feeding}, nothing comes; {still}" if feeding else still


def _handing_out(transfer: Transfer, pushes: Pushes) -> str:
    """Say how far a source is with the first copies; nothing where nobody wants any."""
    source = pushes.sources.get(transfer.blob)
    if source is None or source.is_done or not transfer.listeners:
        return ""
    out = source.out.bit_count()
    passing = f", {_chunks(out)} to be passed on" if out else ""
    roots = _many(len(source.shares), "stripe") if source.shares else "no stripe has a root"
    return f"the source hands out: {_chunks(source.todo.bit_count())} to go{passing}, {roots}"


def _feeding(transfer: Transfer, downloads: Downloads, trees: Forest) -> str:
    """Say who brings chunks, or would."""
    parents = len(trees.parents(transfer.blob))
    fetched = {fetch.peer: None for fetch in downloads.fetches if fetch.target == transfer.blob and fetch.remaining}
    ways = [
        *([f"fed by {_many(parents, 'parent')}"] if parents else []),
        *([f"pulled from {_many(len(fetched), 'neighbour')}"] if fetched else []),
    ]
    return " and ".join(ways)


def _pace(transfer: Transfer) -> str:
    pace = transfer.pace_per_s
    return f", {pace:.0f} chunks a second" if pace >= 1 else f", {pace:.1f} chunks a second" if pace else ""


def _standing_still(transfer: Transfer, downloads: Downloads, membership: Membership, now_s: float) -> str:
    missing = transfer.have.missing
    orphans = missing & ~transfer.availability.held_by_anyone
    if not orphans:
        return _held_but_not_asked(transfer, downloads, now_s)
    if transfer.followers:
        return f"{_chunks(missing.bit_count())} missing, {orphans.bit_count()} of them not handed out by the source yet"
    some = "" if orphans == missing else f" of {missing.bit_count()} missing"
    last = transfer.last_holder(orphans)
    if last is not None:
        peer, at_s = last
        alone = "" if membership.active else "; no neighbour"
        since = f", {now_s - at_s:.0f} s ago" if at_s else ""
        return f"waiting for a holder of {_chunks(orphans.bit_count())}{some}: last seen at {peer}{since}{alone}"
    if not membership.active:
        return f"{_chunks(missing.bit_count())} missing, no neighbour"
    count = len(membership.active)
    none = "the one neighbour does not hold them" if count == 1 else f"none of the {count} neighbours holds them"
    return f"waiting for a holder of {_chunks(orphans.bit_count())}{some}: {none}"


def _held_but_not_asked(transfer: Transfer, downloads: Downloads, now_s: float) -> str:
    """Say why nobody is asked for what neighbours hold."""
    missing = transfer.have.missing
    text = f"{_chunks(missing.bit_count())} missing"
    if not missing & transfer.ripe:
        return f"{text}, left to the trees for a moment"
    holders = [peer for peer, held in transfer.holders.items() if held & missing]
    rests_s = [_rests_s(peer, downloads, now_s) for peer in holders]
    if rests_s and min(rests_s) > 0:
        who = "the neighbour that holds them" if len(holders) == 1 else f"the {len(holders)} neighbours that hold them"
        return f"{text}, {who} failed of late: asked again in {min(rests_s):.0f} s"
    return f"{text}, to be asked for at {_many(len(holders), 'neighbour')}"


def _rests_s(peer: PeerId, downloads: Downloads, now_s: float) -> float:
    record = downloads.reputations.get(peer)
    return 0.0 if record is None else max(record.paused_until_s, record.quarantined_until_s) - now_s


def _chunks(count: int) -> str:
    return _many(count, "chunk")


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
