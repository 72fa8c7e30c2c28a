"""The configuration of a daemon: flags over `SHARDCAST_*` variables over a TOML file over defaults.

Unknown keys are an error wherever they stand, because a misspelt limit is no limit.
"""

from __future__ import annotations

import ipaddress
import os
import stat
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from shardcast_proto.errors import ConfigError

ENV_PREFIX: Final = "SHARDCAST_"
#: Variables with the prefix that are not the daemon's: the client commands read SHARDCAST_API with another meaning.
FOREIGN_ENV: Final = frozenset({"SHARDCAST_API", "SHARDCAST_SIM_SEEDS"})

DEFAULT_API: Final = "127.0.0.1:7480"
DEFAULT_P2P: Final = "0.0.0.0:7481"
DEFAULT_SERVE: Final = "0.0.0.0:7482"
#: The address that is none.
NO_ADDRESS: Final = "none"

Paths = Annotated[tuple[Path, ...], NoDecode]
Texts = Annotated[tuple[str, ...], NoDecode]


class NodeConfig(BaseSettings):
    """What one `shardcast-node` is told. Lists in variables are separated by commas."""

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
    #: Networks (CIDR) that may be dialled although they are private.
    allow_private: Texts = ()
    #: Directories that checkpoints may be published from; without any, the node's own user may publish from everywhere.
    publish_root: Paths = ()
    #: A file with the bearer token of the API.
    token_file: Path | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("channel", "origin_key", "bootstrap", "allow_private", "publish_root", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

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
        """Flags, then variables, then the TOML file of `load`."""
        if isinstance(env_settings, EnvSettingsSource):
            env_settings.env_vars = {
                name: value for name, value in env_settings.env_vars.items() if name.upper() not in FOREIGN_ENV
            }
        toml = TomlConfigSettingsSource(settings_cls, toml_file=settings_cls.model_config.get("toml_file"))
        return init_settings, env_settings, toml

    def read_token(self) -> bytes | None:
        """Return the API's bearer token.

        Raises:
            ConfigError: The file cannot be read, is empty, or others may read it.
        """
        if self.token_file is None:
            return None
        try:
            mode = stat.S_IMODE(self.token_file.stat().st_mode)
            token = self.token_file.read_bytes()[:4096].strip()
        except OSError as error:
            raise ConfigError(f"cannot read the token file {self.token_file}: {error.strerror}") from error
        if mode & 0o077:
            raise ConfigError(
                f"token file {self.token_file} has mode {mode:04o}: others can read it",
                hint=f"chmod 600 {self.token_file}",
            )
        if not token:
            raise ConfigError(f"token file {self.token_file} is empty")
        return token


def split_endpoint(text: str) -> tuple[str, int]:
    """Return host and port of "IP:PORT" or "[IP6]:PORT".

    Raises:
        ValueError: The text is neither.
    """
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    address = str(ipaddress.ip_address(host[1:-1] if bracketed else host))
    if bracketed != (":" in address) or not port.isascii() or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"{text!r} is not IP:PORT")
    return address, int(port)


def _fault_text(key: str, message: str) -> str:
    flag = f"--{key.replace('_', '-')}"
    if message == "Field required":
        return f"{flag} is missing"
    return f"{flag}: {message}" if key else message


def load(flags: dict[str, object], *, config_file: Path | None) -> NodeConfig:
    """Return the configuration from flags, the environment and a file.

    Raises:
        ConfigError: A value is missing or wrong, or a key is unknown; the message names all of them.
    """
    if config_file is not None and not config_file.is_file():
        raise ConfigError(f"there is no config file {config_file}")
    unknown = sorted(
        name
        for name in os.environ
        if name.startswith(ENV_PREFIX)
        and name not in FOREIGN_ENV
        and name.removeprefix(ENV_PREFIX).lower() not in NodeConfig.model_fields
    )
    if unknown:
        raise ConfigError(f"unknown variables {', '.join(unknown)}", hint="unset them, or see shardcast-node --help")

    class Loaded(NodeConfig):
        model_config = SettingsConfigDict(
            env_prefix=ENV_PREFIX, extra="forbid", frozen=True, toml_file=config_file, title="NodeConfig"
        )

    try:
        return Loaded(**flags)  # type: ignore[arg-type]
    except ValidationError as error:
        faults = "; ".join(
            _fault_text(str(fault["loc"][0]) if fault["loc"] else "", fault["msg"].removeprefix("Value error, "))
            for fault in error.errors(include_url=False, include_context=False)
        )
        raise ConfigError(f"the configuration is wrong: {faults}", hint="see shardcast-node --help") from error
    except ValueError as error:  # the TOML file does not parse
        raise ConfigError(f"cannot read the config file {config_file}: {error}") from error
