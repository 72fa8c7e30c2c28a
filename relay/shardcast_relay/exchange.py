"""The exchange of have-bitmaps: what neighbours hold of the open blobs, and what they are told that this node holds.

It owns the flow of `Want`, `Have`, `Done` and `Cancel` in both directions; `downloads` decides from it what to fetch. A source withholds
what it has while it hands out first copies, or everybody would pull them from it: it shows nothing until `release`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from shardcast_proto.bitmap import mask_of_runs, runs_of
from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.limits import CHUNKS_MAX
from shardcast_proto.messages import Cancel, Done, Have, Want

from .config import RelayConfig
from .events import BlobOpened, Contact
from .outbox import Outbox
from .transfer import Transfer

_ALL_CHUNKS: Final = (1 << CHUNKS_MAX) - 1


class Exchange:
    """Who of the neighbours has what, and who of them wants to hear what we have."""

    def __init__(self, config: RelayConfig, self_id: PeerId) -> None:
        self._config = config
        self.self_id = self_id
        #: Whether control messages to a peer go over a bulk link, where they cost little.
        self.is_linked: Callable[[PeerId], bool] = lambda peer: False
        #: Neighbours, by peer id, whose data plane we may use.
        self.neighbours: dict[PeerId, Contact] = {}
        #: Told of each blob of which nothing is missing any more.
        self.on_complete: Callable[[Transfer], None] = lambda transfer: None
        #: Whether the trees bring everything of a blob.
        self.is_well_fed: Callable[[Transfer], bool] = lambda transfer: False
        #: The open blobs.
        self.transfers: dict[Digest, Transfer] = {}
        #: What neighbours said of blobs that are not open here: (mask, wants to hear).
        self._early: dict[PeerId, dict[Digest, tuple[int, bool]]] = {}
        #: When untold chunks are to be told.
        self.tell_at_s: float | None = None

    def is_busy(self) -> bool:
        """Whether something is missing of an open blob, here or at a neighbour that wants to hear what we hold of it."""
        return any(transfer.listeners or not transfer.is_complete for transfer in self.transfers.values())

    def is_behind(self) -> bool:
        """Whether half of the neighbours hold a good deal more of an open blob than we do."""
        for transfer in self.transfers.values():
            counts = sorted(transfer.holders.get(peer, 0).bit_count() for peer in self.neighbours)
            least = transfer.have.mask.bit_count() + self._config.behind_share * transfer.have.count
            if not transfer.is_complete and counts and counts[len(counts) // 2] > least:
                return True
        return False

    def least_in_need(self, peers: list[PeerId]) -> PeerId | None:
        """Return the one of some neighbours that holds most of what is open; None while nothing is."""
        if not any(transfer.listeners for transfer in self.transfers.values()):
            return None
        return max(
            peers, key=lambda peer: sum(other.holders.get(peer, 0).bit_count() for other in self.transfers.values())
        )

    def neighbour_up(self, contact: Contact, out: Outbox) -> None:
        """Ask a new neighbour what it has of everything that is open here."""
        self.neighbours[contact.peer] = contact
        for transfer in self.transfers.values():
            if not transfer.is_complete:
                out.send(contact.peer, want_of(transfer))

    def neighbour_down(self, peer: PeerId) -> None:
        """Forget what a neighbour had and wanted."""
        self.neighbours.pop(peer, None)
        self._early.pop(peer, None)
        for transfer in self.transfers.values():
            transfer.holder_left(peer)

    def have_received(self, peer: PeerId, message: Have) -> int:
        """A neighbour said which chunks it holds; return the mask of what it named.

        Raises:
            RemoteProtocolError: The runs do not fit the blob.
        """
        transfer = self.transfers.get(message.blob)
        if transfer is not None:
            mask = mask_of_runs(message.runs, transfer.have.count)
            transfer.holder_has(peer, mask, is_snapshot=message.is_snapshot)
            return mask
        mask = mask_of_runs(message.runs, CHUNKS_MAX)
        before, wants = self._early_word(peer, message.blob)
        self._note_early(peer, message.blob, mask if message.is_snapshot else before | mask, wants)
        return 0

    def want_received(self, peer: PeerId, message: Want, out: Outbox, now_s: float) -> None:
        """A neighbour wants to be told what we hold of a blob, now and from now on; it holds what it does not name.

        The first answer is immediate. A snapshot can be a thousand times longer than its `Want`, so repeated ones wait for the
        next have-update.

        Raises:
            RemoteProtocolError: The runs do not fit the blob.
        """
        transfer = self.transfers.get(message.blob)
        if transfer is None:
            held = _ALL_CHUNKS & ~mask_of_runs(message.runs, CHUNKS_MAX) if message.runs else 0
            self._note_early(peer, message.blob, held, True)
            return
        held = transfer.full() & ~mask_of_runs(message.runs, transfer.have.count) if message.runs else 0
        transfer.holder_has(peer, held, is_snapshot=True)
        transfer.listeners[peer] = None
        if peer in transfer.answered:
            transfer.unanswered[peer] = None
            self.tell_soon(now_s)
        else:
            transfer.answered[peer] = None
            out.send(peer, _snapshot(transfer))

    def done_received(self, peer: PeerId, message: Done) -> None:
        """A neighbour holds all of a blob."""
        transfer = self.transfers.get(message.blob)
        if transfer is None:
            self._note_early(peer, message.blob, _ALL_CHUNKS, False)
            return
        transfer.holder_has(peer, transfer.full(), is_snapshot=True)
        transfer.listeners.pop(peer, None)

    def cancel_received(self, peer: PeerId, message: Cancel) -> None:
        """A neighbour no longer wants to hear of a blob."""
        transfer = self.transfers.get(message.blob)
        if transfer is not None:
            for peers in (transfer.listeners, transfer.followers, transfer.unanswered):
                peers.pop(peer, None)
        elif peer in self._early:
            mask, _ = self._early_word(peer, message.blob)
            self._note_early(peer, message.blob, mask, False)

    def open(self, event: BlobOpened, out: Outbox) -> Transfer:
        """Begin serving a blob that is not open; ask the neighbours what they have of it."""
        transfer = Transfer(
            event.blob,
            chunk_count=event.chunk_count,
            chunk_bytes=event.chunk_bytes,
            mask=event.mask,
            priority=event.priority,
        )
        transfer.manifest = event.manifest
        transfer.is_withheld = event.is_source and transfer.is_complete
        self.transfers[event.blob] = transfer
        for peer in self.neighbours:
            self._open_to(peer, transfer, out)
        return transfer

    def close(self, blob: Digest, out: Outbox) -> bool:
        """Stop serving a blob, and say so; return whether it was open."""
        transfer = self.transfers.pop(blob, None)
        if transfer is None:
            return False
        for peer in self.neighbours:
            out.send(peer, Cancel(blob))
            if transfer.shown:
                out.send(peer, Have(blob, (), is_snapshot=True))
        return True

    def tell_soon(self, now_s: float) -> None:
        """Let what is untold wait for company, but not longer than the interval."""
        if self.tell_at_s is None:
            is_cheap = all(map(self.is_linked, self.neighbours))
            self.tell_at_s = now_s + (self._config.have_interval_linked_s if is_cheap else self._config.have_interval_s)

    def tell_haves(self, out: Outbox, now_s: float) -> None:
        """Send the have-updates that have waited for company.

        Sources hear of it first: they wait to see what they hand out passed on. The others pull nothing that the trees may still bring, so
        where the trees bring everything they can wait longer.
        """
        self.tell_at_s = None
        is_all_told = True
        for transfer in self.transfers.values():
            late, transfer.unanswered = transfer.unanswered, {}
            for peer in late:
                out.send(peer, _snapshot(transfer))
            if transfer.unshown:
                self._tell(transfer, [peer for peer in transfer.followers if peer not in late], transfer.unshown, out)
                transfer.unshown = 0
            if not transfer.untold:
                continue
            if now_s < transfer.told_s + self._config.have_interval_s and self.is_well_fed(transfer):
                is_all_told = False
                continue
            told = transfer.followers | late
            self._tell(transfer, [peer for peer in transfer.listeners if peer not in told], transfer.untold, out)
            transfer.untold, transfer.told_s = 0, now_s
        if not is_all_told:
            self.tell_soon(now_s)

    def _tell(self, transfer: Transfer, peers: list[PeerId], mask: int, out: Outbox) -> None:
        if not transfer.is_complete:
            message = Have(transfer.blob, tuple(runs_of(mask)))
            for peer in peers:
                out.send(peer, message)

    def release(self, transfer: Transfer, out: Outbox) -> None:
        """Show the neighbours all that is held of a blob that was withheld."""
        transfer.is_withheld = False
        self.announce_complete(transfer, out)

    def announce_complete(self, transfer: Transfer, out: Outbox) -> None:
        """Tell all neighbours that nothing is missing here."""
        transfer.untold = transfer.unshown = 0
        self.on_complete(transfer)
        for peer in self.neighbours:
            out.send(peer, Done(transfer.blob))

    def _early_word(self, peer: PeerId, blob: Digest) -> tuple[int, bool]:
        return self._early.get(peer, {}).get(blob, (0, False))

    def _note_early(self, peer: PeerId, blob: Digest, mask: int, wants: bool) -> None:
        early = self._early.setdefault(peer, {})
        early.pop(blob, None)
        if not mask and not wants:
            return
        if len(early) >= self._config.early_blobs_per_peer_max:
            del early[next(iter(early))]
        early[blob] = (mask, wants)

    def _open_to(self, peer: PeerId, transfer: Transfer, out: Outbox) -> None:
        mask, wants = self._early.get(peer, {}).pop(transfer.blob, (0, False))
        if mask:
            transfer.holder_has(peer, mask & transfer.full(), is_snapshot=True)
        if wants:
            transfer.listeners[peer] = transfer.answered[peer] = None
            out.send(peer, _snapshot(transfer))
        if not transfer.is_complete:
            out.send(peer, want_of(transfer))
        elif not wants and not transfer.is_withheld:
            out.send(peer, Done(transfer.blob))


def want_of(transfer: Transfer) -> Want:
    """Return the message that asks for what is missing of a blob."""
    return Want(transfer.blob, tuple(runs_of(transfer.have.missing)) if transfer.have.held else ())


def _snapshot(transfer: Transfer) -> Have:
    return Have(transfer.blob, tuple(runs_of(transfer.shown)), is_snapshot=True)
