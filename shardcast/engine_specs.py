"""The text of `--activate`: which engine a node keeps at the newest version, and how it is reached.

    KIND=TARGET[,KEY=VALUE...]

    vllm=http://127.0.0.1:8000          via=auto|reload|transfer|extension  pause=keep|wait|abort|never  kv=reset|keep  token-file=FILE
    sglang=http://127.0.0.1:30000       pause=retract|in_place|abort|never  kv=reset|keep  token-file=FILE  (in_place needs kv=keep)
    prime-rl=/run/broadcasts            url=http://127.0.0.1:8000 (repeat)  token-file=FILE
    hook=/etc/shardcast/activate.sh     arg=WORD (repeat)
    webhook=https://host/path           secret-file=FILE (needed)
    symlink=/srv/models/current

Every kind takes `channel=NAME` (needed where the node follows several), `name=WORD` (needed when two engines are of one kind),
`timeout=TIME` for applying a version, `pause-timeout=TIME`, and `resume-timeout=TIME`. A secret is never part of the text: a command
line can be read by everybody on the host.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

#: Reading 62 GB from a local disk takes minutes, into a very large model over an hour; then it must be given.
APPLY_TIMEOUT_S: Final = 1800.0
#: An engine that lets its requests finish first takes as long as the longest of them.
PAUSE_TIMEOUT_S: Final = 300.0
RESUME_TIMEOUT_S: Final = 60.0
#: A week: nothing here waits longer.
TIME_S_MAX: Final = 7 * 86_400.0

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TIME: Final = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,6})?)(ms|s|m|h|d|)", re.ASCII)
_UNITS: Final[Mapping[str, float]] = {"ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

_COMMON: Final = frozenset({"channel", "name", "timeout", "pause-timeout", "resume-timeout"})
_KEYS: Final[Mapping[str, frozenset[str]]] = {
    "vllm": frozenset({"via", "pause", "kv", "token-file"}),
    "sglang": frozenset({"pause", "kv", "token-file"}),
    "prime-rl": frozenset({"url", "token-file"}),
    "hook": frozenset({"arg"}),
    "webhook": frozenset({"secret-file"}),
    "symlink": frozenset(),
}
_REPEATED: Final = frozenset({"url", "arg"})
_CHOICES: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("vllm", "via"): ("auto", "reload", "transfer", "extension"),
    ("vllm", "pause"): ("keep", "wait", "abort", "never"),
    ("vllm", "kv"): ("reset", "keep"),
    ("sglang", "pause"): ("retract", "in_place", "abort", "never"),
    ("sglang", "kv"): ("reset", "keep"),
}
_URL_KINDS: Final = frozenset({"vllm", "sglang", "webhook"})


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSpec:
    """One engine, as the operator names it. Without a `choice`, the first of those above counts."""

    kind: str
    name: str
    #: A URL without a slash at its end, or an absolute path.
    target: str
    #: The channel's name or id; None where the node follows just one.
    channel: str | None = None
    via: str = "auto"
    pause: str = ""
    #: What becomes of cached keys and values, which were computed with other weights: reset, or keep for callers that salt them.
    kv: str = "reset"
    urls: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    #: The file with the bearer token, or with the secret that a webhook is signed with.
    secret_file: Path | None = None
    apply_timeout_s: float = APPLY_TIMEOUT_S
    pause_timeout_s: float = PAUSE_TIMEOUT_S
    resume_timeout_s: float = RESUME_TIMEOUT_S


def parse_engine(text: str) -> EngineSpec:
    """Read one value of `--activate`.

    Raises:
        ValueError: It is none.
    """
    head, *rest = text.split(",")
    kind, mark, target = head.partition("=")
    if kind not in _KEYS or not mark or not target:
        raise ValueError(f"{text[:120]!r} is not KIND=TARGET with a KIND of {', '.join(_KEYS)}")
    values = _values(kind, rest)
    choices = {key: _choice(kind, key, values) for owner, key in _CHOICES if owner == kind}
    if kind == "webhook" and "secret-file" not in values:
        raise ValueError(f"webhook {target} needs secret-file=FILE: its receiver has to know who calls")
    if kind == "sglang" and choices["pause"] == "in_place" and choices["kv"] == "reset":
        # its scheduler asserts that the cache was flushed, and ends: requests that stay in place hold it
        raise ValueError(
            "sglang cannot flush its cache while requests stay in place: give kv=keep beside pause=in_place"
        )
    secret = values.get("secret-file") or values.get("token-file")
    name = values.get("name", [kind])[0]
    if not _NAME.fullmatch(name):
        raise ValueError(f"name={name[:80]!r} is not a name of an engine: letters, digits and . _ -")
    return EngineSpec(
        kind=kind,
        name=name,
        target=_url(target) if kind in _URL_KINDS else _path(target, kind),
        channel=values["channel"][0] if "channel" in values else None,
        via=choices.get("via", "auto"),
        pause=choices.get("pause", ""),
        kv=choices.get("kv", "reset"),
        urls=tuple(map(_url, values.get("url", []))),
        arguments=tuple(values.get("arg", [])),
        secret_file=None if secret is None else Path(_path(secret[0], "a secret file")),
        apply_timeout_s=_time(values, "timeout", APPLY_TIMEOUT_S),
        pause_timeout_s=_time(values, "pause-timeout", PAUSE_TIMEOUT_S),
        resume_timeout_s=_time(values, "resume-timeout", RESUME_TIMEOUT_S),
    )


def parse_engines(texts: tuple[str, ...]) -> tuple[EngineSpec, ...]:
    """Read all values of `--activate`.

    Raises:
        ValueError: One is none, or two engines have one name.
    """
    specs = tuple(map(parse_engine, texts))
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two engines are called {name!r}: give each name=WORD")
    return specs


def parse_time(text: str) -> float:
    """Return the seconds of "10m", "1.5h", "30s", "250ms", "2d" or a plain number of seconds.

    Raises:
        ValueError: The text is none of these, or not above zero.
    """
    match = _TIME.fullmatch(text)
    seconds = float(match[1]) * _UNITS[match[2]] if match else math.nan
    if not 0 < seconds <= TIME_S_MAX:
        raise ValueError(f"{text[:80]!r} is not a time such as 30s, 10m or 2h, at most 7d")
    return seconds


def _values(kind: str, parts: list[str]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for part in parts:
        key, mark, value = part.partition("=")
        if not mark or not value or key not in _COMMON | _KEYS[kind]:
            known = ", ".join(sorted(_COMMON | _KEYS[kind]))
            raise ValueError(f"{part[:80]!r} is nothing that {kind} takes: it takes KEY=VALUE with {known}")
        if key in values and key not in _REPEATED:
            raise ValueError(f"{key} is given twice")
        values.setdefault(key, []).append(value)
    return values


def _choice(kind: str, key: str, values: Mapping[str, list[str]]) -> str:
    choices = _CHOICES[kind, key]
    value = values.get(key, [choices[0]])[0]
    if value not in choices:
        raise ValueError(f"{key}={value[:80]} of {kind} is none of {', '.join(choices)}")
    return value


def _url(text: str) -> str:
    if "@" in text.partition("://")[2].partition("/")[0]:
        # not quoted: it would be a secret in a log
        raise ValueError("a URL with a password can be read by everybody on this host: name a file instead")
    try:
        parts = urlsplit(text)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or parts.query or parts.fragment or not text.isprintable() or " " in text:
        raise ValueError(f"{text[:120]!r} is not a URL such as http://127.0.0.1:8000")
    return text.rstrip("/")


def _path(text: str, what: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f"{text[:120]!r} of {what} is not an absolute path")
    return text


def _time(values: Mapping[str, list[str]], key: str, default_s: float) -> float:
    return parse_time(values[key][0]) if key in values else default_s
