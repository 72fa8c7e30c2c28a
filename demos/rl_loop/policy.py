"""The policy: a network of 80,000 weights that names a digit for each place, and the step that improves it.

The loss is PPO's: the ratio between the policy now and the one that sampled, clipped. That ratio is what lets rollouts of an older
version teach a newer one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch

from .task import DIGITS, LENGTH

_HIDDEN: Final = 256
_CLIP: Final = 0.2
_ENTROPY_WEIGHT: Final = 0.003
_GRADIENT_NORM_MAX: Final = 0.5
_PASSES: Final = 4
_LEARNING_RATE: Final = 0.002
#: What is left of it at the last step: rollouts are a few steps old, and a policy that is nearly right gains nothing by large steps.
_LEARNING_RATE_LEFT: Final = 0.1


def build_policy() -> Any:
    """Make the network, with random weights."""
    return torch.nn.Sequential(
        torch.nn.Linear(LENGTH * DIGITS, _HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Linear(_HIDDEN, _HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Linear(_HIDDEN, LENGTH * DIGITS),
    )


def sample(policy: Any, prompts: Any, generator: Any) -> tuple[Any, Any]:
    """Answer prompts.

    Returns:
        The answers, integers of shape [count, LENGTH], and the logarithms of the chances that they had, of the same shape.
    """
    with torch.no_grad():
        chances = _distribution(policy, prompts).probs
        answers = torch.multinomial(chances.flatten(0, 1), 1, generator=generator).view(prompts.shape)
        return answers, chances.gather(2, answers[..., None])[..., 0].log()


@dataclass(frozen=True)
class Experience:
    """What a step learns from. All of shape [count, LENGTH]."""

    prompts: Any
    answers: Any
    #: Logarithms of the chances under the version that sampled.
    log_chances: Any
    rewards: Any


class Learner:
    """Improves a policy in place."""

    def __init__(self, policy: Any, *, steps: int) -> None:
        self._policy = policy
        self._optimizer = torch.optim.Adam(policy.parameters(), lr=_LEARNING_RATE)
        self._rate = torch.optim.lr_scheduler.LinearLR(self._optimizer, 1.0, _LEARNING_RATE_LEFT, total_iters=steps)

    def learn(self, experience: Experience) -> None:
        """Take one step: a few passes over what was sampled."""
        advantages = experience.rewards - experience.rewards.mean(dim=0)
        advantages = advantages / (advantages.std() + 1e-6)
        for _ in range(_PASSES):
            now = _distribution(self._policy, experience.prompts)
            ratio = (now.log_prob(experience.answers) - experience.log_chances).exp()
            clipped = ratio.clamp(1 - _CLIP, 1 + _CLIP)
            gain = torch.minimum(ratio * advantages, clipped * advantages).mean()
            loss = -gain - _ENTROPY_WEIGHT * now.entropy().mean()
            self._optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._policy.parameters(), _GRADIENT_NORM_MAX)
            self._optimizer.step()
        self._rate.step()


def _distribution(policy: Any, prompts: Any) -> Any:
    digits = torch.nn.functional.one_hot(prompts, DIGITS).float().flatten(1)
    return torch.distributions.Categorical(logits=policy(digits).view(-1, LENGTH, DIGITS))
