"""Whole swarms of real machines on a virtual clock: one seed is one run.

The hard day of fifty nodes is lived through with 60 seeds here; `SHARDCAST_SIM_SEEDS=200` (or any number) in the environment asks for more,
at two to three seconds each.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from shardcast_proto.errors import InvariantViolated
from shardcast_relay import RelayConfig
from tests.sim.world import Broken, Host, Link, Version, World

SEEDS = int(os.environ.get("SHARDCAST_SIM_SEEDS", "60"))
GROUP = 10


def swarm(seed: int, *, hosts: int, **settings: Any) -> tuple[World, Host, list[Host]]:
    """Start an origin and `hosts` others, which know only the first two, one after another; `settings` are the world's."""
    world = World(seed, **settings)
    links = [Link(up, 4 * up, latency) for up in (5e6, 12e6, 25e6) for latency in (0.005, 0.02, 0.06)]
    origin = world.add_host(Link())
    world.start(origin)
    others: list[Host] = []
    for number in range(hosts):
        host = world.add_host(links[(number * 7) % len(links)])
        world.at(0.02 * number, world.start, host, origin, *others[:1])
        others.append(host)
    return world, origin, others


def finish(world: World, version: Version, hosts: list[Host], *, within_s: float = 300.0) -> None:
    """Run until every host of `hosts` has the version."""
    world.run(world.now_s + within_s, lambda: all(version.blob in host.completed_at_s for host in hosts))
    late = [host for host in hosts if version.blob not in host.completed_at_s]
    if late:
        host = late[0]
        why = host.machine.explain(version.blob)
        story = "\n".join(map(str, host.machine.story.about()[-15:]))
        raise Broken(f"{len(late)} hosts never completed; host {host.number}: {why}\n{story}")


def settle(world: World) -> None:
    """Let everything under way end, and check that each command had exactly one ending."""
    world.run(world.now_s + 2 * world.config.fetch_idle_timeout_s, lambda: False)
    alive = [host for host in world.hosts.values() if host.is_alive]
    for host in alive:
        if host.fetches or len(host.machine.downloads.fetches):
            raise Broken(f"host {host.number} has fetches that never ended")
        host.orders.check_all(world.now_s)


def hard_day(seed: int, *, hosts: int = 49, chunk_count: int = 32, is_logging: bool = False) -> World:
    """An origin and others with 2 % loss; one relay dies, one lies; with every third seed control messages overtake each other."""
    is_mixing = seed % 3 == 0
    world, origin, others = swarm(
        seed, hosts=hosts, loss=0.02, check_every=7, is_logging=is_logging, is_mixing=is_mixing
    )
    world.run(4.0)
    liar, victim = others[5 + seed % (hosts // 3)], others[-1 - seed % (hosts // 3)]
    liar.is_lying = True
    version = world.publish(origin, chunk_count=chunk_count)
    world.later(0.3 + (seed % 5) * 0.3, lambda: world.kill(victim, is_black_hole=bool(seed % 2)))
    honest = [host for host in others if host not in (liar, victim)]
    finish(world, version, honest)
    settle(world)
    for host in honest:
        quarantined = [p for p, r in host.machine.downloads.reputations.items() if r.bad_chunks]
        assert set(quarantined) <= {liar.peer}, "an honest peer was quarantined"
    world.times_lied_to = sum(bool(bad_chunks_of(host, liar)) for host in honest)
    return world


def bad_chunks_of(host: Host, liar: Host) -> int:
    """Return how many bad chunks a host has had from the liar."""
    record = host.machine.downloads.reputations.get(liar.peer)
    return record.bad_chunks if record else 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("group", range(0, SEEDS, GROUP))
def test_fifty_nodes_complete_with_loss_a_dead_relay_and_a_lying_one(group: int) -> None:
    times_lied_to = 0
    for seed in range(group, min(group + GROUP, SEEDS)):
        times_lied_to += hard_day(seed).times_lied_to
    assert times_lied_to, "nobody ever asked the liar: the case tests nothing"


def test_a_relay_serves_chunks_while_it_still_fetches_others() -> None:
    """Origin → relay → client in a line: the client gets its first chunks long before the relay has the last."""
    world = World(1, config=RelayConfig(carried_fetches_max=0))
    origin, relay, client = world.add_host(), world.add_host(), world.add_host()
    world.start(origin)
    world.start(relay, origin)
    world.run(2.0)
    # from now on the origin's record names no address, so the client can fetch nothing from it
    origin.contact = replace(origin.contact, dial=(), serve=())
    world.start(client, relay)
    world.run(3.0)
    version = world.publish(origin, chunk_count=64, chunk_bytes=1 << 20)
    first_at: list[float] = []
    world.run(60.0, lambda: bool(client.disk.get(version.blob)) and not first_at.append(world.now_s))  # type: ignore[func-returns-value]
    assert first_at and version.blob not in relay.completed_at_s
    finish(world, version, [client])
    assert client.chunks_from[relay.peer] > 0


def test_peers_carry_most_of_the_bytes_of_a_slow_origin() -> None:
    world, origin, others = swarm(3, hosts=12)
    world.run(4.0)
    version = world.publish(origin, chunk_count=200)
    finish(world, version, others)
    copies = origin.sent_bytes / (version.chunk_count * version.chunk_bytes)
    assert copies < 6, f"the origin sent {copies:.1f} copies to 12 peers"


def test_a_second_version_supersedes_the_first_in_flight() -> None:
    world, origin, others = swarm(4, hosts=10)
    world.run(4.0)
    world.publish(origin, chunk_count=400)
    world.run(5.0)
    second = world.publish(origin, chunk_count=40)
    finish(world, second, others, within_s=60.0)


def test_a_late_joiner_catches_up() -> None:
    world, origin, others = swarm(5, hosts=6)
    world.run(4.0)
    version = world.publish(origin, chunk_count=40)
    finish(world, version, others)
    late = world.add_host()
    world.start(late, others[0])
    finish(world, version, [late], within_s=60.0)


def test_a_blob_completes_after_its_last_holder_comes_back() -> None:
    world, origin, others = swarm(6, hosts=3)
    world.run(4.0)
    version = world.publish(origin, chunk_count=400)
    world.run(5.0)
    assert not any(version.blob in host.completed_at_s for host in others)
    world.kill(origin, is_black_hole=False)
    world.run(40.0)
    assert not any(version.blob in host.completed_at_s for host in others)
    assert "waiting for a holder" in others[0].machine.explain(version.blob)
    world.revive(origin, *others)
    finish(world, version, others)


def fingerprint(seed: int) -> str:
    """Return a digest of everything that happened in one run."""
    world = hard_day(seed, hosts=20, chunk_count=24, is_logging=True)
    state = [
        (host.number, sorted(host.completed_at_s.values()), host.sent_bytes, host.control_bytes)
        for host in world.hosts.values()
    ]
    world.log.update(repr((world.events, state)).encode())
    return world.log.hexdigest()


def test_one_seed_is_one_run_under_any_hash_seed() -> None:
    prints = set()
    for hash_seed in ("0", "1", "4242"):
        code = "from tests.sim.test_swarm import fingerprint; print(fingerprint(11))"
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        prints.add(done.stdout)
    assert len(prints) == 1


def test_the_checker_sees_a_claimed_chunk_that_the_disk_lacks() -> None:
    world, origin, others = swarm(7, hosts=3)
    world.run(4.0)
    version = world.publish(origin, chunk_count=40)
    world.run(4.3)
    others[0].disk[version.blob] &= others[0].disk[version.blob] - 1
    with pytest.raises((Broken, InvariantViolated)):
        world.run(10.0)
