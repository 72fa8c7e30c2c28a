"""The people of the trust tests: keys from fixed seeds, a channel with its root, and heads for it.

Everything is deterministic: one name is one key, and what is built twice is equal byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from shardcast_proto.errors import TrustError
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest
from shardcast_proto.manifest import Manifest
from shardcast_proto.trust import (
    KIND_WEIGHTS,
    ROLE_ORIGIN,
    ROLE_ROOT,
    STREAM_MAIN,
    Beacon,
    Head,
    Limits,
    Role,
    Root,
    SignedHead,
    SigningKey,
    TrustedChannel,
    sign_beacon,
    sign_head,
    sign_root,
)

CHUNK = 256 * 1024
LIMITS = Limits(max_version_bytes=1 << 40, max_files=4096, beacon_ttl_s=600)
NOW_S = 1_800_000_000


def key(name: str) -> SigningKey:
    """Return the key of a person; its seed is the digest of the name."""
    return SigningKey(digest_of(name.encode()))


ROOT_KEY = key("owner")
ORIGIN_KEY = key("trainer")
STRANGER_KEY = key("stranger")


def make_root(
    *,
    roots: Sequence[SigningKey] = (ROOT_KEY,),
    origins: Sequence[SigningKey] = (ORIGIN_KEY,),
    root_threshold: int = 1,
    origin_threshold: int = 1,
    name: str = "demo",
    limits: Limits = LIMITS,
) -> Root:
    """Return a first root."""
    return Root(
        version=1,
        epoch=1,
        name=name,
        channel=b"",
        expires_s=0,
        limits=limits,
        roles=(
            Role.of(ROLE_ROOT, [one.verify_key for one in roots], root_threshold),
            Role.of(ROLE_ORIGIN, [one.verify_key for one in origins], origin_threshold),
        ),
    )


def successor(root: Root, of_channel: Digest, **changes: object) -> Root:
    """Return the root after `root`, with `changes` on top."""
    fields: dict[str, object] = {"version": root.version + 1, "channel": of_channel, **changes}
    return replace(root, **fields)  # type: ignore[arg-type]


def pin(root: Root | None = None, keys: Sequence[SigningKey] = (ROOT_KEY,)) -> TrustedChannel:
    """Return the state of a node that has just pinned `root`."""
    return TrustedChannel.from_root(sign_root(root or make_root(), keys))


def make_manifest(content: str = "weights", size: int = CHUNK + 5) -> Manifest:
    """Return a manifest of one file whose digests follow from `content`."""
    digests = b"".join(digest_of(f"{content}{index}".encode()) for index in range(-(-size // CHUNK)))
    return Manifest.build([("model.safetensors", size)], CHUNK, digests)


def make_head(trusted: TrustedChannel, seq: int = 1, content: str | None = None, **changes: object) -> Head:
    """Return a head for the channel of `trusted`; its manifest follows from `content`, which follows from `seq`."""
    manifest = make_manifest(content or f"weights of seq {seq}")
    head = Head(
        channel=trusted.channel,
        kind=KIND_WEIGHTS,
        stream=STREAM_MAIN,
        epoch=trusted.root.epoch,
        seq=seq,
        step=seq * 10,
        manifest=manifest.digest,
        manifest_bytes=len(manifest.encoded),
        total_bytes=manifest.total_bytes,
    )
    return replace(head, **changes)  # type: ignore[arg-type]


def head_bytes(trusted: TrustedChannel, seq: int = 1, content: str | None = None, **changes: object) -> bytes:
    """Return `make_head` in an envelope signed by the origin."""
    return sign_head(make_head(trusted, seq, content, **changes), [ORIGIN_KEY])


def reason_of(call: Callable[[], object]) -> object:
    """Return the reason for which `call` refuses what it is given."""
    with pytest.raises(TrustError) as caught:
        call()
    return caught.value.facts["reason"]


def newest(trusted: TrustedChannel) -> SignedHead:
    """Return the current head, which there must be."""
    assert trusted.current is not None
    return trusted.current


def beacon_bytes(trusted: TrustedChannel, *, issued_s: int = NOW_S, ttl_s: int = 600) -> bytes:
    """Return a beacon for the current head, signed by the origin."""
    return sign_beacon(Beacon(trusted.channel, newest(trusted).digest, issued_s, ttl_s), [ORIGIN_KEY])
