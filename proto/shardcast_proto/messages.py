"""The messages of the control protocol `/shardcast/swarm/1`.

Each message is one frame: a msgpack array [kind, *fields]. Kinds are numbers that are never reused. A receiver counts and ignores kinds
it does not know and ignores fields behind those it knows, so a later version can add both.

| kind | message | says |
|---|---|---|
| 1 | Hello | who I am, which channels I want, whether I need a place in your view; each side sends it first |
| 2 | Peers | signed records of other peers: a shuffle, or the walk of one newcomer (`walk` hops left) |
| 3 | GetHead | tell me the newest head of a channel |
| 4 | HeadIs | the newest announce that I accepted (also the answer to GetHead; empty: none) |
| 5 | GetRoot | tell me one root of a channel |
| 6 | RootIs | one root |
| 7 | Offer | a signed patch offer |
| 8 | Have | these chunks of a blob are verified here; a snapshot replaces what was said before |
| 9 | Want | I am fetching this blob: keep me told what you have (`runs` empty: all of it) |
| 10 | Skip | do not push these chunks to me: they come another way |
| 11 | Attach | tree: make me your child in these stripes (none named: in one that still needs a root) |
| 12 | Redirect | tree: not to me in this stripe; these are children of mine |
| 13 | Detach | tree: you are neither my parent nor my child in this stripe any more |
| 14 | Adopt | tree: you are my child in this stripe, so deep below its source |
| 15 | Cancel | I no longer want this blob |
| 16 | Rate | my uplink in bytes per second |
| 17 | Done | I hold all of this blob |
| 18 | Goodbye | I close this neighbourship, with the reason and other peers to try |
| 19 | Trees | tree: how deep I am in each stripe, and how many more children I can feed |
| 20 | Omit | tree: I hold these chunks and shall not push them to you: they did not fit |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from .bitmap import Run, flatten, unflatten
from .codec import INT_MAX, Field, check_fields, pack, unpack
from .errors import LocalProtocolError, RemoteProtocolError
from .ids import Digest, PeerId, as_digest, key_of_peer_id
from .limits import (
    BINDING_BYTES_MAX,
    BINDINGS_PER_HELLO_MAX,
    CHANNELS_PER_HELLO_MAX,
    CHUNKS_MAX,
    CONTROL_FRAME_BYTES_MAX,
    GOSSIP_BYTES_MAX,
    OFFER_BYTES_MAX,
    PEERS_PER_MESSAGE_MAX,
    REASON_BYTES_MAX,
    RECORD_BYTES_MAX,
    ROOT_BYTES_MAX,
)

PROTOCOL_ID: Final = "/shardcast/swarm/1"
#: Stripes are numbered from 0; eight trees, room for more.
STRIPES_MAX: Final = 64
#: Edges between a node and the source: with two children each, a thousand nodes are ten deep.
DEPTH_MAX: Final = 64
#: Hops of a newcomer's walk: enough to leave the neighbourhood of any node with eight neighbours.
WALK_MAX: Final = 6


@dataclass(frozen=True)
class Hello:
    """The first message of each side.

    `record` is the sender's signed peer record. An origin's node shows by `bindings` that it is one.
    """

    record: bytes
    channels: tuple[Digest, ...]
    is_urgent: bool = False
    bindings: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Peers:
    """Signed peer records. `walk` > 0: pass them on so many times more."""

    records: tuple[bytes, ...]
    walk: int = 0


@dataclass(frozen=True)
class GetHead:
    """Ask for the newest accepted head of a channel."""

    channel: Digest


@dataclass(frozen=True)
class HeadIs:
    """The newest accepted announce of a channel, as received; empty when there is none."""

    channel: Digest
    announce: bytes


@dataclass(frozen=True)
class GetRoot:
    """Ask for the root of a channel with this version."""

    channel: Digest
    version: int


@dataclass(frozen=True)
class RootIs:
    """One root of a channel; empty when the sender does not have it."""

    channel: Digest
    root: bytes


@dataclass(frozen=True)
class Offer:
    """A signed patch offer."""

    offer: bytes


@dataclass(frozen=True)
class Have:
    """Chunks verified at the sender. A snapshot replaces all that was said before; else the runs are new ones."""

    blob: Digest
    runs: tuple[Run, ...]
    is_snapshot: bool = False


@dataclass(frozen=True)
class Want:
    """The sender fetches these chunks of a blob and asks to be told what the receiver has, now and from now on.

    What is not named in `runs` is here already; `runs` empty: nothing is.
    """

    blob: Digest
    runs: tuple[Run, ...] = ()


@dataclass(frozen=True)
class Skip:
    """The receiver need not push these chunks to the sender."""

    blob: Digest
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Omit:
    """The sender, a parent of the receiver, holds these chunks and does not push them: too much waits for the receiver already."""

    blob: Digest
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Attach:
    """Make the sender a child in these stripes. `stripes` empty, to a source: in one that still needs a root."""

    blob: Digest
    stripes: tuple[int, ...]


@dataclass(frozen=True)
class Redirect:
    """The sender takes no more children in this stripe; `peers` are children of it that might."""

    blob: Digest
    stripe: int
    peers: tuple[PeerId, ...] = ()


@dataclass(frozen=True)
class Detach:
    """The edge between the two in this stripe is ended, whichever of them was the parent."""

    blob: Digest
    stripe: int


@dataclass(frozen=True)
class Adopt:
    """The receiver is a child of the sender in this stripe, `depth` edges below the source."""

    blob: Digest
    stripe: int
    depth: int


@dataclass(frozen=True)
class Cancel:
    """The sender no longer wants this blob."""

    blob: Digest


@dataclass(frozen=True)
class Rate:
    """The sender's uplink, bytes per second; 0 when it does not know."""

    up_bytes_per_s: int


@dataclass(frozen=True)
class Done:
    """The sender holds all of this blob."""

    blob: Digest


@dataclass(frozen=True)
class Goodbye:
    """The sender closes this neighbourship."""

    reason: str
    records: tuple[bytes, ...] = field(default=())


@dataclass(frozen=True)
class Trees:
    """Where the sender is in the trees of a blob.

    `depths[s]` is the number of edges between it and the source in stripe s, 0 when it is in no position to feed others
    there. `free` is how many more children it can feed, over all stripes. A source has one depth, 0.
    """

    blob: Digest
    depths: tuple[int, ...]
    free: int


@dataclass(frozen=True)
class Unknown:
    """A message of a kind that this program does not know."""

    kind: int


Message = (
    Hello
    | Peers
    | GetHead
    | HeadIs
    | GetRoot
    | RootIs
    | Offer
    | Have
    | Want
    | Skip
    | Attach
    | Redirect
    | Detach
    | Adopt
    | Cancel
    | Rate
    | Done
    | Goodbye
    | Trees
    | Omit
)

#: Field kinds by message. In this table `bytes` named in `_BYTES_MAX` are capped, digests are checked to be 32 bytes long.
_D, _R = "digest", "runs"
_LAYOUT: Final[dict[int, tuple[type[Message], tuple[str, ...]]]] = {
    1: (Hello, ("record", "channels", "flag", "bindings")),
    2: (Peers, ("records", "walk")),
    3: (GetHead, (_D,)),
    4: (HeadIs, (_D, "announce")),
    5: (GetRoot, (_D, "int")),
    6: (RootIs, (_D, "root")),
    7: (Offer, ("offer",)),
    8: (Have, (_D, _R, "flag")),
    9: (Want, (_D, _R)),
    10: (Skip, (_D, _R)),
    11: (Attach, (_D, "stripes")),
    12: (Redirect, (_D, "stripe", "peers")),
    13: (Detach, (_D, "stripe")),
    14: (Adopt, (_D, "stripe", "depth")),
    15: (Cancel, (_D,)),
    16: (Rate, ("int",)),
    17: (Done, (_D,)),
    18: (Goodbye, ("reason", "records")),
    19: (Trees, (_D, "depths", "int")),
    20: (Omit, (_D, _R)),
}
_KIND_OF: Final = {message: kind for kind, (message, _) in _LAYOUT.items()}
_MSGPACK_KIND: Final[dict[str, type]] = {
    _D: bytes,
    _R: list,
    "record": bytes,
    "records": list,
    "channels": list,
    "bindings": list,
    "stripes": list,
    "flag": int,
    "walk": int,
    "int": int,
    "stripe": int,
    "depth": int,
    "depths": list,
    "peers": list,
    "announce": bytes,
    "root": bytes,
    "offer": bytes,
    "reason": str,
}
_BYTES_MAX: Final = {
    "record": RECORD_BYTES_MAX,
    "binding": BINDING_BYTES_MAX,
    "announce": GOSSIP_BYTES_MAX,
    "root": ROOT_BYTES_MAX,
    "offer": OFFER_BYTES_MAX,
}
_INT_MAX: Final = {"flag": 1, "walk": WALK_MAX, "stripe": STRIPES_MAX - 1, "depth": DEPTH_MAX, "int": INT_MAX}
_LIST_MAX: Final = {
    "records": PEERS_PER_MESSAGE_MAX,
    "channels": CHANNELS_PER_HELLO_MAX,
    "bindings": BINDINGS_PER_HELLO_MAX,
    "stripes": STRIPES_MAX,
    "depths": STRIPES_MAX,
    "peers": PEERS_PER_MESSAGE_MAX,
    _R: CHUNKS_MAX,
}


def encode(message: Message) -> bytes:
    """Return the payload of the frame that carries `message`.

    Raises:
        LocalProtocolError: A field is beyond its limit, so no peer would accept it.
    """
    kind = _KIND_OF[type(message)]
    names = _LAYOUT[kind][1]
    values = list(vars(message).values())
    try:
        for name, value in zip(names, values, strict=True):
            _check_limit(name, list(value) if isinstance(value, tuple) and name != _R else value)
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"{type(message).__name__}: {error.message}") from error
    return pack([kind, *(_to_wire(name, value) for name, value in zip(names, values, strict=True))])


def decode(payload: bytes) -> Message | Unknown:
    """Read one frame's payload.

    Raises:
        RemoteProtocolError: The payload is no message, or a field is of another kind or beyond its limit.
    """
    value = unpack(payload, size_max=CONTROL_FRAME_BYTES_MAX, what="control message")
    if not isinstance(value, list) or not value or type(value[0]) is not int:
        raise RemoteProtocolError("a control message is not [kind, …]")
    layout = _LAYOUT.get(value[0])
    if layout is None:
        return Unknown(value[0])
    message, names = layout
    if len(value) - 1 < len(names):
        raise RemoteProtocolError(f"{message.__name__} has {len(value) - 1} fields, not {len(names)}")
    raw = check_fields(value[1 : 1 + len(names)], [_MSGPACK_KIND[name] for name in names], message.__name__)
    return message(*(_from_wire(name, item) for name, item in zip(names, raw, strict=True)))


def _check_limit(name: str, value: Field) -> None:
    if name in _BYTES_MAX and len(value) > _BYTES_MAX[name]:
        raise RemoteProtocolError(f"{name} of {len(value)} bytes, the limit is {_BYTES_MAX[name]}")
    if name in _INT_MAX and not 0 <= value <= _INT_MAX[name]:
        raise RemoteProtocolError(f"{name} is {value}, allowed are 0 to {_INT_MAX[name]}")
    if name in _LIST_MAX and len(value) > _LIST_MAX[name]:
        raise RemoteProtocolError(f"{len(value)} {name}, the limit is {_LIST_MAX[name]}")
    if name == "reason" and len(value.encode("utf-8", "replace")) > REASON_BYTES_MAX:
        raise RemoteProtocolError(f"a reason longer than {REASON_BYTES_MAX} bytes")


def _to_wire(name: str, value: Field) -> Field:
    if name == "flag":
        return int(value)
    if name == _R:
        return flatten(value)
    return list(value) if isinstance(value, tuple) else value


def _from_wire(name: str, value: Field) -> Field:
    if name == _R:
        value = unflatten(value)
    _check_limit(name, value)
    if name == _D:
        return as_digest(value)
    if name == "flag":
        return bool(value)
    if name == "channels":
        return tuple(as_digest(_bytes(item), "channel") for item in value)
    if name == "stripes":
        return tuple(_from_wire("stripe", item) for item in check_fields(value, [int] * len(value), "stripes"))
    if name == "depths":
        return tuple(_from_wire("depth", item) for item in check_fields(value, [int] * len(value), "depths"))
    if name == "peers":
        return tuple(_peer(item) for item in check_fields(value, [str] * len(value), "peers"))
    if name == "records":
        return tuple(_from_wire("record", _bytes(item)) for item in value)
    if name == "bindings":
        return tuple(_from_wire("binding", _bytes(item)) for item in value)
    return value


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise RemoteProtocolError("a list holds something that is not bytes")
    return value


def _peer(text: str) -> PeerId:
    key_of_peer_id(text)
    return PeerId(text)
