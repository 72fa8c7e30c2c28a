"""The task: sort five digits below six. The reward is the share of places that are right; chance gives a sixth."""

from __future__ import annotations

from typing import Any, Final

import torch

#: How many digits a prompt has, and how many kinds of digits there are.
LENGTH: Final = 5
DIGITS: Final = 6


def make_prompts(count: int, generator: Any) -> Any:
    """Draw prompts: integers of shape [count, LENGTH] below DIGITS."""
    return torch.randint(DIGITS, (count, LENGTH), generator=generator)


def rewards_of(prompts: Any, answers: Any) -> Any:
    """Return which places of the answers are right: floats 0 or 1 of shape [count, LENGTH]."""
    return (answers == prompts.sort(dim=1).values).float()
