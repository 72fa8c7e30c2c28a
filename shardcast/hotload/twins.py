"""Tensors that were published apart and are one memory here: their bytes must be the same.

A trainer that clones a tied weight publishes it twice. That is no fault as long as both copies agree; where they do not, no choice between
them would be right.
"""

from __future__ import annotations

from typing import Any

from shardcast_proto.hashing import ChunkHasher

from .errors import DoesNotFit
from .plan import Piece, Plan


class Twins:
    """The digests of such tensors, while their pieces pass by in the order of their bytes."""

    def __init__(self, plan: Plan) -> None:
        """Find which tensors they are."""
        self._pairs = [(t.span.name, t.twin_of) for t in plan.transfers if t.twin_of is not None]
        self._hashers = {name: ChunkHasher() for pair in self._pairs for name in pair}

    def see(self, piece: Piece, source: Any) -> None:
        """Hash a piece, if it is of such a tensor."""
        hasher = self._hashers.get(piece.transfer.span.name)
        if hasher is not None:
            hasher.update(source.numpy().data)

    def check(self) -> None:
        """Compare them, after the last piece.

        Raises:
            DoesNotFit: Two of them differ.
        """
        for name, other in self._pairs:
            if self._hashers[name].digest() != self._hashers[other].digest():
                raise DoesNotFit(
                    f"{name!r} and {other!r} are one tensor here and have different bytes in the version, nothing was written",
                    hint="publish them tied, or give them memories of their own here",
                    twins=[name, other],
                )
