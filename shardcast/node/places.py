"""The places of a node in the trees of its versions, and its bulk links, as its API shows them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from shardcast.bulk import BulkLinks, LinkStats
from shardcast.http.facade import ChildView, HandingOutView, LinkView, StripeView, TreeView, VersionView
from shardcast.shell.shell import Shell
from shardcast_proto.ids import Digest, PeerId, parse_digest
from shardcast_relay import Machine


def bulk_links(shell: Shell) -> BulkLinks | None:
    """Return the bulk links of a node; None for one that has none, or not over sockets."""
    links = shell.fetcher.links
    return links if isinstance(links, BulkLinks) else None


def tree_view(shell: Shell, view: VersionView, *, roles_of: Callable[[PeerId], tuple[str, ...]]) -> TreeView:
    """Describe who feeds whom with a version.

    Args:
        view: The version.
        roles_of: Returns the roles that a peer claims.
    """
    machine, local = shell.machine, shell.versions.get(parse_digest(view["manifest"]))
    blob = local.manifest.blob.id if local is not None else None
    stripes = machine.trees.blobs.get(blob) if blob is not None else None
    links = bulk_links(shell)
    return {
        "peer_id": machine.membership.self_id,
        "channel": view["channel"],
        "channel_id": view["channel_id"],
        "seq": view["seq"],
        "step": view["step"],
        "manifest": view["manifest"],
        "state": view["state"],
        "chunks": view["chunks"],
        "have_chunks": view["have_chunks"],
        "explain": view["explain"],
        "is_source": stripes is not None and stripes.is_source,
        "handing_out": _handing_out(machine, blob),
        "stripes": _stripes(machine, blob),
        "children": _children(machine, blob),
        "links": _links(machine, [] if links is None else links.stats(), roles_of),
        "links_receiving": len(machine.links.receiving.up),
        "links_sending": len(machine.links.sending.up),
    }


def _handing_out(machine: Machine, blob: Digest | None) -> HandingOutView | None:
    source = machine.pushes.sources.get(blob) if blob is not None else None
    if source is None:
        return None
    return {
        "chunks_left": source.todo.bit_count(),
        "chunks_out": source.out.bit_count(),
        "repeated_chunks": source.repeated_count,
    }


def _stripes(machine: Machine, blob: Digest | None) -> list[StripeView]:
    stripes = machine.trees.blobs.get(blob) if blob is not None else None
    if stripes is None:
        return []
    source = machine.pushes.sources.get(stripes.blob)
    shares = source.shares if source is not None else {}
    now_s = asyncio.get_running_loop().time()
    views: list[StripeView] = []
    for stripe in range(machine.config.stripes):
        parent, share = stripes.parents.get(stripe), shares.get(stripe)
        views.append(
            {
                "stripe": stripe,
                "parent": parent.peer if parent is not None else None,
                "depth": parent.depth if parent is not None else 0 if stripes.is_source else None,
                "children": list(stripes.fed_in(stripe)),
                "chunks_out": len(share.unconfirmed) if share is not None else None,
                "credit": share.credit(machine.config, now_s) if share is not None else None,
            }
        )
    return views


def _children(machine: Machine, blob: Digest | None) -> list[ChildView]:
    stripes = machine.trees.blobs.get(blob) if blob is not None else None
    views: list[ChildView] = []
    for peer, fed in stripes.children.items() if stripes is not None else ():
        backlog = machine.pushes.backlogs.get(peer)
        waiting = backlog.waiting.get(blob, ()) if backlog is not None and blob is not None else ()
        views.append(
            {
                "peer": peer,
                "stripes": sorted(fed),
                "waiting_chunks": len(waiting),
                "pushes_on_way": backlog.on_way if backlog is not None else 0,
                "overflow_chunks": backlog.overflow_count if backlog is not None else 0,
            }
        )
    return views


def _links(machine: Machine, stats: list[LinkStats], roles_of: Callable[[PeerId], tuple[str, ...]]) -> list[LinkView]:
    rates = {(link.peer, link.is_sending): link.rate_bytes_per_s for link in stats}
    receiving, sending = machine.links.receiving.up, machine.links.sending.up
    names = dict.fromkeys([*machine.membership.active, *receiving, *sending])
    return [
        {
            "peer": peer,
            "roles": list(roles_of(peer)),
            "is_receiving": peer in receiving,
            "is_sending": peer in sending,
            "received_bytes_per_s": rates.get((peer, False), 0.0),
            "sent_bytes_per_s": rates.get((peer, True), 0.0),
        }
        for peer in names
    ]
