"""The command `check`: what a container's health check runs."""

from __future__ import annotations

from typing import Final

from shardcast_proto.errors import ShardcastError

from .output import print_result
from .session import Session

#: A daemon that needs longer for this answer than three seconds is not well.
_TIMEOUT_S: Final = 3.0


class Unhealthy(ShardcastError):
    """The daemon cannot do its work, or does not answer. Container engines know no other code for that than 1."""

    exit_code, http_status, code = 1, 503, "unhealthy"


def check(session: Session) -> None:
    """Print why the daemon is ready.

    Raises:
        Unhealthy: It is not, for whatever reason.
        ConfigError: Nobody was asked: the address is none.
    """
    api = session.client()
    try:
        view = api.ready(timeout_s=_TIMEOUT_S)
    except ShardcastError as error:
        raise Unhealthy(error.message, hint=error.hint, cause=error.code, **error.facts) from error
    print_result(view, [str(view["reason"])], as_json=session.as_json)
