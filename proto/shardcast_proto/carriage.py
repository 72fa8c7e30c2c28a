"""The carriage protocol `/shardcast/chunk/1`: content over a libp2p connection that is there already, for peers that nothing else reaches.

One stream, one request. Who wants something opens the stream, whoever dialled the connection, and sends one frame; the other side
answers with one frame, and when that says OK, with exactly the announced bytes, then closes.

| kind | request | fields |
|---|---|---|
| 1 | ObjectRequest | digest |
| 2 | ChunkRequest | blob, first, count |

The answer is `[status, count, length]`: how many chunks follow (1 for an object) and how many bytes. As with control messages, fields
behind the known ones are ignored. Reading is sans-IO: `AnswerReader` takes bytes as they come and gives out those of the body.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, cast

from .codec import Field, check_fields, pack, unpack
from .errors import RemoteProtocolError
from .framing import NEED_DATA, FrameReader, NeedData, frame
from .ids import Digest, as_digest
from .limits import CARRIED_CHUNKS_MAX, CARRIED_FRAME_BYTES_MAX, CHUNKS_MAX

PROTOCOL_ID: Final = "/shardcast/chunk/1"
_OBJECT: Final = 1
_CHUNKS: Final = 2


@dataclass(frozen=True)
class ObjectRequest:
    """Ask for one content object (a manifest, a patch) whole."""

    digest: Digest


@dataclass(frozen=True)
class ChunkRequest:
    """Ask for the longest prefix of the chunks [first, first + count) that is held verified."""

    blob: Digest
    first: int
    count: int


Request = ObjectRequest | ChunkRequest


class Status(IntEnum):
    """The first field of an answer."""

    OK = 0
    #: The object, or the first chunk, is not held.
    MISSING = 1
    #: The peer carries as much for others as it wants to.
    BUSY = 2


@dataclass(frozen=True)
class Answer:
    """What follows: `count` chunks, or one object, in `length` bytes; nothing unless the status is OK."""

    status: Status
    count: int = 0
    length: int = 0


def encode_request(request: Request) -> bytes:
    """Return the frame of a request."""
    if isinstance(request, ObjectRequest):
        return frame(pack([_OBJECT, request.digest]))
    return frame(pack([_CHUNKS, request.blob, request.first, request.count]))


def decode_request(payload: bytes) -> Request:
    """Read the payload of a request's frame.

    Raises:
        RemoteProtocolError: It is no request, or asks for what cannot be.
    """
    value = unpack(payload, size_max=CARRIED_FRAME_BYTES_MAX, what="carriage request")
    if not isinstance(value, list) or not value or type(value[0]) is not int or value[0] not in (_OBJECT, _CHUNKS):
        raise RemoteProtocolError("a carriage request is neither for an object nor for chunks")
    if value[0] == _OBJECT:
        (digest,) = cast(tuple[bytes], _leading(value[1:], [bytes], "carriage request"))
        return ObjectRequest(as_digest(digest))
    blob, first, count = cast(tuple[bytes, int, int], _leading(value[1:], [bytes, int, int], "carriage request"))
    if first >= CHUNKS_MAX or not 1 <= count <= CARRIED_CHUNKS_MAX:
        raise RemoteProtocolError(f"{count} chunks from {first} on are not a run", first=first, count=count)
    return ChunkRequest(as_digest(blob, "blob id"), first, count)


def encode_answer(answer: Answer) -> bytes:
    """Return the frame of an answer; the body follows it."""
    return frame(pack([int(answer.status), answer.count, answer.length]))


def decode_answer(payload: bytes) -> Answer:
    """Read the payload of an answer's frame.

    Raises:
        RemoteProtocolError: It is no answer.
    """
    value = unpack(payload, size_max=CARRIED_FRAME_BYTES_MAX, what="carriage answer")
    if not isinstance(value, list):
        raise RemoteProtocolError("a carriage answer is no list")
    status, count, length = cast(tuple[int, int, int], _leading(value, [int, int, int], "carriage answer"))
    if status not in tuple(Status):
        raise RemoteProtocolError(f"a carriage answer has the status {status}")
    if status != Status.OK and (count or length):
        raise RemoteProtocolError(f"an answer without content announces {count} chunks of {length} bytes")
    return Answer(Status(status), count, length)


class RequestReader:
    """Bytes in, the one request of a stream out."""

    def __init__(self) -> None:
        self._frames = FrameReader(CARRIED_FRAME_BYTES_MAX)

    def feed(self, data: bytes) -> Request | NeedData:
        """Take what arrived; return the request once it is whole.

        Raises:
            RemoteProtocolError: The bytes are no request.
        """
        self._frames.receive_data(data)
        payload = self._frames.next_frame()
        return NEED_DATA if payload is NEED_DATA else decode_request(payload)


class AnswerReader:
    """Bytes in, the answer and then its body out.

    Invariant: never more than `answer.length` bytes are given out, and before the answer is read not more than one frame is kept.
    """

    def __init__(self) -> None:
        #: None until the answer's frame is whole.
        self.answer: Answer | None = None
        #: Bytes of the body that are still to come.
        self.lacking_bytes = 0
        self._head = b""

    @property
    def is_whole(self) -> bool:
        """Whether the answer and all of its body have come."""
        return self.answer is not None and not self.lacking_bytes

    def feed(self, data: bytes) -> bytes:
        """Take what arrived and return the part of it that is body.

        Raises:
            RemoteProtocolError: The bytes are no answer, or more than it announced.
        """
        if self.answer is None:
            data = self._read_answer(data)
        if len(data) > self.lacking_bytes:
            raise RemoteProtocolError(f"a carried body is {len(data) - self.lacking_bytes} bytes longer than announced")
        self.lacking_bytes -= len(data)
        return data

    def _read_answer(self, data: bytes) -> bytes:
        kept, data = self._head + data[: CARRIED_FRAME_BYTES_MAX + 4], data[CARRIED_FRAME_BYTES_MAX + 4 :]
        reader = FrameReader(CARRIED_FRAME_BYTES_MAX)
        reader.receive_data(kept)
        payload = reader.next_frame()
        if payload is NEED_DATA:
            self._head = kept
            return b""
        self.answer = decode_answer(payload)
        self.lacking_bytes, self._head = self.answer.length, b""
        return kept[4 + len(payload) :] + data


def _leading(values: list[object], kinds: list[type], what: str) -> tuple[Field, ...]:
    """Check the fields that are known, and ignore those behind them."""
    if len(values) < len(kinds):
        raise RemoteProtocolError(f"a {what} has {len(values)} fields, not {len(kinds)}")
    return check_fields(values[: len(kinds)], kinds, what)
