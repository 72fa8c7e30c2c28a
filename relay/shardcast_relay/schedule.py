"""The order of requests: rarest chunks first, in runs, from whoever should deliver them soonest.

The chunk is chosen before its source. Among the wanted chunks that some peer with room holds, the rarest level is taken and a chunk
drawn from it at random; the source is chosen by estimated time of arrival; the run is then extended over the wanted chunks around
it that the source holds, within a block, whatever their rarity: have-updates cut blocks into levels of one or two chunks, and a request
for each would cost more than the order gains. When nothing is wanted any more but fetches drag on, the slowest are hedged: asked once
more elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .config import RelayConfig
from .fetches import Fetch, FetchTable
from .randomness import Rng, random_bit
from .selection import Source, choose_source
from .transfer import Transfer


@dataclass(frozen=True)
class Request:
    """A run of chunks to ask a source for."""

    source: Source
    first: int
    count: int
    is_hedge: bool = False

    @property
    def mask(self) -> int:
        """The chunks of the run."""
        return ((1 << self.count) - 1) << self.first


def next_request(
    transfer: Transfer, sources: Sequence[Source], config: RelayConfig, rng: Rng, *, among: int = -1
) -> Request | None:
    """Return the next run to ask for, or None when no peer with room holds a wanted chunk."""
    wanted, chunk_bytes = transfer.wanted & among, transfer.chunk_bytes
    reachable = 0
    ready: list[tuple[Source, int]] = []
    for source in sources:
        held = transfer.holders.get(source.peer, 0) & wanted
        if held and source.has_room(config, chunk_bytes):
            reachable |= held
            ready.append((source, held))
    for level in transfer.availability.rarest(reachable):
        index = random_bit(level, rng)
        bit = 1 << index
        source = choose_source([source for source, held in ready if held & bit], chunk_bytes, config, rng)
        count_max = source.run_max(config, chunk_bytes)
        return _run_in_block(source, transfer.holders[source.peer] & wanted, index, count_max)
    return None


def _run_in_block(source: Source, mask: int, index: int, count_max: int) -> Request:
    """Return the run of chunks of `mask` around `index`, within the block of at most `count_max` chunks that `index` lies in.

    Blocks begin at multiples of their size, a power of two: what is left between two runs is whole blocks then, not gaps of a few
    chunks that each cost a request.
    """
    size = 1 << max(count_max, 1).bit_length() - 1
    block = index & -size
    gap = ~mask >> block & ((1 << index - block) - 1)
    first = block + gap.bit_length()
    return Request(source, first, _run_length(mask, first, block + size - first))


def next_hedge(
    transfer: Transfer, sources: Sequence[Source], fetches: FetchTable, config: RelayConfig, *, now_s: float
) -> tuple[Fetch, Request] | None:
    """Return the most overdue fetch, or the one that is to end last, with the run to ask for elsewhere; None when there is none.

    Only what is overdue, or would come much sooner from the other. Only when nothing is wanted any more, only within the share of the blob
    that hedging may cost, and each fetch once.
    """
    budget = int(transfer.have.count * config.hedge_share_max) + 1 - transfer.hedged_count
    if transfer.wanted or budget < 1:
        return None
    before_s = now_s - config.hedge_after_min_s
    slow = [
        fetch
        for fetch in fetches
        if fetch.target == transfer.blob and fetch.started_s < before_s and _may_be_hedged(fetch)
    ]
    slow.sort(key=lambda fetch: fetch.started_s + fetch.estimate_s)
    overdue = [fetch for fetch in slow if _is_overdue(fetch, config, now_s)]
    for fetch in overdue + [fetch for fetch in reversed(slow) if fetch not in overdue]:
        missing = fetch.remaining & ~transfer.have.mask
        if not missing:
            continue
        first = (missing & -missing).bit_length() - 1
        holders = [
            source
            for source in sources
            if source.peer != fetch.peer
            and source.has_room(config, transfer.chunk_bytes)
            and transfer.holders.get(source.peer, 0) >> first & 1
        ]
        if holders:
            source = min(holders, key=lambda source: (source.is_carried, source.eta_s(transfer.chunk_bytes)))
            left_s = fetch.started_s + fetch.estimate_s - now_s
            if not _is_overdue(fetch, config, now_s) and left_s < config.hedge_gain * source.eta_s(
                transfer.chunk_bytes
            ):
                continue
            count_max = min(budget, source.run_max(config, transfer.chunk_bytes))
            held = missing & transfer.holders[source.peer]
            return fetch, Request(source, first, _run_length(held, first, count_max), is_hedge=True)
    return None


def _may_be_hedged(fetch: Fetch) -> bool:
    return not (fetch.is_object or fetch.is_hedge or fetch.is_hedged or fetch.is_cancelled)


def _is_overdue(fetch: Fetch, config: RelayConfig, now_s: float) -> bool:
    return now_s - fetch.started_s > max(config.hedge_factor * fetch.estimate_s, config.hedge_after_min_s)


def _run_length(mask: int, first: int, count_max: int) -> int:
    """Return how many consecutive bits of `mask` are set from `first` on, at least 1 and at most `count_max`."""
    window = mask >> first & ((1 << max(count_max, 1)) - 1)
    return max((~window & (window + 1)).bit_length() - 1, 1)
