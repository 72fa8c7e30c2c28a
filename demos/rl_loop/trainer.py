"""The trainer: takes rollouts, learns from them, publishes the weights after every step.

    python -m demos.rl_loop.trainer --api URL --channel NAME …

It says what it does in lines of JSON on stdout. Weights leave it through its own node alone.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from shardcast import Publisher

from .events import end_with_stdin, tell, wait_for_the_end
from .intake import Intake
from .policy import Experience, Learner, build_policy
from .rollouts import Group
from .task import rewards_of


def main() -> None:
    """Run until all steps are taken, then until stdin ends."""
    options = _options()
    end_with_stdin()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    intake = Intake(groups_max=options.groups, off_policy_steps_max=options.max_off_policy_steps)
    tell("listening", url=intake.url)
    policy = build_policy()
    learner = Learner(policy, steps=options.steps)
    publisher = Publisher(options.api, options.channel)
    for step in range(options.steps + 1):
        if step > 0:
            groups = [intake.take() for _ in range(options.groups)]
            experience = _experience_of(groups)
            learner.learn(experience)
            reward = float(experience.rewards.mean())
            used, dropped = sum(intake.used.values()), sum(intake.dropped.values())
            tell(
                "learnt", step=step, reward=reward, made_by=[group.step for group in groups], used=used, dropped=dropped
            )
        began_s = time.monotonic()
        config = json.dumps({"model_type": "rl_loop", "step": step}).encode()
        with intake.publishing():
            published = publisher.publish(policy.state_dict(), step=step, files={"config.json": config})
            intake.published(published.manifest, step)
        seconds = time.monotonic() - began_s
        tell("published", step=step, digest=published.manifest, bytes=published.bytes, seconds=seconds)
    intake.end()
    tell(
        "ended",
        used=dict(intake.used),
        dropped=dict(intake.dropped),
        by_digest=dict(intake.by_digest),
        unknown=intake.unknown,
    )
    # samplers are told that the run is over until whoever started this has seen enough
    wait_for_the_end()


def _experience_of(groups: list[Group]) -> Experience:
    prompts = torch.tensor([row for group in groups for row in group.prompts])
    answers = torch.tensor([row for group in groups for row in group.answers])
    log_chances = torch.tensor([row for group in groups for row in group.log_chances])
    return Experience(prompts, answers, log_chances, rewards_of(prompts, answers))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--api", required=True)
    parser.add_argument("--channel", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--groups", type=int, required=True, help="how many groups of rollouts a step learns from")
    parser.add_argument("--max-off-policy-steps", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
