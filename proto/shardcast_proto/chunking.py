"""The rule by which bytes are cut into chunks."""

from __future__ import annotations

from .errors import RemoteProtocolError
from .limits import CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, CHUNKS_AIM


def default_chunk_size(total_bytes: int) -> int:
    """Return the publisher's chunk size in bytes: the next power of two ≥ total/1024, within the allowed range."""
    wanted = -(-total_bytes // CHUNKS_AIM)
    size = 1 << max(wanted - 1, 0).bit_length()
    return min(max(size, CHUNK_BYTES_MIN), CHUNK_BYTES_MAX)


def chunk_count(size_bytes: int, chunk_size: int) -> int:
    """Return how many chunks a file or blob of `size_bytes` is cut into; an empty one has none."""
    return -(-size_bytes // chunk_size)


def check_chunk_size(chunk_size: int) -> int:
    """Return `chunk_size` if a reader may accept it.

    Raises:
        RemoteProtocolError: It is not a power of two in the allowed range.
    """
    if not CHUNK_BYTES_MIN <= chunk_size <= CHUNK_BYTES_MAX or chunk_size & (chunk_size - 1):
        raise RemoteProtocolError(
            f"chunk size {chunk_size} is not a power of two from {CHUNK_BYTES_MIN} to {CHUNK_BYTES_MAX}",
            chunk_size=chunk_size,
        )
    return chunk_size
