"""The exchange of have-bitmaps: what neighbours hold of the open blobs, and what they are told that this node holds.

It owns the flow of `Want`, `Have`, `Done` and `Cancel` in both directions; `downloads` decides from it what to fetch.
"""

from __future__ import annotations

from shardcast_proto.bitmap import mask_of_runs, runs_of
from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.limits import CHUNKS_MAX
from shardcast_proto.messages import Cancel, Done, Have, Want

from .config import RelayConfig
from .events import BlobOpened, Contact
from .outbox import Outbox
from .transfer import Transfer


class Exchange:
    """Who of the neighbours has what, and who of them wants to hear what we have."""

    def __init__(self, config: RelayConfig) -> None:
        self._config = config
        #: Neighbours, by peer id, whose data plane we may use.
        self.neighbours: dict[PeerId, Contact] = {}
        #: The open blobs.
        self.transfers: dict[Digest, Transfer] = {}
        #: What neighbours said of blobs that are not open here: (mask, wants to hear).
        self._early: dict[PeerId, dict[Digest, tuple[int, bool]]] = {}
        #: When untold chunks are to be told.
        self.tell_at_s: float | None = None

    def neighbour_up(self, contact: Contact, out: Outbox) -> None:
        """Ask a new neighbour what it has of everything that is open here."""
        self.neighbours[contact.peer] = contact
        for transfer in self.transfers.values():
            if not transfer.is_complete:
                out.send(contact.peer, Want(transfer.blob))

    def neighbour_down(self, peer: PeerId) -> None:
        """Forget what a neighbour had and wanted."""
        self.neighbours.pop(peer, None)
        self._early.pop(peer, None)
        for transfer in self.transfers.values():
            transfer.holder_left(peer)

    def have_received(self, peer: PeerId, message: Have) -> None:
        """A neighbour said which chunks it holds.

        Raises:
            RemoteProtocolError: The runs do not fit the blob.
        """
        transfer = self.transfers.get(message.blob)
        if transfer is not None:
            mask = mask_of_runs(message.runs, transfer.have.count)
            transfer.holder_has(peer, mask, is_snapshot=message.is_snapshot)
            return
        mask = mask_of_runs(message.runs, CHUNKS_MAX)
        before, wants = self._early_word(peer, message.blob)
        self._note_early(peer, message.blob, mask if message.is_snapshot else before | mask, wants)

    def want_received(self, peer: PeerId, message: Want, out: Outbox, now_s: float) -> None:
        """A neighbour wants to be told what we hold of a blob, now and from now on.

        The first answer is immediate. A snapshot can be a thousand times longer than its `Want`, so repeated ones wait for the
        next have-update.
        """
        transfer = self.transfers.get(message.blob)
        if transfer is None:
            mask, _ = self._early_word(peer, message.blob)
            self._note_early(peer, message.blob, mask, True)
            return
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
            self._note_early(peer, message.blob, (1 << CHUNKS_MAX) - 1, False)
            return
        transfer.holder_has(peer, transfer.full(), is_snapshot=True)
        transfer.listeners.pop(peer, None)

    def cancel_received(self, peer: PeerId, message: Cancel) -> None:
        """A neighbour no longer wants to hear of a blob."""
        transfer = self.transfers.get(message.blob)
        if transfer is not None:
            transfer.listeners.pop(peer, None)
            transfer.unanswered.pop(peer, None)
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
            if transfer.have.held:
                out.send(peer, Have(blob, (), is_snapshot=True))
        return True

    def tell_soon(self, now_s: float) -> None:
        """Let what is untold wait for company, but not longer than the interval."""
        if self.tell_at_s is None:
            self.tell_at_s = now_s + self._config.have_interval_s

    def tell_haves(self, out: Outbox) -> None:
        """Send the have-updates that have waited for company."""
        self.tell_at_s = None
        for transfer in self.transfers.values():
            late, transfer.unanswered = transfer.unanswered, {}
            for peer in late:
                out.send(peer, _snapshot(transfer))
            if not transfer.untold:
                continue
            message = Have(transfer.blob, tuple(runs_of(transfer.untold)))
            transfer.untold = 0
            if not transfer.is_complete:
                for peer in transfer.listeners:
                    if peer not in late:
                        out.send(peer, message)

    def announce_complete(self, transfer: Transfer, out: Outbox) -> None:
        """Tell all neighbours that nothing is missing here."""
        transfer.untold = 0
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
            out.send(peer, Want(transfer.blob))
        elif not wants:
            out.send(peer, Done(transfer.blob))


def _snapshot(transfer: Transfer) -> Have:
    return Have(transfer.blob, tuple(runs_of(transfer.have.mask)), is_snapshot=True)
