"""What the calls of a `HotLoader` answer."""

from __future__ import annotations

from dataclasses import dataclass

from .memory import MemoryPlan


@dataclass(frozen=True, kw_only=True)
class Staged:
    """A version that a commit will make current.

    Attributes:
        digest: Its name, `b3:HEX`.
        bytes: What will be written; tied weights count once. 0 when it is current already.
        memory: What the loader holds; None when nothing was staged yet.
        seconds: What staging took, verifying included.
        can_restore: Whether a commit that fails in the middle can write the old weights back.
    """

    digest: str
    bytes: int
    memory: MemoryPlan | None
    seconds: float
    can_restore: bool


@dataclass(frozen=True, kw_only=True)
class Committed:
    """A version that became current.

    Attributes:
        digest: Its name, `b3:HEX`; None for weights of no known version, after a rollback to those that an engine started with.
        previous: What was current before, likewise.
        bytes: What was written. 0 when it was current already.
        pause_seconds: How long the weights could not be read, the check included.
        waited_seconds: How long readers in `serving` were waited for, before that.
    """

    digest: str | None
    previous: str | None
    bytes: int
    pause_seconds: float
    waited_seconds: float
