"""The commands of `shardcast`, by name.

A command here only hands over what was given; the module that does its work is imported inside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

from .grammar import build
from .session import Session
from .usage import UsageError

#: How a shell asks for completions, as its first argument: no user types this.
COMPLETE: Final = "--complete"


def run(arguments: list[str]) -> int:
    """Run the command that the arguments name, and return its exit code.

    Raises:
        UsageError: They name none, or not with these flags.
        ShardcastError: What became of the command.
    """
    parser = build()
    if arguments[:1] == [COMPLETE]:
        from .candidates import print_candidates

        print_candidates(parser, arguments[1:])
        return 0
    given = parser.parse_args(arguments)
    if "command" not in given:
        if given.json:
            given.page.error("no command is named")
        given.page.print_help()
        return UsageError.exit_code
    _COMMANDS[given.command](given)
    return 0


def _channel_create(given: argparse.Namespace) -> None:
    from .channel import create

    create(given.name, given.dir, as_json=given.json)


def _publish(given: argparse.Namespace) -> None:
    from .publish import publish

    options = {"step": given.step, "rewind": given.rewind, "link": given.link}
    if given.wait != "announced":
        options["wait"] = given.wait
    if given.wait_marker is not None:
        options["wait_marker"] = given.wait_marker
    if given.timeout is not None:
        options["timeout_s"] = given.timeout
    publish(_session(given), given.path, given.channel, options)


def _pull(given: argparse.Namespace) -> None:
    from .pull import pull

    wait = given.wait or given.timeout is not None
    pull(_session(given), given.version, given.directory, wait=wait, timeout_s=given.timeout)


def _wait(given: argparse.Namespace) -> None:
    from .wait import wait

    if given.engine is not None and not given.activated:
        raise UsageError("--engine goes with --activated", hint="see shardcast wait --help")
    if given.activated:
        from .activate import wait_activated

        wait_activated(_session(given), given.version, engine=given.engine, timeout_s=given.timeout)
        return
    wait(_session(given), given.version, timeout_s=given.timeout)


def _activate(given: argparse.Namespace) -> None:
    from .activate import activate

    activate(_session(given), given.version, engine=given.engine, timeout_s=given.timeout)


def _rollback(given: argparse.Namespace) -> None:
    from .activate import resume, roll_back

    if given.resume:
        resume(_session(given), given.name, engine=given.engine)
    else:
        roll_back(_session(given), given.name, engine=given.engine, timeout_s=given.timeout)


def _ls(given: argparse.Namespace) -> None:
    from .ls import list_channels, list_versions

    if given.name is None:
        list_channels(_session(given))
    else:
        list_versions(_session(given), given.name)


def _show(given: argparse.Namespace) -> None:
    from .show import show

    show(_session(given), given.version)


def _status(given: argparse.Namespace) -> None:
    from .status import status

    status(_session(given))


def _peers(given: argparse.Namespace) -> None:
    from .peers import peers

    peers(_session(given))


def _tree(given: argparse.Namespace) -> None:
    from .tree import tree

    tree(_session(given), given.version)


def _top(given: argparse.Namespace) -> None:
    from .top import top

    top(_session(given), interval_s=given.interval, frames=given.frames)


def _check(given: argparse.Namespace) -> None:
    from .check import check

    check(_session(given))


def _verify(given: argparse.Namespace) -> None:
    from .verify import verify, verify_directory

    if given.directory is None:
        verify(_session(given), given.version)
    else:
        verify_directory(_session(given), given.version, given.directory)


def _pin(given: argparse.Namespace) -> None:
    from .keeping import pin

    pin(_session(given), given.version)


def _unpin(given: argparse.Namespace) -> None:
    from .keeping import unpin

    unpin(_session(given), given.version)


def _gc(given: argparse.Namespace) -> None:
    from .keeping import collect

    collect(_session(given), dry_run=given.dry_run)


def _demo(given: argparse.Namespace) -> None:
    from .demo import demo

    demo(size_bytes=given.bytes, keep=given.keep, as_json=given.json, progress=given.progress)


def _completion(given: argparse.Namespace) -> None:
    from .completion import print_script

    print_script(given.shell, as_json=given.json)


def _session(given: argparse.Namespace) -> Session:
    return Session(
        api=given.api, token_file=given.token_file, as_json=given.json, progress=getattr(given, "progress", None)
    )


_COMMANDS: Final[dict[str, Callable[[argparse.Namespace], None]]] = {
    "channel create": _channel_create,
    "publish": _publish,
    "pull": _pull,
    "wait": _wait,
    "activate": _activate,
    "rollback": _rollback,
    "ls": _ls,
    "show": _show,
    "status": _status,
    "peers": _peers,
    "tree": _tree,
    "top": _top,
    "check": _check,
    "verify": _verify,
    "pin": _pin,
    "unpin": _unpin,
    "gc": _gc,
    "demo": _demo,
    "completion": _completion,
}
