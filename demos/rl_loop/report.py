"""What came out of a run: numbers for programs, a few lines and a curve for people."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

#: Rewards are means over this many steps at either end.
ENDS: Final = 5


@dataclass
class SamplerReport:
    """What one sampler did.

    Attributes:
        activated: The steps of the versions that it made live, in their order.
        passed_over: How many it left out because there was a newer one.
        pauses_s: How long each commit kept its batches waiting.
        starts: How often it was started.
    """

    activated: list[int] = field(default_factory=list)
    passed_over: int = 0
    pauses_s: list[float] = field(default_factory=list)
    starts: int = 0


@dataclass
class RunReport:
    """A run.

    Attributes:
        rewards: The mean reward of the rollouts that each step learnt from, the first at [0]: those were made by the untrained policy.
        published: The digests of the versions by their steps.
        version_bytes: The size of one version.
        publish_s: How long publishing took, step by step.
        used, dropped: Rollouts by how many steps old they were.
        by_digest: Rollouts that arrived, by the digest that they carry.
        unknown: Rollouts with a digest that was never published.
        samplers: By name.
        killed: What was killed, and after which step; None if nothing was.
        seconds: How long the steps took.
    """

    rewards: list[float] = field(default_factory=list)
    published: dict[int, str] = field(default_factory=dict)
    version_bytes: int = 0
    publish_s: list[float] = field(default_factory=list)
    used: dict[int, int] = field(default_factory=dict)
    dropped: dict[int, int] = field(default_factory=dict)
    by_digest: dict[str, int] = field(default_factory=dict)
    unknown: int = 0
    samplers: dict[str, SamplerReport] = field(default_factory=dict)
    killed: tuple[str, int] | None = None
    seconds: float = 0.0

    @property
    def reward_at_start(self) -> float:
        """The mean reward of the untrained policy."""
        return self.rewards[0]

    @property
    def reward_at_end(self) -> float:
        """The mean reward over the last steps."""
        return statistics.fmean(self.rewards[-ENDS:])

    def document(self) -> dict[str, Any]:
        """Return everything, as JSON can carry it."""
        return {**asdict(self), "reward_at_start": self.reward_at_start, "reward_at_end": self.reward_at_end}

    def lines(self) -> list[str]:
        """Return the summary for people."""
        steps, used, dropped = len(self.rewards), sum(self.used.values()), sum(self.dropped.values())
        publish_ms = 1000 * statistics.median(self.publish_s)
        rows = [
            ("reward", f"{self.reward_at_start:.3f} untrained, {self.reward_at_end:.3f} at the end (1.000 is perfect)"),
            ("time", f"{self.seconds:.0f} s for {steps} steps"),
            ("published", f"{len(self.published)} versions of {self.version_bytes:,} bytes, {publish_ms:.0f} ms each"),
        ]
        for name, sampler in self.samplers.items():
            pause_ms = 1000 * statistics.median(sampler.pauses_s)
            again = f", started {sampler.starts} times" if sampler.starts > 1 else ""
            text = f"{len(sampler.activated)} versions activated, {sampler.passed_over} passed over, pause {pause_ms:.2f} ms{again}"
            rows.append((name, text))
        rows.append(("rollouts", f"{used:,} used, {dropped:,} dropped as too old, {self.unknown} of unknown versions"))
        if self.killed is not None:
            rows.append(("killed", f"{self.killed[0]} after step {self.killed[1]}, with SIGKILL; the run went on"))
        lines = [f"{name:<11} {text}" for name, text in rows]
        return [*lines, "", "steps old   rollouts used", *self._histogram()]

    def _histogram(self) -> list[str]:
        most = max(self.used.values())
        return [
            f"{lag:>9}   {'█' * round(40 * count / most) or '▏'} {count:,}" for lag, count in sorted(self.used.items())
        ]


def draw(report: RunReport, path: Path) -> None:
    """Draw the reward by step as a PNG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6), dpi=100, layout="constrained")
    axes.plot(range(1, len(report.rewards) + 1), report.rewards, color="#1f6f8b", linewidth=1.8)
    axes.axhline(report.reward_at_start, color="#999999", linewidth=1, linestyle=":", label="untrained policy")
    if report.killed is not None:
        axes.axvline(report.killed[1], color="#b03a2e", linewidth=1, linestyle="--", label=f"{report.killed[0]} killed")
    axes.set(xlabel="trainer step", ylabel="mean reward", ylim=(0, 1), xlim=(1, max(2, len(report.rewards))))
    axes.set_title(f"Sorting five digits: {len(report.published)} versions, 2 samplers, no shared files", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)
