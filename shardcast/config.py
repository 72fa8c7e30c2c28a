"""The configuration of a daemon: flags over `SHARDCAST_*` variables over a TOML file over defaults.

Unknown keys are an error wherever they stand, because a misspelt limit is no limit.
"""

from __future__ import annotations

import ipaddress
import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from shardcast_proto.errors import ConfigError
from shardcast_proto.limits import MIB

from .engine_specs import EngineSpec, parse_engines, parse_time
from .plain_files import TOKEN_BYTES_MAX, read_plain

ENV_PREFIX: Final = "SHARDCAST_"
#: Variables with the prefix that are not the daemon's: the client commands read SHARDCAST_API with another meaning.
FOREIGN_ENV: Final = frozenset({"SHARDCAST_API", "SHARDCAST_DEBUG", "SHARDCAST_SIM_SEEDS"})
#: Larger than any list of addresses is worth.
CONFIG_BYTES_MAX: Final = MIB

DEFAULT_API: Final = "127.0.0.1:7480"
DEFAULT_P2P: Final = "0.0.0.0:7481"
DEFAULT_SERVE: Final = "0.0.0.0:7482"
#: The address that is none.
NO_ADDRESS: Final = "none"

Paths = Annotated[tuple[Path, ...], NoDecode]
Texts = Annotated[tuple[str, ...], NoDecode]
_LISTS: Final = ("channel", "origin_key", "bootstrap", "allow_private", "publish_root", "activate")


class NodeConfig(BaseSettings):
    """What one `shardcast-node` is told. Lists in variables are separated by commas, engines by semicolons."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    #: The data directory.
    data: Path
    #: Root files of the channels to follow.
    channel: Paths = Field(min_length=1)
    #: Key files; each is used for the channels whose root lists it.
    origin_key: Paths = ()
    role: Literal["relay", "client"] = "client"
    p2p: str = DEFAULT_P2P
    #: "none" opens no data plane: chunks reach others over the control connections alone.
    serve: str = DEFAULT_SERVE
    api: str = DEFAULT_API
    #: Addresses that others should dial instead of the bound ones; "none" announces none (a host that nobody can dial).
    announce_p2p: str | None = None
    announce_serve: str | None = None
    #: Multiaddrs of nodes to join at.
    bootstrap: Texts = ()
    #: The uplink in Mbit/s; payload is paced at 0.95 of it. Without it uploads are not paced.
    up_mbps: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    #: The downlink in Mbit/s; what this node receives is paced at 0.95 of it.
    down_mbps: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    #: How many versions of a channel are kept.
    keep: int = Field(default=3, ge=1)
    #: Bytes that all versions together may take.
    quota: int | None = Field(default=None, gt=0)
    #: What becomes of a version that is not whole when a newer one of its channel comes.
    supersede: Literal["newest", "finish", "drop"] = "newest"
    #: Networks (CIDR) that may be dialled although they are private.
    allow_private: Texts = ()
    #: Directories that checkpoints may be published from; without any, the node's own user may publish from everywhere.
    publish_root: Paths = ()
    #: A file with the bearer token of the API.
    token_file: Path | None = None
    #: Engines that are kept at the newest version: see `engine_specs`.
    activate: Texts = ()
    #: Versions that an engine may be behind before the node calls itself not ready.
    max_lag: int | None = Field(default=None, ge=0)
    #: Seconds that an engine may be behind, whatever by; given as 10m, too.
    max_stale: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator(*_LISTS, mode="before")
    @classmethod
    def _split(cls, value: object, info: ValidationInfo) -> object:
        mark = ";" if info.field_name == "activate" else ","
        return tuple(filter(None, value.split(mark))) if isinstance(value, str) else value

    @field_validator("activate")
    @classmethod
    def _check_engines(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        parse_engines(value)
        return value

    @field_validator("max_stale", mode="before")
    @classmethod
    def _read_time(cls, value: object) -> object:
        return parse_time(value) if isinstance(value, str) else value

    @field_validator("p2p", "serve", "api", "announce_p2p", "announce_serve")
    @classmethod
    def _check_endpoint(cls, value: str | None, info: ValidationInfo) -> str | None:
        may_be_none = info.field_name in ("serve", "announce_p2p", "announce_serve")
        if value is not None and not (may_be_none and value == NO_ADDRESS):
            split_endpoint(value)
        return value

    @model_validator(mode="after")
    def _check_api_bind(self) -> NodeConfig:
        host, _ = split_endpoint(self.api)
        if not ipaddress.ip_address(host).is_loopback and self.token_file is None:
            raise ValueError(f"api: {self.api} is reachable from other hosts; that needs --token-file")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then variables; what `load` reads from a file comes as flags do, where neither says anything."""
        if isinstance(env_settings, EnvSettingsSource):
            env_settings.env_vars = {
                name: value for name, value in env_settings.env_vars.items() if name.upper() not in FOREIGN_ENV
            }
        return init_settings, env_settings

    @property
    def engines(self) -> tuple[EngineSpec, ...]:
        """The engines that are kept at the newest version."""
        return parse_engines(self.activate)

    def read_token(self) -> bytes | None:
        """Return the API's bearer token.

        Raises:
            ConfigError: The file cannot be read, is empty, or others may read it.
        """
        if self.token_file is None:
            return None
        file = read_plain(self.token_file, "token file", bytes_max=TOKEN_BYTES_MAX)
        token = file.data.strip()
        if file.mode & 0o077:
            raise ConfigError(
                f"token file {self.token_file} has mode {file.mode:04o}: others can read it",
                hint=f"chmod 600 {self.token_file}",
            )
        if not token:
            raise ConfigError(f"token file {self.token_file} is empty")
        return token

    def check_publish_roots(self) -> None:
        """Refuse a directory to publish from that is none.

        Raises:
            ConfigError: One of them is not there, or cannot be looked at, or is no directory.
        """
        for root in self.publish_root:
            try:
                why = None if stat.S_ISDIR(root.stat().st_mode) else "is no directory"
            except (OSError, ValueError) as error:
                why = f"cannot be looked at: {getattr(error, 'strerror', None) or error}"
            if why is not None:
                raise ConfigError(f"--publish-root: {root} {why}", hint="make it, or name another", path=str(root))


def split_endpoint(text: str) -> tuple[str, int]:
    """Return host and port of "IP:PORT" or "[IP6]:PORT".

    Raises:
        ValueError: The text is neither.
    """
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    is_number = port.isascii() and port.isdecimal() and len(port) <= len("65535")
    try:
        address = str(ipaddress.ip_address(host[1:-1] if bracketed else host))
    except ValueError as error:
        raise ValueError(f"{text!r} is not IP:PORT") from error
    if bracketed != (":" in address) or not is_number or int(port) > 65_535:
        raise ValueError(f"{text!r} is not IP:PORT")
    return address, int(port)


def read_settings(path: Path) -> dict[str, object]:
    """Return what a configuration file says, unchecked.

    Raises:
        ConfigError: It cannot be read, or is not TOML.
    """
    data = read_plain(path, "config file", bytes_max=CONFIG_BYTES_MAX).data
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read the config file {path}: {error}", path=str(path)) from error


def variables() -> dict[str, str]:
    """Return the variables that are the daemon's: of each the name as it stands, by the name in upper case."""
    names = {name.upper(): name for name in sorted(os.environ)}
    return {upper: name for upper, name in names.items() if upper.startswith(ENV_PREFIX) and upper not in FOREIGN_ENV}


def load(flags: dict[str, object], *, config_file: Path | None) -> NodeConfig:
    """Return the configuration from flags, the environment and a file.

    Raises:
        ConfigError: A value is missing or wrong, or a key is unknown; the message names all of them.
    """
    given = variables()
    unknown = [
        name for upper, name in given.items() if upper.removeprefix(ENV_PREFIX).lower() not in NodeConfig.model_fields
    ]
    if unknown:
        raise ConfigError(f"unknown variables {', '.join(unknown)}", hint="unset them, or see shardcast-node --help")
    places = {upper.removeprefix(ENV_PREFIX).lower(): name for upper, name in given.items()}
    places |= {key: flag_of(key) for key in flags}
    in_file = read_settings(config_file) if config_file is not None else {}
    texts = [f"{config_file}: unknown setting {key}" for key in in_file if key not in NodeConfig.model_fields]
    from_file = {key: in_file[key] for key in NodeConfig.model_fields if key in in_file and key not in places}
    places |= {key: f"{config_file}: {key}" for key in from_file}
    cause = None
    try:
        config = NodeConfig(**flags, **from_file)  # type: ignore[arg-type]
    except ValidationError as error:
        cause = error
        texts += [_fault_text(fault, places) for fault in error.errors(include_url=False, include_context=False)]
    if texts:
        # a list with two wrong elements is one fault
        raise ConfigError("; ".join(dict.fromkeys(texts)), hint="see shardcast-node --help") from cause
    return config


def flag_of(key: str) -> str:
    """Return the flag that sets a key."""
    return f"--{key.replace('_', '-')}"


def _fault_text(fault: Mapping[str, Any], places: Mapping[str, str]) -> str:
    key = str(fault["loc"][0]) if fault["loc"] else ""
    place, message = places.get(key, flag_of(key)), fault["msg"].removeprefix("Value error, ")
    match fault["type"]:
        case "missing":
            return f"{place} is missing"
        case "tuple_type" | "string_type" | "path_type" if key in _LISTS:
            return f"{place} must be a list of texts"
        case "string_type" | "path_type":
            return f"{place} must be a text"
    return f"{place}: {message}" if key else message
