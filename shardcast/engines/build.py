"""The making of an engine's adapter from what the operator has said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from shardcast.engine_specs import EngineSpec
from shardcast.plain_files import TOKEN_BYTES_MAX, read_plain
from shardcast_proto.errors import ConfigError, InvariantViolated

from .calls import EngineHttp
from .hook import HookEngine
from .port import Engine
from .prime_rl import ManifestOf, PrimeRlEngine
from .sglang import SglangEngine
from .symlink import SymlinkEngine
from .vllm import VllmEngine
from .webhook import WebhookEngine

#: HMAC-SHA-256 is as strong as its key.
SECRET_BYTES_MIN: Final = 16


class Connect(Protocol):
    """Makes the way to an engine."""

    def __call__(self, url: str, *, headers: Mapping[str, str]) -> EngineHttp:
        """Return it; nothing is opened yet."""


def make_engine(spec: EngineSpec, *, connect: Connect, manifest_of: ManifestOf) -> Engine:
    """Return the adapter.

    Raises:
        ConfigError: The file with its secret cannot be read, holds none, or others may read it.
    """
    secret = None if spec.secret_file is None else read_secret(spec.secret_file)
    headers = {"Authorization": f"Bearer {_ascii(spec, secret)}"} if secret and spec.kind != "webhook" else {}
    match spec.kind:
        case "vllm":
            return VllmEngine(spec, connect(spec.target, headers=headers))
        case "sglang":
            return SglangEngine(spec, connect(spec.target, headers=headers))
        case "prime-rl":
            return PrimeRlEngine(spec, [connect(url, headers=headers) for url in spec.urls], manifest_of)
        case "hook":
            return HookEngine(spec)
        case "webhook" if secret is not None:
            if len(secret) < SECRET_BYTES_MIN:
                raise ConfigError(
                    f"the secret in {spec.secret_file} has {len(secret)} bytes, at least {SECRET_BYTES_MIN} are needed",
                    hint=f"head -c 32 /dev/urandom | base64 > {spec.secret_file}",
                )
            return WebhookEngine(spec, connect(spec.target, headers={}), secret)
        case "symlink":
            return SymlinkEngine(spec)
    raise InvariantViolated(f"an engine of kind {spec.kind!r}")


def read_secret(path: Path) -> bytes:
    """Return what is in the file of a secret.

    Raises:
        ConfigError: It cannot be read, is empty, or others may read it.
    """
    file = read_plain(path, "secret file", bytes_max=TOKEN_BYTES_MAX)
    if file.mode & 0o077:
        raise ConfigError(
            f"secret file {path} has mode {file.mode:04o}: others can read it", hint=f"chmod 600 {path}", path=str(path)
        )
    secret = file.data.strip()
    if not secret:
        raise ConfigError(f"secret file {path} is empty", path=str(path))
    return secret


def _ascii(spec: EngineSpec, secret: bytes) -> str:
    try:
        token = secret.decode("ascii")
    except UnicodeDecodeError:
        token = ""
    if not token.isprintable() or not token or " " in token:
        raise ConfigError(f"the file {spec.secret_file} holds no token", path=str(spec.secret_file))
    return token
