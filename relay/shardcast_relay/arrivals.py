"""The pushed chunks that are coming in: header seen, bytes on the way."""

from __future__ import annotations

from shardcast_proto.errors import InvariantViolated
from shardcast_proto.ids import Digest, PeerId


class Arrivals:
    """What arrives unasked, until it is here or broken off.

    Invariant: `_masks[blob]` has bit i set exactly when some entry is for chunk i of the blob.
    """

    def __init__(self) -> None:
        #: How many times a chunk of a blob is coming from a peer.
        self._entries: dict[tuple[PeerId, Digest, int], int] = {}
        #: The same by blob and chunk, from anybody.
        self._counts: dict[tuple[Digest, int], int] = {}
        self._masks: dict[Digest, int] = {}

    def __len__(self) -> int:
        return sum(self._entries.values())

    def began(self, peer: PeerId, blob: Digest, index: int) -> None:
        """A push began to arrive."""
        key = (peer, blob, index)
        self._entries[key] = self._entries.get(key, 0) + 1
        self._counts[blob, index] = self._counts.get((blob, index), 0) + 1
        self._masks[blob] = self._masks.get(blob, 0) | 1 << index

    def ended(self, peer: PeerId, blob: Digest, index: int) -> bool:
        """A push is over; return whether it had begun."""
        key = (peer, blob, index)
        count = self._entries.get(key, 0)
        if not count:
            return False
        if count > 1:
            self._entries[key] = count - 1
        else:
            del self._entries[key]
        left = self._counts[blob, index] - 1
        if left:
            self._counts[blob, index] = left
        else:
            del self._counts[blob, index]
            self._masks[blob] ^= 1 << index
            if not self._masks[blob]:
                del self._masks[blob]
        return True

    def covering(self, blob: Digest) -> int:
        """Return the mask of the chunks of `blob` that are coming in."""
        return self._masks.get(blob, 0)

    def check(self) -> None:
        """Compare with a recount.

        Raises:
            InvariantViolated: They differ.
        """
        masks: dict[Digest, int] = {}
        for _, blob, index in self._entries:
            masks[blob] = masks.get(blob, 0) | 1 << index
        if masks != self._masks:
            raise InvariantViolated("the chunks that are coming in differ from their recount")
