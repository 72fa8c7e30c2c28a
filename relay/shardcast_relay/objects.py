"""The objects (manifests) that are wanted by digest, with whom was asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from shardcast_proto.ids import Digest, PeerId

from .config import RelayConfig


@dataclass
class WantedObject:
    """One object that a head names and this node does not hold yet."""

    digest: Digest
    size_bytes: int
    channel: Digest
    seq: int
    #: Who sent the head: the first to ask.
    source: PeerId | None
    #: Asked in this round, in order.
    asked: dict[PeerId, None] = field(default_factory=dict)
    fetch_id: int | None = None
    #: Rounds in which everybody was asked in vain.
    rounds: int = 0
    #: When the next round begins; None while there is somebody left to ask.
    retry_at_s: float | None = None
    #: A newer head of its channel names another object: once more is not worth it.
    is_superseded: bool = False

    def begin_round(self, now_s: float) -> None:
        """Forget who was asked, when the pause between two rounds is over."""
        if self.retry_at_s is not None and now_s >= self.retry_at_s:
            self.asked.clear()
            self.retry_at_s = None

    def end_round(self, config: RelayConfig, now_s: float) -> float:
        """Everybody was asked: return when to ask them again, later after each round."""
        if self.retry_at_s is None:
            pause_s = min(config.retry_backoff_s * 2 ** min(self.rounds, 16), config.reconcile_interval_s)
            self.rounds += 1
            self.retry_at_s = now_s + pause_s
        return self.retry_at_s


class WantedObjects:
    """All wanted objects; of each channel only the one of the newest head, and older ones that are under way."""

    def __init__(self) -> None:
        self._wanted: dict[Digest, WantedObject] = {}

    def __iter__(self) -> Iterator[WantedObject]:
        return iter(list(self._wanted.values()))

    def __len__(self) -> int:
        return len(self._wanted)

    def want(self, wanted: WantedObject) -> None:
        """Want an object, and no longer those that older heads of its channel name."""
        for other in self:
            if other.channel == wanted.channel and other.seq < wanted.seq and other.digest != wanted.digest:
                other.is_superseded = True
                if other.fetch_id is None:
                    del self._wanted[other.digest]
        known = self._wanted.setdefault(wanted.digest, wanted)
        known.seq, known.is_superseded = max(known.seq, wanted.seq), False

    def obtained(self, digest: Digest) -> None:
        """Want the object no longer."""
        self._wanted.pop(digest, None)

    def fetch_ended(self, fetch_id: int, *, is_final: bool) -> None:
        """The fetch of an object ended; unless that was final or a newer one replaced it, it is asked for elsewhere."""
        wanted = next((wanted for wanted in self._wanted.values() if wanted.fetch_id == fetch_id), None)
        if wanted is None:
            return
        wanted.fetch_id = None
        if is_final or wanted.is_superseded:
            del self._wanted[wanted.digest]
