"""The trainer's side of a channel: `Publisher` hands a checkpoint to the node of this host.

    from shardcast import Publisher

    publisher = Publisher("http://127.0.0.1:7480", "my-model")
    publisher.publish("out/step-1200", step=1200)                                     # a directory
    publisher.publish(model.state_dict(), step=1200, files={"config.json": config})   # tensors

Synchronous, without a thread or an event loop of its own. Tensors are written as a checkpoint in the layout of Hugging Face
(`shardcast.tensor_files`), into a directory that the node lends; the files become the node's without being copied where the file system can
link. When `publish` returns, the weights have been read, and are not read again: the next training step may overwrite them. With a
directory that is so only if its files were copied or share their blocks (`Published.link`): a hard link is the trainer's own file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

from shardcast_proto.errors import ConfigError, Conflict, DaemonUnreachable, NotFound, RemoteProtocolError
from shardcast_proto.paths import check_paths

from .api_client import ApiClient
from .tensor_files import SHARD_BYTES, write_tensors

Link = Literal["auto", "reflink", "hardlink", "copy"]
PathLike: TypeAlias = str | os.PathLike[str]
#: A directory, or names with tensors: `shardcast.tensors` says which kinds.
Weights: TypeAlias = PathLike | Mapping[str, Any] | Iterable[tuple[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A version that was published.

    Attributes:
        channel: The channel's name.
        step: As it was given.
        seq: The number that the head got.
        manifest: The digest that names the content, `b3:HEX`.
        bytes: The size of all files.
        signed_at: Unix seconds by the node's clock.
        hash_seconds: How long hashing took.
        existing: Whether this step was published before with the same content, so that nothing was signed.
        link: How the files came into the node's store.
        complete_neighbours: How many direct neighbours had reported it complete.
    """

    channel: str
    step: int
    seq: int
    manifest: str
    bytes: int
    signed_at: float
    hash_seconds: float
    existing: bool
    link: str
    complete_neighbours: int = 0


class Publisher:
    """Publishes versions of one channel through one node, which must have the channel's origin key."""

    def __init__(self, api: str | None, channel: str, *, token: str | None = None) -> None:
        """Hold the address; nothing is opened yet.

        Args:
            api: `http://HOST:PORT` of the node; None means `SHARDCAST_API`, else the port that a node opens by default.
            channel: Its name or id.
            token: The API's bearer token, where the node asks for one.

        Raises:
            ConfigError: The address is none.
        """
        self.channel = channel
        self._api = ApiClient(api, token=token)

    def publish(
        self,
        weights: Weights,
        *,
        step: int,
        rewind: bool = False,
        files: Mapping[str, bytes | PathLike] | None = None,
        link: Link = "auto",
        shard_bytes: int = SHARD_BYTES,
        wait: Literal["announced"] | int = "announced",
        timeout_s: float | None = None,
    ) -> Published:
        """Publish a checkpoint, and return once it is signed and announced.

        Publishing the same content as the same step again does nothing.

        Args:
            weights: A directory that the node can read; or a mapping, or an iterator, of names with tensors. Two names of the same memory
                become one tensor with two names.
            step: The trainer's step.
            rewind: Whether the trainer went back on purpose, so that this step may have other content now.
            files: What else belongs beside tensors, as `config.json` or the tokenizer: bytes, or the path of a file to copy.
            link: How a directory's files come into the node's store.
            shard_bytes: A file of tensors ends before it has more; at least 1.
            wait: `announced`, or how many direct neighbours must have reported the version complete.
            timeout_s: How long these are waited for; None means as long as the node's default.

        Raises:
            ConfigError: A tensor or an argument cannot be published; the node refuses the checkpoint.
            NotFound: The node does not follow the channel; there is nothing at the path.
            TrustError: The node is no origin of the channel.
            Conflict: The step exists with other content.
            TransferError: Fewer neighbours than wanted were complete in time; the version is published all the same.
            StoreError: The disk is full or fails.
            DaemonUnreachable: No node answers.
            Whatever an iterator of tensors raises; nothing is published then.
        """
        request: dict[str, object] = {"step": step, "rewind": rewind, "link": link}
        if wait != "announced":
            request["wait"] = wait
        if timeout_s is not None:
            request["timeout_s"] = timeout_s
        if isinstance(weights, str | os.PathLike):
            if files:
                raise ConfigError(
                    "files go beside tensors; a directory has its own", hint="put them into the directory"
                )
            return self._post(Path(weights).absolute(), request)
        if not isinstance(weights, Iterable):
            raise ConfigError(
                f"{type(weights).__name__} is no checkpoint",
                hint="give a directory, model.state_dict(), or pairs of a name and a tensor",
            )
        _check_files(files or {})
        with self._spool() as folder:
            write_tensors(folder, weights, shard_bytes=shard_bytes)
            for name, content in (files or {}).items():
                _put(folder, name, content)
            return self._post(folder, {**request, "link": "auto"})

    def _post(self, path: Path, request: Mapping[str, object]) -> Published:
        answer = self._api.publish(self.channel, {"path": str(path), **request})
        return Published(**{field.name: answer[field.name] for field in fields(Published) if field.name in answer})

    @contextlib.contextmanager
    def _spool(self) -> Iterator[Path]:
        """Borrow a directory of the node's."""
        if not self._api.is_local:
            raise ConfigError(
                f"the node at {self._api.url} is on another host: tensors are handed over through a directory",
                hint="publish through a node on this host",
            )
        lent = self._api.spool(self.channel)
        folder = Path(lent["path"])
        try:
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise ConfigError(
                    f"cannot write into {folder}, which the node lends",
                    hint="run as the node's user on its host, or write a directory yourself and publish that",
                    path=str(folder),
                )
            yield folder
        finally:
            # the node deletes it by itself once it is published, and when it starts
            with contextlib.suppress(NotFound, Conflict, DaemonUnreachable):
                self._api.drop_spool(lent["spool"])


def _check_files(files: Mapping[str, object]) -> None:
    """Refuse what cannot lie beside tensors, before anything is written."""
    for name, content in files.items():
        if not isinstance(name, str):
            raise ConfigError(f"{str(name)[:80]!r} is no name for a file", hint="files are names with contents")
        if not isinstance(content, bytes | str | os.PathLike):
            raise ConfigError(
                f"{name[:200]!r} is {type(content).__name__}, neither bytes nor the path of a file", file=name[:200]
            )
    try:
        check_paths(files)
    except RemoteProtocolError as error:
        raise ConfigError(error.message, hint="name files as they are to be called in the checkpoint") from error


def _put(folder: Path, name: str, content: bytes | PathLike) -> None:
    """Write one more file into a checkpoint."""
    from .store.faults import disk_errors

    path = folder / name
    with disk_errors("writing", path):
        # what is a file already is no directory for others either
        if path.exists() or any(above.is_file() for above in path.parents):
            raise ConfigError(f"{name} is written by publish itself", hint="leave it out of files")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
            return
        if not Path(content).is_file():
            raise NotFound(f"there is no file {content} to publish as {name}", path=str(content))
        shutil.copyfile(content, path)
