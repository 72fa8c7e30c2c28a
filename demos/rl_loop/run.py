"""The run: hosts are started, watched, killed if that is wanted, and asked at the end whether they tell the truth."""

from __future__ import annotations

import json
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

from shardcast.api_client import ApiClient
from shardcast.channel_files import create_channel
from shardcast_proto.errors import NotFound

from .hosts import Host, HostFailed, python_path
from .report import RunReport, SamplerReport

CHANNEL: Final = "policy"
SAMPLERS: Final = ("sampler-1", "sampler-2")
VICTIM: Final = SAMPLERS[-1]
#: Groups that a step learns from, and rollouts in one.
GROUPS: Final = 8
BATCH: Final = 64
#: A killed sampler is started again after this, as a service manager would.
_RESTART_S: Final = 1.0
#: How long nothing may happen. Two cores are enough for a step in a fraction of a second.
_SILENCE_S: Final = 180.0
#: How long samplers may take to make the last version live.
_LAST_S: Final = 60.0

Kill = Literal["sampler", "node"]


@dataclass(frozen=True)
class RunOptions:
    """What a run is.

    Attributes:
        steps: How many steps the trainer takes.
        max_off_policy_steps: Rollouts of an older version are dropped.
        kill: What of one sampler's host gets a SIGKILL after a third of the steps, and is started again.
        seed: Of weights and prompts. When versions arrive is up to the machine, so two runs differ a little.
    """

    steps: int = 100
    max_off_policy_steps: int = 4
    kill: Kill | None = None
    seed: int = 7

    @property
    def kill_step(self) -> int:
        """After which step the kill comes."""
        return max(1, self.steps // 3)

    @property
    def node_returns_step(self) -> int:
        """After which step a killed node is started again: the weights that its sampler has are too old by then."""
        return self.kill_step + self.max_off_policy_steps + 3


def run_loop(options: RunOptions, say: Callable[[str], None]) -> RunReport:
    """Run the loop from the first process to the last.

    Raises:
        HostFailed: A process ended by itself, or nothing happened for long, or a rollout's digest was never published.
    """
    python_path()
    with tempfile.TemporaryDirectory(prefix="shardcast-rl-") as home, _hosts(Path(home)) as hosts:
        say(f"three nodes serve: {', '.join(hosts)}")
        run = _Run(options, hosts, say)
        run.go()
        run.check_digests()
        return run.report


@contextmanager
def _hosts(home: Path) -> Iterator[dict[str, Host]]:
    """Start one node for each host, and end everything."""
    files = create_channel(CHANNEL, home / "operator")
    hosts = {name: Host(home, name, files.root) for name in ("trainer", *SAMPLERS)}
    try:
        trainer = hosts["trainer"]
        trainer.start_node("--origin-key", str(files.origin_key))
        trainer.wait_ready()
        for name in SAMPLERS:
            hosts[name].start_node("--bootstrap", trainer.address)
        for name in SAMPLERS:
            hosts[name].wait_ready()
        yield hosts
    finally:
        for host in hosts.values():
            host.stop()


class _Run:
    """One run: events come in, a report grows."""

    def __init__(self, options: RunOptions, hosts: dict[str, Host], say: Callable[[str], None]) -> None:
        self._options = options
        self._hosts = hosts
        self._say = say
        self._events: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self._intake = ""
        self._is_ended = False
        #: What is down on purpose, with what brings it back.
        self._restart_at_s: float | None = None
        self._is_node_down = False
        self.report = RunReport(samplers={name: SamplerReport() for name in SAMPLERS})

    def go(self) -> None:
        """Start the programs and follow them to the end."""
        options = self._options
        trainer = self._hosts["trainer"].start_program(
            "trainer",
            *("--channel", CHANNEL, "--steps", str(options.steps), "--groups", str(GROUPS)),
            *("--max-off-policy-steps", str(options.max_off_policy_steps), "--seed", str(options.seed)),
        )
        began_s = time.monotonic()
        self._listen("trainer", trainer)
        self._follow(lambda: self._is_ended, _SILENCE_S)
        self.report.seconds = time.monotonic() - began_s
        self._follow(self._all_have_the_last, _LAST_S)

    def check_digests(self) -> None:
        """Ask the trainer's node, which signs what it publishes, for every digest that came with a rollout.

        Raises:
            HostFailed: It does not know one of them.
        """
        api = ApiClient(self._hosts["trainer"].api)
        for digest in self.report.by_digest:
            try:
                step = api.version(CHANNEL, digest)["step"]
            except NotFound as error:
                raise HostFailed(f"rollouts came from {digest}, which was never published") from error
            if self.report.published.get(step) != digest:
                raise HostFailed(f"rollouts came from {digest}, which is not step {step}")

    def _follow(self, is_done: Callable[[], bool], silence_s: float) -> None:
        heard_s = time.monotonic()
        while not is_done():
            try:
                name, event = self._events.get(timeout=0.1)
            except queue.Empty:
                self._look_after_hosts()
                if time.monotonic() - heard_s > silence_s:
                    last = {name: sampler.activated[-1:] for name, sampler in self.report.samplers.items()}
                    raise HostFailed(f"nothing has happened for {silence_s:g} s; live are the steps {last}") from None
                continue
            heard_s = time.monotonic()
            getattr(self, f"_on_{event.pop('event')}")(name, event)
            self._look_after_hosts()

    def _listen(self, name: str, output: IO[str]) -> None:
        def read() -> None:
            for line in output:
                self._events.put((name, json.loads(line)))

        threading.Thread(target=read, daemon=True).start()

    def _look_after_hosts(self) -> None:
        if self._restart_at_s is not None:
            if time.monotonic() >= self._restart_at_s:
                self._restart_at_s = None
                self._start_sampler(VICTIM)
        elif not self._is_node_down:
            self._hosts[VICTIM].check()
        for name in ("trainer", SAMPLERS[0]):
            self._hosts[name].check()

    def _start_sampler(self, name: str) -> None:
        host, seed = self._hosts[name], self._options.seed + 1 + SAMPLERS.index(name)
        arguments = ["--name", name, "--channel", CHANNEL, "--deliver", self._intake]
        output = host.start_program(
            "sampler", *arguments, "--batch", str(BATCH), "--seed", str(seed + 100 * host.starts)
        )
        self.report.samplers[name].starts = host.starts
        self._listen(name, output)

    def _all_have_the_last(self) -> bool:
        return all(self._options.steps in sampler.activated for sampler in self.report.samplers.values())

    # --- what the programs tell ---

    def _on_listening(self, name: str, event: dict[str, Any]) -> None:
        self._intake = event["url"]
        for sampler in SAMPLERS:
            self._start_sampler(sampler)

    def _on_learnt(self, name: str, event: dict[str, Any]) -> None:
        self.report.rewards.append(event["reward"])
        step, made_by = event["step"], sorted(set(event["made_by"]))
        if step == 1 or step % 10 == 0:
            bar = "█" * round(30 * event["reward"])
            self._say(
                f"step {step:>4}  reward {event['reward']:.3f} {bar:<30}  rollouts by version {_span(made_by)},"
                f" {event['dropped']:,} dropped"
            )

    def _on_published(self, name: str, event: dict[str, Any]) -> None:
        self.report.published[event["step"]] = event["digest"]
        self.report.version_bytes = event["bytes"]
        self.report.publish_s.append(event["seconds"])
        if self._options.kill is not None and event["step"] == self._options.kill_step:
            self._kill(self._options.kill, event["step"])
        if self._is_node_down and event["step"] >= self._options.node_returns_step:
            self._say(f"step {event['step']:>4}  the node of {VICTIM} is started again")
            self._hosts[VICTIM].start_node()  # where its sampler looks for it; that one waits
            self._is_node_down = False

    def _on_activated(self, name: str, event: dict[str, Any]) -> None:
        sampler = self.report.samplers[name]
        sampler.activated.append(event["step"])
        sampler.passed_over += event["passed_over"]
        sampler.pauses_s.append(event["pause_seconds"])

    def _on_node_away(self, name: str, event: dict[str, Any]) -> None:
        self._say(f"           {name} has lost its node, and samples on with the weights that it has")

    def _on_trainer_away(self, name: str, event: dict[str, Any]) -> None:
        self._say(f"           {name} cannot deliver: {event['reason']}")

    def _on_ended(self, name: str, event: dict[str, Any]) -> None:
        report = self.report
        report.used = {int(lag): count for lag, count in event["used"].items()}
        report.dropped = {int(lag): count for lag, count in event["dropped"].items()}
        report.by_digest, report.unknown = event["by_digest"], event["unknown"]
        self._is_ended = True

    def _kill(self, what: Kill, step: int) -> None:
        victim = self._hosts[VICTIM]
        if what == "node":
            victim.kill_node()
            self._is_node_down = True
            self.report.killed = (f"the node of {VICTIM}", step)
        else:
            victim.kill_program()
            self._restart_at_s = time.monotonic() + _RESTART_S
            self.report.killed = (VICTIM, step)
        self._say(f"step {step:>4}  kill -9: {self.report.killed[0]}")


def _span(steps: list[int]) -> str:
    return str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
