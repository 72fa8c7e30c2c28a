"""A root: the pinned statement of who may sign for a channel.

The channel id is the digest of the first root's payload and never changes. Later roots carry it; the first one cannot. Which root
may follow which is the matter of `root_chain`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple, cast

from ..codec import check_fields, fields, pack, unpack
from ..errors import RemoteProtocolError
from ..ids import as_digest
from ..limits import CHANNEL_NAME_BYTES_MAX, FILES_MAX, ROLE_KEYS_MAX, ROOT_BYTES_MAX, SIGNATURES_MAX
from .keys import VerifyKey

TAG: Final = "shardcast/root"
VERSION: Final = 1

#: Who signs roots, heads; who contributes streams of their own, who judges them.
ROLE_ROOT: Final = "root"
ROLE_ORIGIN: Final = "origin"
ROLE_CONTRIBUTOR: Final = "contributor"
ROLE_VALIDATOR: Final = "validator"
#: The order in which a root lists its roles. The first two are in every root.
ROLES: Final = (ROLE_ROOT, ROLE_ORIGIN, ROLE_CONTRIBUTOR, ROLE_VALIDATOR)

#: A rotation carries the signatures of two roots' thresholds in one envelope.
THRESHOLD_MAX: Final = SIGNATURES_MAX // 2
#: Below a minute, one lost beacon would make every node stale; above a day, a freeze would go unseen for longer than that.
BEACON_TTL_S_MIN: Final = 60
BEACON_TTL_S_MAX: Final = 86_400
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Limits(NamedTuple):
    """What the channel's owner allows its origins: bytes and files of one version, seconds that a beacon may vouch."""

    max_version_bytes: int
    max_files: int
    beacon_ttl_s: int


@dataclass(frozen=True)
class Role:
    """Keys of which `threshold` must sign together.

    Invariant: 1 to 64 distinct usable keys, ascending by their bytes; a threshold from 1 to the number of keys, at most 8.
    """

    name: str
    threshold: int
    public_keys: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if self.name not in ROLES:
            raise RemoteProtocolError(f"a root has an unknown role {self.name[:40]!r}")
        count = len(self.public_keys)
        if not 0 < count <= ROLE_KEYS_MAX or list(self.public_keys) != sorted(set(self.public_keys)):
            raise RemoteProtocolError(
                f"role {self.name} has {count} keys, out of order, twice, or over {ROLE_KEYS_MAX}"
            )
        if not 0 < self.threshold <= min(count, THRESHOLD_MAX):
            raise RemoteProtocolError(f"role {self.name} has threshold {self.threshold} with {count} keys")
        _ = self.keys

    @classmethod
    def of(cls, name: str, keys: Sequence[VerifyKey], threshold: int = 1) -> Role:
        """Make the role of `keys`, given in any order."""
        return cls(name, threshold, tuple(sorted(key.public_key for key in keys)))

    @cached_property
    def keys(self) -> tuple[VerifyKey, ...]:
        """The checked keys."""
        return tuple(VerifyKey(public_key) for public_key in self.public_keys)


@dataclass(frozen=True)
class Root:
    """Who may sign for a channel, from this version on.

    Attributes:
        version: 1, 2, 3, …
        epoch: Rises to revoke the heads of lower epochs.
        name: What the channel's owner calls it; other nodes may call it otherwise.
        channel: The channel id; empty in version 1, whose payload it is the digest of.
        expires_s: Unix seconds after which operators are warned; 0 for never. No acceptance depends on it.
        limits: What origins may publish.
        roles: In the order of `ROLES`, each at most once.
    """

    version: int
    epoch: int
    name: str
    channel: bytes
    expires_s: int
    limits: Limits
    roles: tuple[Role, ...]

    def __post_init__(self) -> None:
        if self.version < 1 or (self.version == 1) != (self.channel == b""):
            raise RemoteProtocolError(f"root version {self.version} with a channel id of {len(self.channel)} bytes")
        if self.channel:
            as_digest(self.channel, "channel id")
        if len(self.name) > CHANNEL_NAME_BYTES_MAX or not _NAME.fullmatch(self.name):
            raise RemoteProtocolError(
                f"channel name {self.name[:CHANNEL_NAME_BYTES_MAX]!r} is not"
                f" 1 to {CHANNEL_NAME_BYTES_MAX} letters, digits and . _ -"
            )
        if self.limits.max_version_bytes < 1 or not 0 < self.limits.max_files <= FILES_MAX:
            raise RemoteProtocolError(
                f"a root allows {self.limits.max_version_bytes} bytes in {self.limits.max_files} files"
            )
        if not BEACON_TTL_S_MIN <= self.limits.beacon_ttl_s <= BEACON_TTL_S_MAX:
            raise RemoteProtocolError(f"a root allows beacons of {self.limits.beacon_ttl_s} s")
        names = [role.name for role in self.roles]
        if names != [name for name in ROLES if name in names] or names[:2] != [ROLE_ROOT, ROLE_ORIGIN]:
            raise RemoteProtocolError("a root does not list each of its roles once and in order, with root and origin")

    def role(self, name: str) -> Role | None:
        """Return the role of that name, if this root has it."""
        return next((role for role in self.roles if role.name == name), None)

    @property
    def root_role(self) -> Role:
        """Who signs roots."""
        return self.roles[0]

    @property
    def origin_role(self) -> Role:
        """Who signs heads."""
        return self.roles[1]

    def is_expired(self, now_s: float) -> bool:
        """Return whether operators should be warned."""
        return 0 < self.expires_s <= now_s

    @property
    def encoded(self) -> bytes:
        """The canonical encoding."""
        roles = [[role.name, role.threshold, list(role.public_keys)] for role in self.roles]
        limits = list(self.limits)
        return pack([TAG, VERSION, self.version, self.epoch, self.name, self.channel, self.expires_s, limits, roles])

    @classmethod
    def decode(cls, payload: bytes) -> Root:
        """Read the payload of a root's envelope.

        Raises:
            RemoteProtocolError: The bytes are not the canonical encoding of a root within the limits.
        """
        version, epoch, name, channel, expires_s, limits, roles = cast(
            tuple[int, int, str, bytes, int, list[object], list[object]],
            fields(
                unpack(payload, size_max=ROOT_BYTES_MAX, what="root"),
                TAG,
                VERSION,
                (int, int, str, bytes, int, list, list),
            ),
        )
        if len(limits) != len(Limits._fields) or len(roles) > len(ROLES):
            raise RemoteProtocolError(f"a root has {len(limits)} limits and {len(roles)} roles")
        numbers = cast(tuple[int, int, int], check_fields(limits, (int, int, int), "limits of a root"))
        root = cls(version, epoch, name, channel, expires_s, Limits(*numbers), tuple(_role(row) for row in roles))
        if root.encoded != payload:
            raise RemoteProtocolError("a root is not in its canonical encoding")
        return root


def _role(row: object) -> Role:
    if not isinstance(row, list) or len(row) != 3:
        raise RemoteProtocolError("a role of a root is not [name, threshold, keys]")
    name, threshold, keys = cast(tuple[str, int, list[object]], check_fields(row, (str, int, list), "role of a root"))
    if len(keys) > ROLE_KEYS_MAX:
        raise RemoteProtocolError(f"role {name[:40]!r} has {len(keys)} keys, the limit is {ROLE_KEYS_MAX}")
    public_keys = cast(tuple[bytes, ...], check_fields(keys, [bytes] * len(keys), "keys of a role"))
    return Role(name, threshold, public_keys)
