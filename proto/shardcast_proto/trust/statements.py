"""A statement under a root: what can be checked of it without memory.

Signatures by the keys that the root lists, the shape of the payload, the channel, the epoch and the limits. These functions change
nothing and may be called from any thread. What also needs memory, the order of heads and which beacon is the latest, is the matter
of `channel`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import IntegrityError, RemoteProtocolError
from ..hashing import digest_of
from ..ids import Digest, format_digest
from ..limits import BEACON_BYTES_MAX, BINDING_BYTES_MAX, HEAD_BYTES_MAX, OFFER_BYTES_MAX
from ..manifest import Manifest
from . import beacon as beacons
from . import binding as bindings
from . import head as heads
from . import offer as offers
from .beacon import Beacon
from .binding import Binding
from .dsse import Envelope, verify
from .head import KIND_WEIGHTS, Head
from .head_order import SignedHead
from .offer import PatchOffer
from .refusals import Reason, refusal
from .root import Root
from .root_chain import SignedRoot


def read_head(data: bytes, under: SignedRoot) -> SignedHead:
    """Check everything about a head but its place in the order.

    Raises:
        TrustError: Reason `malformed`, one of `dsse.verify`, `wrong_channel`, `unsupported_kind`, `over_limit`, `rollback` (the
            epoch is revoked) or `epoch_ahead`.

    Cost: 80 µs for each signature by an origin key.
    """
    role = under.root.origin_role
    with malformed_is_refused():
        envelope = Envelope.decode(data, size_max=HEAD_BYTES_MAX, what="head")
        head = Head.decode(verify(envelope, heads.PAYLOAD_TYPE, role.keys, role.threshold))
    _check_channel("head", head.channel, under)
    if head.kind != KIND_WEIGHTS:
        raise refusal(Reason.UNSUPPORTED_KIND, f"head with seq {head.seq} is of kind {head.kind}", actual=head.kind)
    limit = under.root.limits.max_version_bytes
    if head.total_bytes > limit:
        raise refusal(
            Reason.OVER_LIMIT,
            f"head with seq {head.seq} names {head.total_bytes} bytes, the root allows {limit}",
            expected=limit,
            actual=head.total_bytes,
        )
    _check_epoch(head, under.root)
    return SignedHead(head, data)


def read_beacon(data: bytes, under: SignedRoot) -> Beacon:
    """Check everything about a beacon but which head is the newest.

    Raises:
        TrustError: Reason `malformed`, one of `dsse.verify`, `wrong_channel`, or `over_limit` (it vouches for longer than the root
            allows).
    """
    with malformed_is_refused():
        envelope = Envelope.decode(data, size_max=BEACON_BYTES_MAX, what="beacon")
        beacon = Beacon.decode(verify(envelope, beacons.PAYLOAD_TYPE, under.root.origin_role.keys, 1))
    _check_channel("beacon", beacon.channel, under)
    limit = under.root.limits.beacon_ttl_s
    if beacon.ttl_s > limit:
        raise refusal(
            Reason.OVER_LIMIT,
            f"a beacon vouches for {beacon.ttl_s} s, the root allows {limit}",
            expected=limit,
            actual=beacon.ttl_s,
        )
    return beacon


def read_binding(data: bytes, under: SignedRoot) -> Binding:
    """Check a binding; whether the peer that shows it is the one it names is the caller's matter.

    Raises:
        TrustError: Reason `malformed`, one of `dsse.verify`, or `wrong_channel`.
    """
    with malformed_is_refused():
        envelope = Envelope.decode(data, size_max=BINDING_BYTES_MAX, what="binding")
        binding = Binding.decode(verify(envelope, bindings.PAYLOAD_TYPE, under.root.origin_role.keys, 1))
    _check_channel("binding", binding.channel, under)
    return binding


def read_offer(data: bytes, under: SignedRoot) -> PatchOffer:
    """Check a patch offer.

    Raises:
        TrustError: Reason `malformed`, one of `dsse.verify`, `wrong_channel`, or `over_limit`.
    """
    with malformed_is_refused():
        envelope = Envelope.decode(data, size_max=OFFER_BYTES_MAX, what="offer")
        offer = PatchOffer.decode(verify(envelope, offers.PAYLOAD_TYPE, under.root.origin_role.keys, 1))
    _check_channel("offer", offer.channel, under)
    limit = under.root.limits.max_version_bytes
    if offer.payload_bytes > limit:
        raise refusal(
            Reason.OVER_LIMIT,
            f"an offer names {offer.payload_bytes} bytes, the root allows {limit}",
            expected=limit,
            actual=offer.payload_bytes,
        )
    return offer


def check_manifest(head: Head, data: bytes, under: SignedRoot) -> Manifest:
    """Return the manifest that `head` names, if `data` is it.

    Raises:
        IntegrityError: The bytes are others: their sender is at fault.
        TrustError: Reason `malformed` or `over_limit`: they are what the origin has signed for, and not acceptable.
    """
    if len(data) != head.manifest_bytes:
        raise IntegrityError(
            f"a manifest has {len(data)} bytes, the head names {head.manifest_bytes}",
            expected=head.manifest_bytes,
            actual=len(data),
        )
    actual = digest_of(data)
    if actual != head.manifest:
        raise IntegrityError(
            f"manifest {format_digest(actual)} came for {format_digest(head.manifest)}",
            expected=format_digest(head.manifest),
            actual=format_digest(actual),
        )
    with malformed_is_refused():
        manifest = Manifest.decode(data)
    if manifest.total_bytes != head.total_bytes:
        raise refusal(
            Reason.MALFORMED,
            f"a manifest has {manifest.total_bytes} bytes of files, the head names {head.total_bytes}",
            expected=head.total_bytes,
            actual=manifest.total_bytes,
        )
    limits = under.root.limits
    if len(manifest.files) > limits.max_files or manifest.total_bytes > limits.max_version_bytes:
        raise refusal(
            Reason.OVER_LIMIT,
            f"a manifest has {len(manifest.files)} files of {manifest.total_bytes} bytes,"
            f" the root allows {limits.max_files} of {limits.max_version_bytes}",
        )
    return manifest


@contextmanager
def malformed_is_refused() -> Iterator[None]:
    """Turn bytes that are no statement at all into a refusal with a reason, like every other."""
    try:
        yield
    except RemoteProtocolError as error:
        raise refusal(Reason.MALFORMED, error.message, hint=error.hint) from error


def _check_channel(what: str, channel: Digest, under: SignedRoot) -> None:
    if channel != under.channel:
        raise refusal(
            Reason.WRONG_CHANNEL,
            f"a properly signed {what} is for channel {format_digest(channel)}, not {format_digest(under.channel)}",
            expected=format_digest(under.channel),
            actual=format_digest(channel),
        )


def _check_epoch(head: Head, root: Root) -> None:
    if head.epoch < root.epoch:
        raise refusal(
            Reason.ROLLBACK,
            f"head with seq {head.seq} is of epoch {head.epoch}, root {root.version} has revoked it with epoch {root.epoch}",
            expected=root.epoch,
            actual=head.epoch,
        )
    if head.epoch > root.epoch:
        raise refusal(
            Reason.EPOCH_AHEAD,
            f"head with seq {head.seq} is of epoch {head.epoch}, the held root {root.version} is of epoch {root.epoch}",
            hint=f"root {root.version + 1} comes first",
            expected=root.epoch,
            actual=head.epoch,
        )
