"""The bulk link: one TCP connection between two neighbours that carries chunks one way, and control messages both ways.

Either end opens it, at the `serve` address of the other, where its first byte, that of no HTTP method, tells it apart. Which way the chunks
go is part of the preamble, so that a node that nobody can dial gives as well as takes.

*Preamble.* Three parts of fixed length, each sent when the one before has come:

    opener   -> acceptor   HELLO   magic, version, direction, both public keys, a nonce
    acceptor -> opener     ANSWER  a nonce, a signature
    opener   -> acceptor   PROOF   a signature

Both sign the whole HELLO and the acceptor's nonce, behind a context and their own role. Each nonce is fresh, so nothing recorded serves
again; keys and direction are inside, so nothing serves for another peer or the other way round. It proves who opened the connection, not
who sends its bytes later: chunks are verified by their digests, whoever is on the path.

*Frames.* A head of fixed length, big-endian, and for two kinds a body of the length that the head says:

| kind | name | direction | head | body |
|---|---|---|---|---|
| 1 | Chunk | with the chunks | stripe u8, request u32, blob 32, index u32, length u32 | the chunk |
| 2 | End | with the chunks | outcome u8, request u32 | |
| 3 | Message | both | length u32 | the payload of a control message |
| 4 | Get | against | request u32, blob 32, first u32, count u16 | |
| 5 | Cancel | against | request u32 | |

A chunk that nobody asked for (a push) has request 0 and a stripe; one of an answer has the stripe 255. An answer is chunks in a row from
`first` on, then its End. Reading is sans-IO: `read_head` looks at what has come and never asks for more than one head.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from .errors import LocalProtocolError, RemoteProtocolError
from .framing import NEED_DATA, NeedData
from .ids import Digest, PeerId
from .limits import (
    CHUNK_BYTES_MAX,
    CHUNKS_MAX,
    KEY_BYTES,
    LINK_MESSAGE_BYTES_MAX,
    LINK_NONCE_BYTES,
    LINK_RUN_CHUNKS_MAX,
    SIGNATURE_BYTES,
)
from .messages import STRIPES_MAX
from .trust import SigningKey, VerifyKey

#: No HTTP method begins with a zero byte.
MAGIC: Final = b"\x00SC1"
VERSION: Final = 1
#: The stripe of a chunk that was asked for.
ASKED: Final = 255

_CONTEXT: Final = b"shardcast bulk link 1\x00"
_OPENER: Final = b"\x00"
_ACCEPTOR: Final = b"\x01"

_HELLO: Final = struct.Struct(f"!4sBB{KEY_BYTES}s{KEY_BYTES}s{LINK_NONCE_BYTES}s")
HELLO_BYTES: Final = _HELLO.size
ANSWER_BYTES: Final = LINK_NONCE_BYTES + SIGNATURE_BYTES
PROOF_BYTES: Final = SIGNATURE_BYTES

_CHUNK: Final = struct.Struct("!BBI32sII")
_END: Final = struct.Struct("!BBI")
_MESSAGE: Final = struct.Struct("!BI")
_GET: Final = struct.Struct("!BI32sIH")
_CANCEL: Final = struct.Struct("!BI")
_CHUNK_KIND, _END_KIND, _MESSAGE_KIND, _GET_KIND, _CANCEL_KIND = range(1, 6)
#: The longest head.
HEAD_BYTES_MAX: Final = _CHUNK.size
_REQUEST_MAX: Final = 2**32 - 1


class EndOutcome(IntEnum):
    """How an answer ended."""

    #: The chunks that came are all of the run that is held.
    DONE = 0
    #: The first chunk is not held.
    MISSING = 1
    #: Too many answers are under way on this link.
    BUSY = 2
    #: It was cancelled.
    CANCELLED = 3


@dataclass(frozen=True, slots=True)
class ChunkHead:
    """What precedes the bytes of a chunk."""

    blob: Digest
    index: int
    length: int
    #: Its share of the chunks, for a push.
    stripe: int = ASKED
    #: Whose answer it belongs to; 0 for a push.
    request: int = 0

    @property
    def is_push(self) -> bool:
        """Whether nobody asked for it."""
        return self.request == 0


@dataclass(frozen=True, slots=True)
class End:
    """The end of an answer."""

    request: int
    outcome: EndOutcome


@dataclass(frozen=True, slots=True)
class MessageHead:
    """What precedes the payload of a control message."""

    length: int


@dataclass(frozen=True, slots=True)
class Get:
    """Ask for the longest prefix of the chunks [first, first + count) that is held verified."""

    request: int
    blob: Digest
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class CancelGet:
    """Ask for nothing more of an answer. Its End comes all the same."""

    request: int


Head = ChunkHead | End | MessageHead | Get | CancelGet


def encode_head(head: Head) -> bytes:
    """Return the bytes of a head.

    Raises:
        LocalProtocolError: A field is beyond its limit, so no peer would accept it.
    """
    if isinstance(head, ChunkHead):
        data = _CHUNK.pack(_CHUNK_KIND, head.stripe, head.request, head.blob, head.index, head.length)
    elif isinstance(head, End):
        data = _END.pack(_END_KIND, head.outcome, head.request)
    elif isinstance(head, MessageHead):
        data = _MESSAGE.pack(_MESSAGE_KIND, head.length)
    elif isinstance(head, Get):
        data = _GET.pack(_GET_KIND, head.request, head.blob, head.first, head.count)
    else:
        data = _CANCEL.pack(_CANCEL_KIND, head.request)
    fault = _fault(head)
    if fault is not None:
        raise LocalProtocolError(f"a link frame {fault}")
    return data


def message_frame(payload: bytes) -> bytes:
    """Return the frame of a control message.

    Raises:
        LocalProtocolError: The payload is empty or too long for a link.
    """
    return encode_head(MessageHead(len(payload))) + payload


def read_head(data: bytes | bytearray | memoryview, *, has_chunks: bool) -> tuple[Head, int] | NeedData:
    """Read the head of the frame that `data` begins with.

    Args:
        has_chunks: Whether these are the bytes that go with the chunks; else those that go against them.

    Returns:
        The head and how many bytes it takes, or `NEED_DATA` when it is not all there.

    Raises:
        RemoteProtocolError: The bytes are no head that may come this way; the link is of no use any more.
    """
    if not len(data):
        return NEED_DATA
    layout = (_WITH if has_chunks else _AGAINST).get(data[0])
    if layout is None:
        raise RemoteProtocolError(f"a link frame of kind {data[0]} does not come this way", kind=data[0])
    if len(data) < layout.size:
        return NEED_DATA
    head = _head_of(data[0], layout.unpack_from(data))
    fault = _fault(head)
    if fault is not None:
        raise RemoteProtocolError(f"a link frame {fault}")
    return head, layout.size


_WITH: Final = {_CHUNK_KIND: _CHUNK, _END_KIND: _END, _MESSAGE_KIND: _MESSAGE}
_AGAINST: Final = {_MESSAGE_KIND: _MESSAGE, _GET_KIND: _GET, _CANCEL_KIND: _CANCEL}


def _head_of(kind: int, values: tuple[int | bytes, ...]) -> Head:
    _, *fields = values
    if kind == _CHUNK_KIND:
        stripe, request, blob, index, length = fields
        return ChunkHead(Digest(_bytes(blob)), int(index), int(length), int(stripe), int(request))
    if kind == _END_KIND:
        outcome, request = map(int, fields)
        if outcome not in tuple(EndOutcome):
            raise RemoteProtocolError(f"an answer ends with the outcome {outcome}")
        return End(request, EndOutcome(outcome))
    if kind == _MESSAGE_KIND:
        return MessageHead(int(fields[0]))
    if kind == _GET_KIND:
        request, blob, first, count = fields
        return Get(int(request), Digest(_bytes(blob)), int(first), int(count))
    return CancelGet(int(fields[0]))


def _bytes(value: int | bytes) -> bytes:
    return value if isinstance(value, bytes) else b""


def _fault(head: Head) -> str | None:
    """Say what is wrong with a head, if anything is."""
    if isinstance(head, ChunkHead):
        if head.index >= CHUNKS_MAX or not 0 < head.length <= CHUNK_BYTES_MAX:
            return f"announces chunk {head.index} of {head.length} bytes"
        is_stripe = head.stripe < STRIPES_MAX if head.is_push else head.stripe == ASKED
        return None if is_stripe else f"of request {head.request} names stripe {head.stripe}"
    if isinstance(head, MessageHead):
        fits = 0 < head.length <= LINK_MESSAGE_BYTES_MAX
        return None if fits else f"announces a message of {head.length} bytes"
    if not 0 < head.request <= _REQUEST_MAX:
        return f"names request {head.request}"
    if isinstance(head, Get) and (head.first >= CHUNKS_MAX or not 1 <= head.count <= LINK_RUN_CHUNKS_MAX):
        return f"asks for {head.count} chunks from {head.first} on"
    return None


class Opening:
    """The opener's side of a preamble: `hello`, then `prove` the answer.

    Args:
        nonce: Fresh random bytes.
        is_sending: Whether the opener is to send the chunks.
    """

    def __init__(self, key: SigningKey, peer: PeerId, nonce: bytes, *, is_sending: bool) -> None:
        self._key = key
        self._other = VerifyKey.of_peer(peer)
        self.hello: Final = _HELLO.pack(
            MAGIC, VERSION, int(not is_sending), key.public_key, self._other.public_key, nonce
        )

    def prove(self, answer: bytes) -> bytes:
        """Check the acceptor's answer and return the proof to send, after which the frames begin.

        Raises:
            RemoteProtocolError: It is not the answer of the peer that was meant.
        """
        nonce, signature = answer[:LINK_NONCE_BYTES], answer[LINK_NONCE_BYTES:]
        if not self._other.verify(_statement(_ACCEPTOR, self.hello, nonce), signature):
            raise RemoteProtocolError(f"{self._other.peer} did not sign this answer", peer=self._other.peer)
        return self._key.sign(_statement(_OPENER, self.hello, nonce))


class Accepting:
    """The acceptor's side of a preamble: it is made of a hello, gives out `answer`, then checks the proof.

    Attributes:
        peer: Who claims to open; proved only after `check`.
        is_sending: Whether the acceptor is to send the chunks.
    """

    def __init__(self, key: SigningKey, hello: bytes, nonce: bytes) -> None:
        """Read a hello.

        Args:
            nonce: Fresh random bytes.

        Raises:
            RemoteProtocolError: It is none, or is for somebody else.
        """
        if len(hello) != HELLO_BYTES:
            raise RemoteProtocolError(f"the hello of a link has {len(hello)} bytes, not {HELLO_BYTES}")
        magic, version, direction, opener, acceptor, _ = _HELLO.unpack(hello)
        if magic != MAGIC or version != VERSION or direction > 1:
            raise RemoteProtocolError(f"no hello of a link: {magic.hex()}, version {version}, direction {direction}")
        if acceptor != key.public_key or opener == key.public_key:
            raise RemoteProtocolError("the hello of a link is not for us")
        self._other = VerifyKey(opener)
        self._key = key
        self._hello, self._nonce = hello, nonce
        self.peer: Final = self._other.peer
        self.is_sending: Final = direction == 1

    @property
    def answer(self) -> bytes:
        """What to send back."""
        return self._nonce + self._key.sign(_statement(_ACCEPTOR, self._hello, self._nonce))

    def check(self, proof: bytes) -> None:
        """Check the opener's proof; the frames begin behind it.

        Raises:
            RemoteProtocolError: The opener is not who it says.
        """
        if not self._other.verify(_statement(_OPENER, self._hello, self._nonce), proof):
            raise RemoteProtocolError(f"{self.peer} did not sign this proof", peer=self.peer)


def _statement(role: bytes, hello: bytes, nonce: bytes) -> bytes:
    return _CONTEXT + role + hello + nonce
