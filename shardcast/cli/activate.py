"""The commands that say what engines serve: `activate`, `rollback`, `wait --activated`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from shardcast.api_client import View

from .output import print_result
from .selector import parse_selector
from .session import Session

#: A very large model takes over an hour.
TIMEOUT_S: Final = 3600.0


def activate(session: Session, version: str, *, engine: str | None, timeout_s: float | None) -> None:
    """Have engines serve a version.

    Raises:
        NotFound: No such channel, version or engine.
        NotReady: The daemon does not hold the version complete.
        HotLoadError: An engine did not take it.
    """
    channel, selector = parse_selector(version)
    view = session.client().activate(channel, selector, engine=engine, timeout_s=_limit(timeout_s))
    _print(session, view)


def roll_back(session: Session, name: str, *, engine: str | None, timeout_s: float | None) -> None:
    """Have engines serve what they served before.

    Raises:
        NotFound: No such channel or engine, or there is nothing to go back to.
        HotLoadError: An engine did not take it.
    """
    _print(session, session.client().roll_back(name, engine=engine, timeout_s=_limit(timeout_s)))


def resume(session: Session, name: str, *, engine: str | None) -> None:
    """Have engines take up the newest version again.

    Raises:
        NotFound: No such channel or engine.
    """
    _print(session, session.client().follow(name, engine=engine))


def wait_activated(session: Session, version: str, *, engine: str | None, timeout_s: float | None) -> None:
    """Wait until engines serve a version, or a newer one.

    Raises:
        NotReady: They do not in time.
    """
    channel, selector = parse_selector(version)
    _print(session, session.client().wait_activated(channel, selector, engine=engine, timeout_s=timeout_s))


def engine_lines(engine: View) -> Iterator[str]:
    """Yield what people read of an engine."""
    yield f"engine     {engine['name']} ({engine['kind']} {engine['target']}) for {engine['channel']}: {engine['state']}"
    yield f"  serves   {_serves(engine)}; {engine['explain']}"
    if engine["lag_versions"]:
        count, trouble = engine["lag_versions"], ", too far" if engine["is_behind"] else ""
        versions = "1 newer version" if count == 1 else f"{count} newer versions"
        yield f"  behind   {versions}, for {engine['lag_seconds']:.0f} s{trouble}"


def _print(session: Session, view: View) -> None:
    lines = [line for engine in view["engines"] for line in engine_lines(engine)]
    print_result(view, lines, as_json=session.as_json)


def _serves(engine: View) -> str:
    active = engine["active"]
    if active is None:
        return "nothing of ours"
    if engine["knowledge"] in ("confirmed", "assumed") and engine["state"] != "unreachable":
        return _version(active)
    return f"what is not known, {_version(active)} was given to it last"


def _version(version: View) -> str:
    return f"step {version['step']} (seq {version['seq']}, {version['manifest']})"


def _limit(timeout_s: float | None) -> float:
    return TIMEOUT_S if timeout_s is None else timeout_s
