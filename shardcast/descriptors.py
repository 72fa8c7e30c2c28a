"""The limit of open files: raised as far as the system lets us, and shared out among those who take connections from strangers."""

from __future__ import annotations

import resource
from typing import Final

#: More than the caps of all ports and a version of many files need together; some systems allow a billion.
_AIM: Final = 65_536


def raise_limit() -> None:
    """Raise the soft limit of this process to the hard one: the usual 1,024 is for programs that call `select`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    aim = _AIM if hard == resource.RLIM_INFINITY else min(hard, _AIM)
    if soft != resource.RLIM_INFINITY and soft < aim:
        resource.setrlimit(resource.RLIMIT_NOFILE, (aim, hard))


def at_most(count: int, *, share: float) -> int:
    """Return `count`, or this share of the limit where that is less, but one at least."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return count if soft == resource.RLIM_INFINITY else max(min(count, int(soft * share)), 1)
