"""A version on this host's disk, as the loader needs it: its directory, and the manifest that says what its bytes are.

The manifest decides what may reach a live tensor, so it never comes from the directory: it is the one whose digest the channel's origin
signed. A `shardcast.Version` fetches it from the node and compares it with that digest.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from shardcast_proto.chunking import default_chunk_size
from shardcast_proto.errors import ConfigError, HotLoadError, IntegrityError
from shardcast_proto.ids import Digest, format_digest, parse_digest
from shardcast_proto.manifest import Manifest

from ..checkpoint import scan
from ..store import digest_chunks, places_in
from ..store.chunk_files import ChunkPlace


@runtime_checkable
class NodeVersion(Protocol):
    """What `shardcast.Version` offers: a digest, a directory once it is complete, and a way to its manifest."""

    @property
    def manifest(self) -> str:
        """The digest that names the content, `b3:HEX`."""

    @property
    def path(self) -> Path | None:
        """The directory; None while the version is not complete here."""

    def read_manifest(self) -> Manifest:
        """Return the manifest that has that digest."""


class PathWithManifest(Protocol):
    """Anything else that knows where a version lies, with what is in it."""

    @property
    def manifest(self) -> Manifest:
        """What the bytes are."""

    @property
    def path(self) -> Path:
        """The directory."""


@dataclass(frozen=True)
class VersionOnDisk:
    """A directory with the manifest of what must be in it."""

    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """The version's name, `b3:HEX`."""
        return format_digest(self.manifest.digest)

    @classmethod
    def sealed(cls, path: str | os.PathLike[str], *, chunk_size: int | None = None) -> VersionOnDisk:
        """Make the manifest of a directory that no node holds: it says what is there now, and nobody has signed it.

        Raises:
            ConfigError: It is no checkpoint (`shardcast.checkpoint.scan`).
            NotFound: There is nothing at `path`.
            StoreError: It cannot be read.
        """
        root = Path(path)
        files = scan(root)
        size = chunk_size or default_chunk_size(sum(file.size for file in files))
        sizes = [(file.path, file.size) for file in files]
        count = sum(-(-file.size // size) for file in files)
        digests = [b""] * count

        def keep(place: ChunkPlace, digest: Digest) -> None:
            digests[place.chunk_index] = digest

        shape = Manifest.build(sizes, size, bytes(32 * count))
        digest_chunks(places_in(shape, root, range(count)), keep, chunk_size=size)
        return cls(root, Manifest.build(sizes, size, b"".join(digests)))


#: What `HotLoader.load` takes; a path needs `manifest=` beside it.
VersionLike = VersionOnDisk | NodeVersion | PathWithManifest | str | os.PathLike[str]


def on_disk(version: VersionLike, manifest: Manifest | bytes | None = None) -> VersionOnDisk:
    """Return where a version lies and what must be there.

    Args:
        version: A version, or the path of its directory.
        manifest: What a path holds, decoded or as the node sends it. What the version itself says must agree with it.

    Raises:
        HotLoadError: The version is not complete on this host.
        ConfigError: There is no manifest, or no path.
        IntegrityError: The manifest is not the one that the version's digest names.
        NotFound, NotReady, DaemonUnreachable: From the node that a `shardcast.Version` asks.
    """
    known = Manifest.decode(manifest) if isinstance(manifest, bytes) else manifest
    if isinstance(version, str | os.PathLike):
        if known is None:
            raise ConfigError(
                f"a path alone does not say what the bytes of {os.fspath(version)} must be",
                hint="give a shardcast.Version, or the manifest beside the path",
            )
        return VersionOnDisk(Path(version), known)
    path, name = getattr(version, "path", None), getattr(version, "manifest", None)
    if path is None or name is None:
        raise _not_here(version, name)
    if isinstance(name, Manifest):
        own = name
    else:
        own = known if known is not None else _fetched(version)
        if own.digest != parse_digest(str(name)):
            raise IntegrityError(
                f"the manifest is {format_digest(own.digest)}, not that of {name}",
                expected=str(name),
                actual=format_digest(own.digest),
            )
    if known is not None and known.digest != own.digest:
        raise IntegrityError(f"the manifest beside the version is another one than {format_digest(own.digest)}")
    return VersionOnDisk(Path(path), own)


def _fetched(version: object) -> Manifest:
    if not isinstance(version, NodeVersion):
        raise ConfigError(
            f"{type(version).__name__} names a manifest and does not have it",
            hint="give a shardcast.Version of a Subscriber, or the manifest beside it",
        )
    return version.read_manifest()


def _not_here(version: object, name: object) -> ConfigError | HotLoadError:
    if name is None:
        return ConfigError(
            f"{type(version).__name__} is no version: it has no path and manifest", hint="give a shardcast.Version"
        )
    return HotLoadError(
        f"version {name} is not complete on this host",
        hint="wait for it with Subscriber.wait, which returns it complete",
        manifest=str(name),
    )
