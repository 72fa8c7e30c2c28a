"""The chain of a channel's roots, in which each root appoints the next.

Every node is given one root by its operator and follows only successors of it. Root N+1 replaces root N if it is signed by the
root thresholds of both, is for the same channel, is exactly one version on and of no lower epoch; so neither the old keys alone
nor the new keys alone can move a channel. A higher epoch revokes: heads of lower epochs count no more.

Source: The Update Framework specification, section 5.3 (root rotation), cut down to the roles that a channel has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..hashing import digest_of
from ..ids import Digest, as_digest, format_digest
from ..limits import ROOT_BYTES_MAX
from .dsse import Envelope, sign, verify
from .keys import SigningKey
from .refusals import Reason, refusal
from .root import Root

PAYLOAD_TYPE: Final = "application/vnd.shardcast.root.v1+msgpack"


@dataclass(frozen=True)
class SignedRoot:
    """A root whose signatures have been checked.

    Attributes:
        root: What it says.
        channel: The channel id.
        payload: The signed bytes.
        envelope: The bytes to store and to pass on.
    """

    root: Root
    channel: Digest
    payload: bytes
    envelope: bytes


def sign_root(root: Root, keys: Sequence[SigningKey]) -> bytes:
    """Return the encoded envelope of `root`. A successor needs the keys of both roots' thresholds."""
    return sign(PAYLOAD_TYPE, root.encoded, keys, size_max=ROOT_BYTES_MAX)


def open_root(data: bytes) -> SignedRoot:
    """Read a root that the operator vouches for, which may be of any version.

    Raises:
        RemoteProtocolError: The bytes are not a root.
        TrustError: They are not signed by the root's own threshold.
    """
    opened, envelope = _read(data)
    _verify(envelope, opened.root)
    return opened


def open_next_root(data: bytes, held: SignedRoot) -> SignedRoot:
    """Read the root that follows `held`, or return `held` when the bytes say the same, whoever has signed them.

    The order is checked first: a root further on, or further back, is signed by keys that `held` need not know.

    Raises:
        RemoteProtocolError: The bytes are not a root.
        TrustError: Reason `wrong_channel`, `rollback` (an older version, or a lower epoch), `root_gap` (versions between are
            missing), `equivocation` (another root of the held version, properly signed), or one of `dsse.verify` against
            either root.
    """
    opened, envelope = _read(data)
    if opened.payload == held.payload:
        return held
    root, wanted = opened.root, held.root.version + 1
    if opened.channel != held.channel:
        raise refusal(
            Reason.WRONG_CHANNEL,
            f"root {root.version} is for channel {format_digest(opened.channel)}, not {format_digest(held.channel)}",
            expected=format_digest(held.channel),
            actual=format_digest(opened.channel),
        )
    if root.version < held.root.version:
        raise refusal(
            Reason.ROLLBACK,
            f"root {root.version} is older than the held root {held.root.version}",
            expected=wanted,
            actual=root.version,
        )
    if root.version > wanted:
        raise refusal(
            Reason.ROOT_GAP,
            f"root {root.version} does not follow the held root {held.root.version}",
            hint=f"root {wanted} comes first",
            expected=wanted,
            actual=root.version,
        )
    _verify(envelope, held.root)
    if root.version == held.root.version:
        raise refusal(Reason.EQUIVOCATION, f"there are two roots of version {root.version}", actual=root.version)
    if root.epoch < held.root.epoch:
        raise refusal(
            Reason.ROLLBACK,
            f"root {root.version} has epoch {root.epoch}, the root before it has {held.root.epoch}",
            expected=held.root.epoch,
            actual=root.epoch,
        )
    _verify(envelope, root)
    return opened


def _read(data: bytes) -> tuple[SignedRoot, Envelope]:
    # A root brings along the keys that sign it, so its payload is read before its signatures are checked.
    envelope = Envelope.decode(data, size_max=ROOT_BYTES_MAX, what="root")
    if envelope.payload_type != PAYLOAD_TYPE:
        raise refusal(Reason.WRONG_TYPE, f"an envelope holds {envelope.payload_type!r}, wanted is a root")
    root = Root.decode(envelope.payload)
    channel = as_digest(root.channel) if root.channel else digest_of(envelope.payload)
    return SignedRoot(root, channel, envelope.payload, data), envelope


def _verify(envelope: Envelope, by: Root) -> None:
    verify(envelope, PAYLOAD_TYPE, by.root_role.keys, by.root_role.threshold)
