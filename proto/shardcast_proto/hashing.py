"""BLAKE3-256, the one hash of the protocol.

The binding releases the GIL while it hashes, so callers hash whole chunks, one per worker thread; its own threading is slower for
chunks of this size.
"""

from __future__ import annotations

from blake3 import blake3

from .ids import Digest


def digest_of(data: bytes | bytearray | memoryview) -> Digest:
    """Return the digest of `data`."""
    return Digest(blake3(data).digest())


class ChunkHasher:
    """The digest of bytes that arrive in pieces."""

    def __init__(self) -> None:
        self._state = blake3()

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Hash the next piece."""
        self._state.update(data)

    def digest(self) -> Digest:
        """Return the digest of all pieces so far."""
        return Digest(self._state.digest())
