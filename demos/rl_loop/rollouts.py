"""A group of rollouts on its way to the trainer: one batch of one sampler, made by one version, as a JSON document."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from typing import Any

from .task import DIGITS, LENGTH

#: A sampler waits this long for its turn; the trainer answers sooner when it is slow.
_POST_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Group:
    """Rollouts of one version.

    Attributes:
        sampler: Who made it.
        digest: The version's manifest, `b3:HEX`.
        step: The version's step.
        prompts, answers: Rows of digits.
        log_chances: Rows of what the answers' digits had as logarithms of chances.
    """

    sampler: str
    digest: str
    step: int
    prompts: list[list[int]]
    answers: list[list[int]]
    log_chances: list[list[float]]

    @property
    def size(self) -> int:
        """How many rollouts it has."""
        return len(self.prompts)

    @classmethod
    def read(cls, data: bytes) -> Group:
        """Read a group.

        Raises:
            ValueError: It is none.
        """
        try:
            group = cls(**json.loads(data))
            rows = [len(part) for part in (group.prompts, group.answers, group.log_chances)]
            digits = [digit for part in (group.prompts, group.answers) for row in part for digit in row]
            widths = {len(row) for part in (group.prompts, group.answers, group.log_chances) for row in part}
            has_chances = all(-math.inf < value <= 0 for row in group.log_chances for value in row)
        except TypeError as error:
            raise ValueError(f"no group of rollouts: {error}") from error
        has_digits = all(digit in range(DIGITS) for digit in digits)
        if not (len(set(rows)) == 1 and widths == {LENGTH} and has_digits and has_chances):
            raise ValueError("the rows of a group do not fit together")
        return group

    def written(self) -> bytes:
        """Return the document."""
        return json.dumps(asdict(self)).encode()


class RunIsOver(Exception):
    """The trainer takes no more rollouts."""


def deliver(url: str, group: Group) -> bool:
    """Hand a group to the trainer, and say whether it was fresh enough to be taken.

    Raises:
        RunIsOver: The trainer has all that it wanted.
        OSError: The trainer does not answer, or is busy for long.
    """
    request = urllib.request.Request(url, data=group.written(), headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=_POST_TIMEOUT_S) as response:
            answer: dict[str, Any] = json.load(response)
            return bool(answer["taken"])
    except urllib.error.HTTPError as error:
        if error.code == 410:
            raise RunIsOver from error
        raise
