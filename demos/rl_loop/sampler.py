"""A sampler: answers prompts with the newest weights that its node holds, and delivers what came of it.

    python -m demos.rl_loop.sampler --api URL --channel NAME --deliver URL …

One thread follows the channel, loads each newest version beside the weights that serve, and commits between two batches; the other one
samples. A node that is away is waited for, while the old weights go on serving.
"""

from __future__ import annotations

import argparse
import threading
import time
from typing import Final

import torch

from shardcast import HotLoader, Subscriber, Version
from shardcast_proto.errors import DaemonUnreachable, NotFound, NotReady

from .events import end_with_stdin, tell, wait_for_the_end
from .policy import build_policy, sample
from .rollouts import Group, RunIsOver, deliver
from .task import make_prompts

#: The smallest that takes a chunk of any version.
_SLAB_BYTES: Final = 8 * 1024 * 1024
_AGAIN_S: Final = 0.2


class Follower(threading.Thread):
    """Keeps the weights of a loader the newest that the node has.

    Attributes:
        step_of: The steps of the versions that were made live, by digest.
        has_weights: Set once there is a version to sample from.
        error: What ended the thread, if anything did.
    """

    def __init__(self, subscriber: Subscriber, loader: HotLoader) -> None:
        super().__init__(daemon=True)
        self._subscriber = subscriber
        self._loader = loader
        self.step_of: dict[str, int] = {}
        self.has_weights = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Follow for ever."""
        version: Version | None = None
        is_away = False
        try:
            while True:
                try:
                    version = self._activate_newer_than(version)
                    is_away = False
                except (DaemonUnreachable, NotFound, NotReady) as error:
                    # away, or it has deleted this version already: the next one is as good
                    if isinstance(error, DaemonUnreachable) and not is_away:
                        is_away = True
                        tell("node_away", reason=error.message)
                    time.sleep(_AGAIN_S)
        except BaseException as error:
            self.error = error
            self.has_weights.set()
            raise

    def _activate_newer_than(self, before: Version | None) -> Version:
        version = self._subscriber.wait(newer_than=before)
        with self._subscriber.hold(version):
            began_s = time.monotonic()
            self._loader.load(version)
            loaded_s = time.monotonic()
            self.step_of[version.manifest] = version.step
            committed = self._loader.commit()
        tell(
            "activated",
            step=version.step,
            digest=version.manifest,
            load_seconds=loaded_s - began_s,
            pause_seconds=committed.pause_seconds,
            passed_over=0 if before is None else version.seq - before.seq - 1,
        )
        self.has_weights.set()
        return version


def main() -> None:
    """Sample until the trainer says that the run is over, then follow until stdin ends."""
    options = _options()
    end_with_stdin()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(options.seed)
    policy = build_policy()
    loader = HotLoader(policy, slab_bytes=_SLAB_BYTES)
    follower = Follower(Subscriber(options.api, options.channel), loader)
    follower.start()
    follower.has_weights.wait()
    while follower.error is None:
        prompts = make_prompts(options.batch, generator)
        with loader.serving():
            digest = loader.current
            answers, log_chances = sample(policy, prompts, generator)
        if digest is None:
            raise SystemExit("the weights are torn")
        group = Group(
            sampler=options.name,
            digest=digest,
            step=follower.step_of[digest],
            prompts=prompts.tolist(),
            answers=answers.tolist(),
            log_chances=log_chances.tolist(),
        )
        try:
            if not deliver(options.deliver, group):
                time.sleep(_AGAIN_S)  # too old: give the node the time to bring something newer
        except RunIsOver:
            break
        except OSError as error:
            tell("trainer_away", reason=str(error))
            time.sleep(_AGAIN_S)
    if follower.error is not None:
        raise SystemExit(f"following the channel failed: {follower.error}")
    wait_for_the_end()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--api", required=True)
    parser.add_argument("--channel", required=True)
    parser.add_argument("--deliver", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
