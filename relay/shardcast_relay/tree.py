"""The trees of every open blob: this node's attach, adopt, redirect and detach.

`stripes` holds the places and their rules; here is the conversation. A node that opens a blob and is not complete asks a source it knows
to make it the root of a stripe, and for every other stripe the least deep neighbour with room to adopt it. Where nobody has room the
stripe stays without a parent, and the mesh brings its chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.limits import PEERS_PER_MESSAGE_MAX
from shardcast_proto.messages import Adopt, Attach, Detach, Redirect, Trees

from .config import RelayConfig
from .exchange import Exchange
from .outbox import Outbox
from .randomness import Rng
from .stripes import ANY, Parent, Stripes


class Forest:
    """Our places in the trees of all open blobs. Gives commands through the `Outbox` it is handed."""

    def __init__(self, config: RelayConfig, rng: Rng, exchange: Exchange, self_id: PeerId) -> None:
        self._config = config
        self._rng = rng
        self._exchange = exchange
        self._self_id = self_id
        self.blobs: dict[Digest, Stripes] = {}
        #: Our own uplink in bytes/s; 0 when it is not known.
        self.up_bytes_per_s = 0
        #: What neighbours said of their places in blobs that are not open here.
        self._early: dict[PeerId, dict[Digest, Trees]] = {}
        #: When changed places are to be told, by blob.
        self._tell_at_s: dict[Digest, float] = {}
        self._told: dict[Digest, Trees] = {}
        #: What a neighbour says of its uplink in bytes/s; 0 when it says nothing.
        self.uplink_of: Callable[[PeerId], int] = lambda peer: exchange.neighbours[peer].up_bytes_per_s
        #: Told of a blob of ours that has another source.
        self.on_source: Callable[[Digest], None] = lambda blob: None
        #: Whether every node that is known is a neighbour.
        self.is_small: Callable[[], bool] = lambda: False
        #: Told of the roots of a source's stripes: (blob, stripe, root or None).
        self.on_root: Callable[[Digest, int, PeerId | None], None] = lambda blob, stripe, root: None

    # --- what others ask ------------------------------------------------------------------------------------------------

    def edges(self, blob: Digest) -> Iterator[tuple[int, PeerId]]:
        """Yield (stripe, parent) for each parent of ours."""
        stripes = self.blobs.get(blob)
        if stripes is not None:
            yield from ((stripe, parent.peer) for stripe, parent in stripes.parents.items())

    def children(self, blob: Digest) -> Iterator[tuple[int, PeerId]]:
        """Yield (stripe, child) for each child of ours."""
        stripes = self.blobs.get(blob)
        if stripes is not None:
            yield from ((stripe, peer) for peer, fed in stripes.children.items() for stripe in fed)

    def parents(self, blob: Digest) -> list[PeerId]:
        """Return who feeds us, each once."""
        stripes = self.blobs.get(blob)
        return [] if stripes is None else list(dict.fromkeys(parent.peer for parent in stripes.parents.values()))

    def has_edge(self, peer: PeerId) -> bool:
        """Whether a neighbour feeds us or is fed by us."""
        return any(
            peer in stripes.children or any(parent.peer == peer for parent in stripes.parents.values())
            for stripes in self.blobs.values()
        )

    def is_well_fed(self, blob: Digest) -> bool:
        """Whether we have a parent in every stripe that we know of, in a swarm so small that they bring everything."""
        stripes = self.blobs.get(blob)
        if stripes is None or not stripes.parents or not self.is_small():
            return False
        return all(stripe in stripes.parents for stripe in stripes.known_stripes())

    def room(self) -> int:
        """Return how many children this node can feed."""
        known = self._uplinks()
        if not known or not self.up_bytes_per_s:
            return self._config.stripes
        share = self.up_bytes_per_s * (len(known) + 1) / (sum(known) + self.up_bytes_per_s)
        if not self.is_small():
            share = share * self._config.tree_share if share >= self._config.root_share_min else 0.0
        return int(self._config.stripes * share)

    @property
    def next_s(self) -> float | None:
        """When something here is due."""
        times = list(self._tell_at_s.values())
        for stripes in self.blobs.values():
            times += [until_s for _, until_s in stripes.asked.values()]
            times += stripes.declined.values()
        return min(times, default=None)

    def check(self) -> None:
        """Check the invariants.

        Raises:
            InvariantViolated: One is broken.
        """
        for stripes in self.blobs.values():
            stripes.check()

    # --- blobs and neighbours -------------------------------------------------------------------------------------------

    def opened(self, blob: Digest, out: Outbox, now_s: float, *, is_source: bool) -> None:
        """Take a place in the trees of a blob."""
        stripes = self.blobs[blob] = Stripes(blob, is_source)
        for peer, early in self._early.items():
            trees = early.pop(blob, None)
            if trees is not None:
                self._heard(stripes, peer, trees)
        if is_source:
            for peer in self._exchange.neighbours:
                out.send(peer, Trees(blob, (0,), self._config.stripes))
        self._attach(stripes, out, now_s)

    def closed(self, blob: Digest, out: Outbox) -> None:
        """Leave the trees of a blob."""
        stripes = self.blobs.pop(blob, None)
        self._tell_at_s.pop(blob, None)
        self._told.pop(blob, None)
        if stripes is None:
            return
        for stripe, parent in stripes.parents.items():
            out.send(parent.peer, Detach(blob, stripe))
        for peer, fed in stripes.children.items():
            for stripe in fed:
                out.send(peer, Detach(blob, stripe))

    def neighbour_up(self, peer: PeerId, out: Outbox) -> None:
        """Tell a new neighbour of our places."""
        for blob, stripes in self.blobs.items():
            if stripes.is_source:
                out.send(peer, Trees(blob, (0,), self._config.stripes))
            elif blob in self._told:
                out.send(peer, self._told[blob])

    def neighbour_down(self, peer: PeerId, out: Outbox, now_s: float) -> None:
        """Forget a neighbour in all trees."""
        self._early.pop(peer, None)
        for stripes in self.blobs.values():
            self._forget(stripes, peer, out, now_s)

    def cancelled(self, peer: PeerId, blob: Digest, out: Outbox, now_s: float) -> None:
        """A neighbour has closed a blob."""
        self._early.get(peer, {}).pop(blob, None)
        if blob in self.blobs:
            self._forget(self.blobs[blob], peer, out, now_s)

    # --- messages -------------------------------------------------------------------------------------------------------

    def trees_received(self, peer: PeerId, message: Trees, out: Outbox, now_s: float) -> None:
        """A neighbour told of its places."""
        stripes = self.blobs.get(message.blob)
        if stripes is None:
            early = self._early.setdefault(peer, {})
            early.pop(message.blob, None)
            if len(early) >= self._config.early_blobs_per_peer_max:
                del early[next(iter(early))]
            early[message.blob] = message
            return
        self._heard(stripes, peer, message)
        self._attach(stripes, out, now_s)

    def attach_received(self, peer: PeerId, message: Attach, out: Outbox, now_s: float) -> None:
        """A neighbour asks to be our child."""
        blob = message.blob
        stripes = self.blobs.get(blob)
        if stripes is None:
            for stripe in message.stripes or (0,):
                out.send(peer, Redirect(blob, stripe))
        elif stripes.is_source:
            self._adopt_root(stripes, peer, out)
        else:
            for stripe in message.stripes:
                if stripes.may_adopt(
                    peer, stripe, room=self.room(), interior_max=self._interior_max(), is_small=self.is_small()
                ):
                    stripes.adopt(peer, stripe)
                    out.send(peer, Adopt(blob, stripe, stripes.parents[stripe].depth + 1))
                else:
                    out.send(peer, Redirect(blob, stripe, tuple(stripes.fed_in(stripe)[:PEERS_PER_MESSAGE_MAX])))
            self._tell_soon(stripes, now_s)

    def adopt_received(self, peer: PeerId, message: Adopt, out: Outbox, now_s: float) -> None:
        """A neighbour made us its child: the source in a stripe of its choice, others where we asked."""
        stripes = self.blobs.get(message.blob)
        stripe = message.stripe
        if stripes is None or not message.depth or stripe in stripes.children.get(peer, {}):
            out.send(peer, Detach(message.blob, stripe))
            return
        is_from_source = stripes.asked.get(ANY, ("", 0.0))[0] == peer and message.depth == 1
        if is_from_source:
            del stripes.asked[ANY]
            self._replace_parent(stripes, stripe, out)
        elif stripes.asked.get(stripe, ("", 0.0))[0] == peer:
            del stripes.asked[stripe]
        else:
            out.send(peer, Detach(message.blob, stripe))
            return
        stripes.parents[stripe] = Parent(peer, message.depth)
        # a root's first chunk follows at once: who is to have it from us must know us by then
        self._tell_soon(stripes, now_s, after_s=0.0 if is_from_source else None)
        self._attach(stripes, out, now_s)

    def redirect_received(self, peer: PeerId, message: Redirect, out: Outbox, now_s: float) -> None:
        """A neighbour has no room for us: ask another, one of its children if they are neighbours of ours."""
        stripes = self.blobs.get(message.blob)
        if stripes is None:
            return
        for stripe in (message.stripe, ANY):
            if stripes.asked.get(stripe, ("", 0.0))[0] == peer:
                del stripes.asked[stripe]
                stripes.declined[peer, stripe] = now_s + self._config.attach_patience_s
                break
        self._attach(stripes, out, now_s, prefer=message.peers)

    def detach_received(self, peer: PeerId, message: Detach, out: Outbox, now_s: float) -> None:
        """A neighbour ended an edge."""
        stripes = self.blobs.get(message.blob)
        if stripes is None:
            return
        if message.stripe in stripes.children.get(peer, {}):
            self._lose_child(stripes, peer, message.stripe)
            self._tell_soon(stripes, now_s)
        parent = stripes.parents.get(message.stripe)
        if parent is not None and parent.peer == peer:
            stripes.declined[peer, message.stripe] = now_s + self._config.attach_patience_s
            self._lose_parent(stripes, message.stripe, out, now_s)

    def dismiss(self, blob: Digest, stripe: int, out: Outbox) -> list[PeerId]:
        """Let the root of a stripe of ours go, and give it none again: it passes nothing on. Return who it was."""
        stripes = self.blobs[blob]
        roots = stripes.fed_in(stripe)
        for peer in roots:
            stripes.dismissed[peer] = None
            self._lose_child(stripes, peer, stripe)
            out.send(peer, Detach(blob, stripe))
        return roots

    # --- time -----------------------------------------------------------------------------------------------------------

    def tend(self, out: Outbox, now_s: float) -> None:
        """Ask others in place of who did not answer; tell of changed places."""
        for stripes in self.blobs.values():
            for stripe, (peer, until_s) in list(stripes.asked.items()):
                if now_s >= until_s:
                    del stripes.asked[stripe]
                    if stripe != ANY:  # an answer that is late must not make a parent that we do not know of
                        out.send(peer, Detach(stripes.blob, stripe))
                    stripes.declined[peer, stripe] = now_s + self._config.attach_silence_s
            rested = [key for key, until_s in stripes.declined.items() if now_s >= until_s]
            for key in rested:
                del stripes.declined[key]
            self._attach(stripes, out, now_s)
        for blob in [blob for blob, at_s in self._tell_at_s.items() if now_s >= at_s]:
            del self._tell_at_s[blob]
            self._tell(self.blobs[blob], out)

    def completed(self, blob: Digest, now_s: float) -> None:
        """A blob is complete here: nobody new is fed, and no parent is looked for."""
        if blob in self.blobs:
            self._tell_soon(self.blobs[blob], now_s)

    # --- inside ---------------------------------------------------------------------------------------------------------

    def _forget(self, stripes: Stripes, peer: PeerId, out: Outbox, now_s: float) -> None:
        """Take a neighbour out of the trees of a blob."""
        stripes.heard.pop(peer, None)
        for stripe in [stripe for stripe, (asked, _) in stripes.asked.items() if asked == peer]:
            del stripes.asked[stripe]
        for stripe in list(stripes.children.get(peer, ())):
            self._lose_child(stripes, peer, stripe)
        for stripe in [stripe for stripe, parent in stripes.parents.items() if parent.peer == peer]:
            self._lose_parent(stripes, stripe, out, now_s)

    def _heard(self, stripes: Stripes, peer: PeerId, trees: Trees) -> None:
        stripes.heard[peer] = trees
        transfer = self._exchange.transfers.get(stripes.blob)
        if trees.depths == (0,) and transfer is not None:
            transfer.followers[peer] = None
            self.on_source(stripes.blob)

    def _interior_max(self) -> int:
        return self._config.interior_stripes + self.room() // self._config.stripes

    def _is_growing(self, stripes: Stripes) -> bool:
        transfer = self._exchange.transfers.get(stripes.blob)
        return transfer is not None and not transfer.is_complete

    def _attach(self, stripes: Stripes, out: Outbox, now_s: float, *, prefer: tuple[PeerId, ...] = ()) -> None:
        """Ask for a parent in every stripe that lacks one, where somebody might take us."""
        if stripes.is_source or not self._is_growing(stripes):
            return
        until_s = now_s + self._config.attach_patience_s
        if ANY not in stripes.asked:
            rooted = {parent.peer for parent in stripes.parents.values() if parent.depth == 1}
            for source in stripes.sources():
                if source not in rooted and now_s >= stripes.declined.get((source, ANY), 0.0):
                    stripes.asked[ANY] = (source, until_s)
                    out.send(source, Attach(stripes.blob, ()))
                    break
        asks: dict[PeerId, list[int]] = {}
        for stripe in stripes.known_stripes():
            if stripe in stripes.parents or stripe in stripes.asked:
                continue
            found = stripes.candidates(stripe, now_s)
            if found:
                peer = next((peer for peer in prefer if peer in found), None) or self._rng.choice(found)
                stripes.asked[stripe] = (peer, until_s)
                asks.setdefault(peer, []).append(stripe)
        for peer, wanted in asks.items():
            out.send(peer, Attach(stripes.blob, tuple(wanted)))

    def _adopt_root(self, stripes: Stripes, peer: PeerId, out: Outbox) -> None:
        known = stripes.children.get(peer)
        stripe = next(iter(known)) if known else stripes.unassigned(self._own_stripes(stripes))
        if stripe is None or peer in stripes.dismissed or not self._is_fit_for_root(peer):
            out.send(peer, Redirect(stripes.blob, 0, tuple(list(stripes.children)[:PEERS_PER_MESSAGE_MAX])))
            return
        if not known:
            stripes.adopt(peer, stripe)
            self.on_root(stripes.blob, stripe, peer)
        out.send(peer, Adopt(stripes.blob, stripe, 1))

    def _uplinks(self) -> list[int]:
        return [rate for rate in map(self.uplink_of, self._exchange.neighbours) if rate]

    def _is_fit_for_root(self, peer: PeerId) -> bool:
        """Whether a first copy is well placed at a peer: in a large swarm what a slow node has spreads slowly."""
        if self.is_small():
            return True
        known, own = self._uplinks(), self.uplink_of(peer)
        return not own or own >= self._config.root_share_min * sum(known) / len(known)

    def _own_stripes(self, stripes: Stripes) -> range:
        """Return the stripes that this source roots: of several sources each has its own."""
        everybody = sorted([self._self_id, *stripes.sources()])
        return range(everybody.index(self._self_id), self._config.stripes, len(everybody))

    def _replace_parent(self, stripes: Stripes, stripe: int, out: Outbox) -> None:
        """Make way for the source as a parent: whoever was, or was asked to be, is told."""
        parent = stripes.parents.pop(stripe, None)
        asked = stripes.asked.pop(stripe, None)
        for peer in [parent.peer] if parent else [asked[0]] if asked else []:
            out.send(peer, Detach(stripes.blob, stripe))

    def _lose_parent(self, stripes: Stripes, stripe: int, out: Outbox, now_s: float) -> None:
        for peer in stripes.orphaned(stripe):
            out.send(peer, Detach(stripes.blob, stripe))
        self._tell_soon(stripes, now_s)
        self._attach(stripes, out, now_s)

    def _lose_child(self, stripes: Stripes, peer: PeerId, stripe: int) -> None:
        stripes.let_go(peer, stripe)
        if stripes.is_source:
            self.on_root(stripes.blob, stripe, None)

    def _tell_soon(self, stripes: Stripes, now_s: float, *, after_s: float | None = None) -> None:
        if not stripes.is_source:
            at_s = now_s + (self._config.trees_interval_s if after_s is None else after_s)
            self._tell_at_s[stripes.blob] = min(at_s, self._tell_at_s.get(stripes.blob, at_s))

    def _tell(self, stripes: Stripes, out: Outbox) -> None:
        """Tell the neighbours that lack something where we could feed them, if that has changed."""
        transfer = self._exchange.transfers[stripes.blob]
        room, interior_max, is_small = self.room(), self._interior_max(), self.is_small()
        depths: list[int] = []
        if not transfer.is_complete:
            for stripe in range(self._config.stripes):
                is_welcome = stripes.would_feed(stripe, room=room, interior_max=interior_max, is_small=is_small)
                depths.append(stripes.parents[stripe].depth if is_welcome else 0)
        while depths and not depths[-1]:
            depths.pop()
        free = self._config.stripes if is_small else max(room - stripes.edge_count, 0)
        news = Trees(stripes.blob, tuple(depths), free)
        if self._told.get(stripes.blob, Trees(stripes.blob, (), free)) == news:
            return
        self._told[stripes.blob] = news
        for peer in self._exchange.neighbours:
            if transfer.holders.get(peer) != transfer.full():
                out.send(peer, news)
