"""A signed envelope: a payload of a named type, with the signatures over both.

What is signed is the pre-authentication encoding (PAE) of type and payload, so that a statement of one type can never pass for one
of another. What a reader gets is the payload as received: nothing is decoded before its signatures hold, and nothing is re-encoded
to check them. A threshold counts distinct keys by their computed ids, so neither one key signing twice nor one key under two names
counts for two.

A signature by a key that the reader does not list is ignored: during a rotation an envelope carries signatures for readers of the
old root and of the new one. A broken signature in the name of a listed key refuses the whole envelope.

Source: the DSSE specification, version 1.0 (github.com/secure-systems-lab/dsse), whose JSON form is replaced by a msgpack array.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, cast

from ..codec import check_fields, fields, pack, unpack
from ..errors import LocalProtocolError, RemoteProtocolError
from ..ids import Digest, as_digest
from ..limits import SIGNATURE_BYTES, SIGNATURES_MAX
from .keys import SigningKey, VerifyKey
from .refusals import Reason, refusal

TAG: Final = "shardcast/envelope"
VERSION: Final = 1
_TYPE_CHARS_MAX: Final = 64


class Signature(NamedTuple):
    """A signature, with the id of the key that is said to have made it."""

    key_id: Digest
    signature: bytes


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that are signed for a payload of a type."""
    name = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


@dataclass(frozen=True)
class Envelope:
    """A payload, its type, and signatures that have not been checked yet.

    Invariant: 1 to 16 signatures of 64 bytes, ascending by key id, no key id twice.
    """

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    def __post_init__(self) -> None:
        if not self.payload_type.isascii() or not 0 < len(self.payload_type) <= _TYPE_CHARS_MAX:
            raise RemoteProtocolError("the type of an envelope is not a short ASCII name")
        if not 0 < len(self.signatures) <= SIGNATURES_MAX:
            raise RemoteProtocolError(
                f"an envelope has {len(self.signatures)} signatures, allowed are 1 to {SIGNATURES_MAX}"
            )
        before = b""
        for key_id, signature in self.signatures:
            as_digest(key_id, "key id")
            if len(signature) != SIGNATURE_BYTES:
                raise RemoteProtocolError(f"a signature has {len(signature)} bytes, not {SIGNATURE_BYTES}")
            if key_id <= before:
                raise RemoteProtocolError("the signatures of an envelope are out of order, or by one key twice")
            before = key_id

    @classmethod
    def decode(cls, data: bytes, *, size_max: int, what: str) -> Envelope:
        """Read an encoded envelope; no signature is checked.

        Args:
            data: The bytes as received.
            size_max: Cap on their length, checked first.
            what: What the envelope should hold, for the message.

        Raises:
            RemoteProtocolError: The bytes are not the canonical encoding of an envelope within the limits.
        """
        payload_type, payload, rows = cast(
            tuple[str, bytes, list[object]],
            fields(unpack(data, size_max=size_max, what=what), TAG, VERSION, (str, bytes, list)),
        )
        if len(rows) > SIGNATURES_MAX:
            raise RemoteProtocolError(f"{what} has {len(rows)} signatures, the limit is {SIGNATURES_MAX}")
        envelope = cls(payload_type, payload, tuple(_signature(row, what) for row in rows))
        if envelope.encoded != data:
            raise RemoteProtocolError(f"{what} is not in its canonical encoding")
        return envelope

    @property
    def encoded(self) -> bytes:
        """The canonical encoding."""
        rows = [[key_id, signature] for key_id, signature in self.signatures]
        return pack([TAG, VERSION, self.payload_type, self.payload, rows])


def sign(payload_type: str, payload: bytes, keys: Sequence[SigningKey], *, size_max: int) -> bytes:
    """Return the encoded envelope of `payload` signed by each of `keys`.

    Raises:
        LocalProtocolError: There is no key, a key is given twice, or the envelope is longer than `size_max`.
    """
    message = pae(payload_type, payload)
    signatures = sorted(Signature(key.key_id, key.sign(message)) for key in keys)
    if not 0 < len(keys) <= SIGNATURES_MAX or len({key_id for key_id, _ in signatures}) < len(keys):
        raise LocalProtocolError(f"an envelope is signed by 1 to {SIGNATURES_MAX} distinct keys, not by {len(keys)}")
    data = Envelope(payload_type, payload, tuple(signatures)).encoded
    if len(data) > size_max:
        raise LocalProtocolError(f"an envelope of type {payload_type} has {len(data)} bytes, the limit is {size_max}")
    return data


def verify(envelope: Envelope, payload_type: str, keys: Iterable[VerifyKey], threshold: int) -> bytes:
    """Return the payload of `envelope` if enough of `keys` have signed it.

    Args:
        envelope: What was received.
        payload_type: The type that the reader wants.
        keys: The keys that may sign; one given twice counts once.
        threshold: How many distinct ones must have.

    Raises:
        TrustError: Reason `wrong_type`, `unlisted_key`, `bad_signature` or `threshold_not_met`.
        LocalProtocolError: The threshold is below one.

    Cost: 80 µs for each signature by a listed key, so at most 1.3 ms.
    """
    if threshold < 1:
        raise LocalProtocolError(f"a threshold of {threshold} would accept anything")
    if envelope.payload_type != payload_type:
        raise refusal(
            Reason.WRONG_TYPE,
            f"an envelope holds {envelope.payload_type!r}, wanted is {payload_type!r}",
            expected=payload_type,
            actual=envelope.payload_type,
        )
    listed = {key.key_id: key for key in keys}
    message = pae(envelope.payload_type, envelope.payload)
    signers = {key_id for key_id, _ in envelope.signatures if key_id in listed}
    if not signers:
        names = ", ".join(key_id.hex()[:12] for key_id, _ in envelope.signatures)
        raise refusal(Reason.UNLISTED_KEY, f"{payload_type} is signed by no listed key (by {names})", signers=names)
    for key_id, signature in envelope.signatures:
        if key_id in listed and not listed[key_id].verify(message, signature):
            raise refusal(
                Reason.BAD_SIGNATURE,
                f"{payload_type} has a broken signature in the name of key {key_id.hex()[:12]}",
                key_id=key_id.hex(),
            )
    if len(signers) < threshold:
        raise refusal(
            Reason.THRESHOLD_NOT_MET,
            f"{payload_type} is signed by {len(signers)} listed keys, {threshold} are needed",
            expected=threshold,
            actual=len(signers),
        )
    return envelope.payload


def _signature(row: object, what: str) -> Signature:
    if not isinstance(row, list) or len(row) != 2:
        raise RemoteProtocolError(f"a signature of {what} is not [key id, signature]")
    key_id, signature = cast(tuple[bytes, bytes], check_fields(row, (bytes, bytes), "signature"))
    return Signature(as_digest(key_id, "key id"), signature)
