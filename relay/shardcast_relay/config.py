"""The knobs of the relay machine, each with the reason for its default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024


@dataclass(frozen=True)
class RelayConfig:
    """What an operator or a test may set. Times in seconds, sizes in bytes."""

    #: Neighbours at most. With 8 random ones, a thousand nodes stay connected when 40 % of them die (HyParView, fig. 2).
    active_view_max: int = 10
    #: Below this many neighbours the node looks for more; between the two it accepts but does not look, so views settle. It is as many as
    #: there are stripes, so that each may have a parent of its own.
    active_view_aim: int = 8
    #: In a larger swarm the uplinks of the neighbours together are brought so near to what is usual: with random ones the poorest node can
    #: take half of what the mean can, and ends last. A change must bring them nearer by so much, or views would never settle.
    balance_tolerance: float = 0.08
    balance_gain: float = 0.04
    #: A source takes nothing, and what it hands out spreads from fast neighbours: its own are to have so many times the usual uplinks.
    #: Simulated with 128 nodes the last one had everything after 1.14 * T* instead of 1.21 (seed 1).
    balance_source_share: float = 1.5
    #: Who is behind half of its neighbours by so much of a blob, with less than the usual uplinks around it, goes for better ones at once.
    #: Simulated with 256 nodes the last one had everything after 1.145 * T* instead of 1.175 (seed 0).
    behind_share: float = 0.02
    #: While trying changes nothing it is tried less often, at most so rarely.
    balance_pause_max_s: float = 60.0
    #: While something is fetched, whoever has neighbours enough takes one more in so often: a stranger costs a chunk before it is known for
    #: a liar, and liars, hung up on by all others, would come one after the other.
    newcomer_interval_s: float = 5.0
    #: Contacts remembered for repair; about log N times the active view.
    passive_view_max: int = 64
    shuffle_interval_s: float = 10.0
    #: Contacts in one shuffle message.
    shuffle_sample: int = 8
    #: Hops of a newcomer's walk, and how many walks start at the node it joined.
    walk_hops: int = 3
    walks_per_join: int = 2
    #: A dial costs 250 ms at best; a host that does not answer within this is not worth waiting for.
    dial_timeout_s: float = 10.0
    dials_max: int = 4
    #: A contact that refused or could not be dialled is left alone so long; while there is no neighbour less, from `retry_backoff_s` on
    #: and doubling.
    redial_backoff_s: float = 20.0
    #: Gossip is a hint: ask two neighbours for their heads so often, and tell all of them our rate (a heartbeat).
    reconcile_interval_s: float = 2.0
    reconcile_neighbours: int = 2
    heartbeat_interval_s: float = 5.0
    #: Four missed heartbeats: the connection is a black hole that TCP has not noticed yet.
    silence_max_s: float = 20.0
    #: A Hello that was not answered within this is said again. A neighbour that says Hello again, at least half of this after ours, has
    #: forgotten us, or never heard ours; less than that, the two have crossed.
    hello_patience_s: float = 3.0

    #: Have-updates wait so long for company: a small libp2p message costs a millisecond of CPU at each end.
    have_interval_s: float = 0.2
    #: The same where bulk links carry them, for a tenth of the cost; what a source waits to see passed on comes by them.
    have_interval_linked_s: float = 0.05
    #: Bytes asked for and not yet verified, over all peers: what may sit in sockets and worker threads.
    receive_budget_bytes: int = 48 * MIB
    #: One request asks for what its peer delivers in this time: it costs each end 1 to 2 ms of CPU, as much as 1 MB of payload …
    run_time_s: float = 0.25
    #: … but at most this much: a longer run holds chunks back from faster peers.
    run_bytes_max: int = 4 * MIB
    #: A peer's window is rate * (rtt + slack), at least two runs so that one is always under way. Of a slow peer, whose run takes longer
    #: than this, one: what waits there cannot be asked of others.
    window_run_s: float = 0.5
    window_slack_s: float = 0.25
    window_bytes_max: int = 16 * MIB
    fetches_per_peer_max: int = 4

    #: Chunks over the control connection, for peers that nothing else reaches: fetches at once, over all peers, and one for each peer.
    #: 0 switches it off. Encrypting and framing cost 17 CPU-seconds for a gigabyte over both ends, many times what the data plane does.
    carried_fetches_max: int = 4
    #: What the other side lets through for all its peers together is 8 MB/s; a stranger is reckoned with a part of that.
    carried_rate_prior_bytes_per_s: float = 2e6
    #: With one fetch at a time each costs two round trips of silence: a run is longer than one over the data plane …
    carried_run_time_s: float = 1.0
    #: … and short enough to wait in memory whole, because its reader must not pause.
    carried_run_bytes_max: int = 4 * MIB
    #: A data plane that could not be reached is tried again after this, doubling up to the maximum; meanwhile its peer is carried.
    direct_retry_s: float = 15.0
    direct_retry_max_s: float = 600.0

    #: A peer nobody has measured is tried as if it gave this much: 64 Mbit/s, a home uplink.
    rate_prior_bytes_per_s: float = 8e6
    #: No estimate falls below this, so a bad start does not exclude a peer for ever.
    rate_floor_bytes_per_s: float = 16e3
    rtt_prior_s: float = 0.05
    #: Weight of the newest sample.
    rate_smoothing: float = 0.3
    #: Bytes are summed over so long before they count as one sample.
    rate_sample_s: float = 0.2
    #: An advertised rate counts at most this much above the measured one.
    advertised_trust: float = 1.25
    #: How many holders of a chunk are compared, and how often one is taken blindly to learn its rate.
    source_sample: int = 3
    exploration: float = 0.05

    #: No byte for so long: the peer or the path is gone.
    fetch_idle_timeout_s: float = 5.0
    #: A fetch may take this many times its estimate, and never less than `fetch_deadline_min_s`.
    fetch_deadline_factor: float = 8.0
    fetch_deadline_min_s: float = 15.0
    #: Each failure in a row doubles the next deadline, so often at most: a peer too slow for one chunk of 8 MiB within the deadline
    #: never gives a sample, and would be cut off for ever (15 s * 2**3 suffice for 70 kB/s).
    fetch_deadline_doublings_max: int = 3
    #: The last chunks are asked from a second holder when the first is this many times over its estimate.
    hedge_factor: float = 2.0
    hedge_after_min_s: float = 0.5
    #: They are also asked from a second holder that should deliver so many times sooner.
    hedge_gain: float = 2.0
    #: Hedged bytes at most, as a share of the blob.
    hedge_share_max: float = 0.03
    #: A peer that failed is left alone so long, doubling up to the maximum.
    retry_backoff_s: float = 0.5
    retry_backoff_max_s: float = 15.0
    #: A peer that sent a bad chunk is refused so long, doubling with each further one up to the maximum.
    quarantine_s: float = 60.0
    quarantine_max_s: float = 3600.0
    #: A proven origin that sent a bad chunk (its files were changed under it) is asked for nothing for so long, doubling with each one in a
    #: row; it stays connected, since its next head will be good.
    origin_pause_s: float = 5.0
    origin_pause_max_s: float = 60.0
    #: Local disk trouble: nothing is fetched for so long.
    store_pause_s: float = 5.0

    #: Blobs that a peer may speak of before we know them.
    early_blobs_per_peer_max: int = 8
    #: Peers, besides the neighbours, whose conduct and rate are remembered: a new peer id costs nothing.
    peer_records_max: int = 1024
    #: Contacts that are left alone for a while, at most.
    resting_max: int = 1024
    #: Entries of the story.
    story_max: int = 512

    #: Trees for each blob: with fewer the death of a node costs more, with more each chunk's tree is deeper (SplitStream uses 16).
    stripes: int = 8
    #: Stripes in which a node with average uplink feeds others; one that can feed more children takes another for each eight.
    interior_stripes: int = 1
    #: With so few contacts that are no neighbours (they may be dead) the swarm is small enough for trees of one level.
    small_passive_max: int = 2
    #: In a larger one a node gives so much of its uplink to trees below the roots; the rest is the mesh's. Simulated with 32 nodes of mixed
    #: uplinks the last node had everything after 1.33 * T* with a half, after 1.17 with nothing.
    tree_share: float = 0.0
    #: In a larger one a node roots a stripe only with this share of the mean uplink of the source's neighbours.
    root_share_min: float = 0.75
    #: An Attach that was not answered within this is asked of another; a neighbour that declined is left alone so long.
    attach_patience_s: float = 1.0
    #: One that never answered is left alone for so long that its answer cannot be taken for that to another question.
    attach_silence_s: float = 30.0
    #: Changes of our place in the trees wait so long for company.
    trees_interval_s: float = 0.05
    #: Pushes ordered at once for each child: one leaves, one is ready.
    push_window: int = 2
    #: A push that has not left by then has a child that takes nothing.
    push_deadline_s: float = 30.0
    #: After a push that failed nothing is pushed to its peer for so long: the end of its link is about to be told.
    push_rest_s: float = 0.25
    #: What waits for one child beyond this is the mesh's to pull: a parent that waited for its slowest child would couple all to it.
    backlog_bytes_max: int = 8 * MIB
    #: The same for all children together, in the time that our uplink needs for it.
    backlog_s: float = 1.0
    #: The same in a larger swarm, where the mesh is quicker than a tree that waits.
    backlog_large_s: float = 0.4
    #: So many chunks may wait for a child however long it takes.
    backlog_chunks_min: int = 2
    #: What neighbours hold is left to the trees for so long before it is pulled: this, and so many times what the trees took of late. Too
    #: short costs duplicates (8 % of the bytes and 12 % of the time with a fixed second, mixed uplinks), too long the time of a dead node.
    pull_grace_s: float = 0.5
    pull_grace_factor: float = 1.25
    pull_grace_max_s: float = 8.0

    #: When nothing is missing that no neighbour holds, so many chunks are pulled at once, from the far end of what the trees still bring:
    #: where one parent is slower than the others, they share its rest.
    endgame_chunks: int = 8

    #: A pushed chunk that takes longer to arrive is looked for elsewhere: 8 MiB at 17 Mbit/s.
    arrival_patience_s: float = 4.0

    #: Chunks a stripe may have handed out and not yet seen at a third node: at first, at least, at most.
    credit_first: int = 4
    credit_min: int = 3
    credit_max: int = 32
    #: In a larger swarm, while fewer than this are out in all, a stripe without credit gets another rather than that our uplink idles.
    credit_spare: int = 64
    #: The window is this many times rate * latency, and one: a little more than what is on its way, so that the stripe never waits for us.
    credit_gain: float = 1.4
    #: A chunk that no third node has by then is handed out once more, elsewhere, and the stripe's share is halved.
    credit_deadline_s: float = 1.0
    #: … and the time that the chunk takes at this rate.
    credit_floor_bytes_per_s: float = 500e3
    credit_deadline_factor: float = 4.0
    #: A root whose share was halved below this is dismissed.
    credit_trust_min: float = 0.1
    #: A stripe whose last chunk would be so much later than all others gets none at the end.
    credit_tail_s: float = 0.25
    #: A source whose blob is wanted, and that has no root with a link for so long, lets itself be pulled from.
    source_patience_s: float = 1.5

    #: A link that the other side has not opened within this is opened from here.
    link_patience_s: float = 1.0
    link_timeout_s: float = 5.0
    #: The first retry comes soon: a hello may be on its way, and who has not read it takes no link from a stranger.
    link_retry_s: float = 0.25
    link_retry_max_s: float = 120.0
