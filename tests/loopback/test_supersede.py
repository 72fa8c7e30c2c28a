"""What becomes of a version that is not whole when a newer one comes, by the policy of the operator."""

from __future__ import annotations

from pathlib import Path

import pytest

from .daemons import MIB, Daemon, Swarm, swarm, until

#: Step 1 has 12 MiB, 5 s at 20 Mbit/s; step 2 has 2 MiB.
UPLINK = ("--up-mbps", "20")


def meet_two_steps(made: Swarm, policy: str) -> Daemon:
    """Publish step 2 while step 1 is on its way to a client, and return the client once it holds step 2 complete."""
    origin = made.origin("--supersede", policy, *UPLINK)
    (client,) = made.others(origin, "client", flags=("--supersede", policy))
    origin.publish(made.checkpoint(1, 12 * MIB), 1)
    until(lambda: client.version(1)["have_chunks"] > 0, 20.0, client.log)
    origin.publish(made.checkpoint(2, 2 * MIB), 2)
    client.wait_complete(2)
    return client


def test_the_newest_version_comes_first(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        client = meet_two_steps(made, "newest")
        assert client.version(1)["state"] in ("staging", "gone")
        assert "event=version_dropped" not in client.log()


def test_a_version_that_was_begun_can_be_finished_first(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        client = meet_two_steps(made, "finish")
        older, newer = client.wait_complete(1), client.version(2)
        assert older["completed_at"] < newer["completed_at"]


def test_an_older_version_can_be_given_up(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        client = meet_two_steps(made, "drop")
        assert client.version(1)["state"] not in ("staging", "complete")
        assert "event=version_dropped" in client.log()


@pytest.mark.parametrize("policy", ["oldest", "1"])
def test_a_policy_that_is_none_is_refused_with_those_there_are(tmp_path: Path, policy: str) -> None:
    with swarm(tmp_path) as made:
        daemon = made.daemon("wrong", "--supersede", policy)
        until(lambda: not daemon.is_running, 20.0)
        assert all(word in daemon.log() for word in ("supersede", "newest", "finish", "drop"))
