"""The framing of control streams: a four-byte big-endian length, then that many bytes.

`FrameReader` does no I/O: feed it what arrived and take what is whole. It never holds more than one frame of the largest allowed
size and what arrived behind it in the same read.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import Final

from .errors import LocalProtocolError, RemoteProtocolError
from .limits import CONTROL_FRAME_BYTES_MAX

_LENGTH: Final = struct.Struct("!I")


class NeedData(Enum):
    """The answer of a reader that holds no whole frame."""

    NEED_DATA = "NEED_DATA"


NEED_DATA: Final = NeedData.NEED_DATA


def frame(payload: bytes) -> bytes:
    """Return `payload` with its length in front.

    Raises:
        LocalProtocolError: The payload is empty or too long.
    """
    if not 0 < len(payload) <= CONTROL_FRAME_BYTES_MAX:
        raise LocalProtocolError(f"a control frame of {len(payload)} bytes, allowed are 1 to {CONTROL_FRAME_BYTES_MAX}")
    return _LENGTH.pack(len(payload)) + payload


class FrameReader:
    """Bytes in, frames out."""

    def __init__(self, size_max: int = CONTROL_FRAME_BYTES_MAX) -> None:
        self._size_max = size_max
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> None:
        """Append what arrived."""
        self._buffer += data

    def next_frame(self) -> bytes | NeedData:
        """Return the next whole frame, or `NEED_DATA`.

        Raises:
            RemoteProtocolError: The next length is zero or over the limit; the stream is of no use any more.
        """
        if len(self._buffer) < _LENGTH.size:
            return NEED_DATA
        (length,) = _LENGTH.unpack_from(self._buffer)
        if not 0 < length <= self._size_max:
            raise RemoteProtocolError(f"a frame announces {length} bytes, allowed are 1 to {self._size_max}")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return NEED_DATA
        payload = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return payload
