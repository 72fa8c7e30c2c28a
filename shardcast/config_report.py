"""The report of `--print-config`: what a daemon would run with, and where each value came from.

It is TOML that `--config` reads back; keys without a value are comments.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from .config import ENV_PREFIX, NodeConfig, flag_of, read_settings, variables

_HEAD: Final = "# shardcast-node: flags over SHARDCAST_* variables over the --config file over defaults"
#: Where the sources begin, unless a value is longer.
_SOURCE_COLUMN: Final = 40


def report(config: NodeConfig, flags: Mapping[str, object], config_file: Path | None) -> str:
    """Return the report of a configuration that `load` has made of these flags and this file."""
    return "\n".join([_HEAD, *_lines(config, flags, config_file), ""])


def _lines(config: NodeConfig, flags: Mapping[str, object], config_file: Path | None) -> Iterator[str]:
    given = variables()
    in_file = read_settings(config_file) if config_file is not None else {}
    for name in NodeConfig.model_fields:
        if name in flags:
            source = flag_of(name)
        elif (variable := given.get(f"{ENV_PREFIX}{name.upper()}")) is not None:
            source = variable
        elif name in in_file:
            source = str(config_file)
        else:
            source = "default"
        value = getattr(config, name)
        text = f"# {name} is not set" if value is None else f"{name} = {_toml(value)}"
        yield f"{text.ljust(_SOURCE_COLUMN)}  # {source}"


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    # the escapes of JSON are TOML's too, but for the character that JSON leaves as it is
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
