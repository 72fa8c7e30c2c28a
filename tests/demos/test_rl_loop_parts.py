"""The parts of the RL loop by themselves: what learns, what goes over the wire, what is left out."""

from __future__ import annotations

import subprocess
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch: make torch")

from demos.rl_loop.intake import Intake  # noqa: E402
from demos.rl_loop.policy import Experience, Learner, build_policy, sample  # noqa: E402
from demos.rl_loop.report import RunReport, SamplerReport, draw  # noqa: E402
from demos.rl_loop.rollouts import Group, RunIsOver, deliver  # noqa: E402
from demos.rl_loop.task import DIGITS, LENGTH, make_prompts, rewards_of  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
GROUP = Group("sampler-1", "b3:00", 0, [[3, 1, 2, 0, 5]], [[0, 1, 2, 3, 4]], [[-1.5, -0.5, -2.0, -1.0, -3.0]])


@pytest.fixture
def intake():
    made = Intake(groups_max=2, off_policy_steps_max=1)
    made.published("b3:00", 0)
    yield made
    made.end()


def test_the_reward_counts_the_places_that_are_right():
    rewards = rewards_of(torch.tensor(GROUP.prompts), torch.tensor(GROUP.answers))
    assert rewards.tolist() == [[1.0, 1.0, 1.0, 1.0, 0.0]]


def test_answers_come_with_the_chances_that_they_had():
    generator = torch.Generator().manual_seed(1)
    policy, prompts = build_policy(), make_prompts(64, generator)
    answers, log_chances = sample(policy, prompts, generator)
    digits = torch.nn.functional.one_hot(prompts, DIGITS).float().flatten(1)
    expected = policy(digits).view(-1, LENGTH, DIGITS).log_softmax(2).gather(2, answers[..., None])[..., 0]
    assert torch.allclose(log_chances, expected, atol=1e-5)


def test_rollouts_that_are_three_steps_old_still_teach():
    torch.manual_seed(7)
    generator = torch.Generator().manual_seed(7)
    policy, sampling = build_policy(), build_policy()
    learner, rewards = Learner(policy, steps=30), []
    behind = [{name: weight.clone() for name, weight in policy.state_dict().items()} for _ in range(3)]
    for _ in range(30):
        behind.append({name: weight.clone() for name, weight in policy.state_dict().items()})
        sampling.load_state_dict(behind.pop(0))
        prompts = make_prompts(512, generator)
        answers, log_chances = sample(sampling, prompts, generator)
        experience = Experience(prompts, answers, log_chances, rewards_of(prompts, answers))
        rewards.append(float(experience.rewards.mean()))
        learner.learn(experience)
    assert rewards[0] < 0.25
    assert rewards[-1] > 0.6


def test_a_group_arrives_as_it_was_sent():
    assert Group.read(GROUP.written()) == GROUP


@pytest.mark.parametrize(
    "broken",
    [
        b"[]",
        b"{}",
        b"not json",
        GROUP.written()[:-4],
        replace(GROUP, answers=[]).written(),
        replace(GROUP, prompts=[[1, 2]]).written(),
        replace(GROUP, prompts=[[9, 1, 2, 0, 5]]).written(),
        replace(GROUP, log_chances=[[float("nan")] * LENGTH]).written(),
        replace(GROUP, log_chances=[[0.5] * LENGTH]).written(),
    ],
)
def test_what_is_no_group_is_refused(broken):
    with pytest.raises(ValueError):
        Group.read(broken)


def test_fresh_rollouts_are_used_and_old_ones_are_dropped_by_their_age(intake):
    assert deliver(intake.url, GROUP) is True
    intake.published("b3:01", 1)
    assert deliver(intake.url, replace(GROUP, digest="b3:01", step=1)) is True
    intake.published("b3:02", 2)
    assert deliver(intake.url, GROUP) is False  # two steps old at the door
    assert intake.take().step == 1  # the first one grew too old while it waited
    assert (intake.used, intake.dropped) == ({1: 1}, {2: 2})
    assert intake.by_digest == {"b3:00": 2, "b3:01": 1}


@pytest.mark.parametrize("stranger", [replace(GROUP, digest="b3:ff"), replace(GROUP, step=5)])
def test_rollouts_of_a_version_that_was_never_published_are_counted_apart(intake, stranger):
    assert deliver(intake.url, stranger) is False
    assert (intake.unknown, dict(intake.by_digest)) == (1, {})


def test_rollouts_that_come_before_their_version_was_noted_are_judged_after_that(intake):
    answers: list[bool] = []
    early = replace(GROUP, digest="b3:01", step=1)
    with intake.publishing():
        delivering = threading.Thread(target=lambda: answers.append(deliver(intake.url, early)))
        delivering.start()
        delivering.join(0.5)
        assert delivering.is_alive()
        intake.published("b3:01", 1)
    delivering.join(20)
    assert (answers, intake.unknown) == ([True], 0)


def test_a_sampler_waits_while_the_trainer_has_enough(intake):
    for _ in range(2):
        deliver(intake.url, GROUP)
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(deliver(intake.url, GROUP)))
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    intake.take()
    waiting.join(20)
    assert answers == [True]


def test_a_sampler_is_told_that_the_run_is_over(intake):
    intake.end()
    with pytest.raises(RunIsOver):
        deliver(intake.url, GROUP)


def test_a_body_that_is_no_group_is_a_bad_request(intake):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(intake.url, data=b"{}"), timeout=20)
    assert caught.value.code == 400


def test_the_summary_has_a_histogram_and_the_curve_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib: make setup")
    samplers = {"sampler-1": SamplerReport(activated=[0, 1], pauses_s=[0.001])}
    report = RunReport(
        rewards=[0.2, 0.9], published={0: "a", 1: "b"}, publish_s=[0.1], used={0: 1, 2: 400}, samplers=samplers
    )
    lines = report.lines()
    assert lines[0] == "reward      0.200 untrained, 0.550 at the end (1.000 is perfect)"
    assert [line.split()[0] for line in lines[-2:]] == ["0", "2"]
    draw(report, tmp_path / "new/reward.png")
    assert (tmp_path / "new/reward.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--steps", "0"], "not a number"), (["--steps", "5", "--kill", "node"], "more")]
)
def test_what_cannot_be_run_is_said_at_once(arguments, says):
    command = [sys.executable, "-m", "demos.rl_loop", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert says in done.stderr
