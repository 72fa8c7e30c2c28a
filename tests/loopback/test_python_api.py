"""What trainers and engines import: `Publisher` and `Subscriber`, through real nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from shardcast import Published, Publisher, RawTensor, Subscriber, Version
from shardcast_proto.errors import ConfigError, Conflict, DaemonUnreachable, NotFound, NotReady, TrustError
from tests.loopback.daemons import Daemon, swarm, tree_of, until

CONFIG = b'{"model_type": "llama", "tie_word_embeddings": true}'


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """An origin, with a client that has joined it."""
    with swarm(tmp_path_factory.mktemp("python-api")) as made:
        origin = made.origin()
        (client,) = made.others(origin, "client")
        yield made, origin, client


def weights(value: int) -> dict[str, np.ndarray]:
    embedding = np.full((64, 32), value, "f4")
    return {"model.embed.weight": embedding, "model.norm.weight": np.full(32, value, "f2"), "lm_head.weight": embedding}


def publisher_of(daemon: Daemon) -> Publisher:
    return Publisher(daemon.ready["api"], "demo")


def subscriber_of(daemon: Daemon) -> Subscriber:
    return Subscriber(daemon.ready["api"], "demo")


def spools_of(daemon: Daemon) -> list[Path]:
    return list((daemon.data / "spool").iterdir())


def test_tensors_of_a_trainer_arrive_at_an_engine(pair):
    _, origin, client = pair
    state = weights(1)
    published = publisher_of(origin).publish(state, step=1, files={"config.json": CONFIG})
    for array in state.values():
        array[:] = 99  # the next training step
    assert isinstance(published, Published)
    assert (published.channel, published.step, published.existing) == ("demo", 1, False)
    version = subscriber_of(client).wait(1, timeout_s=60)
    assert (version.manifest, version.seq, version.is_complete) == (published.manifest, published.seq, True)
    assert version.path is not None
    assert (version.path / "config.json").read_bytes() == CONFIG
    loaded = load_file(version.path / "model.safetensors")
    assert sorted(loaded) == ["model.embed.weight", "model.norm.weight"], "a tied weight is there once"
    assert all((array == 1).all() for array in loaded.values())
    header = (version.path / "model.safetensors").read_bytes()
    assert b'"lm_head.weight":"model.embed.weight"' in header
    assert spools_of(origin) == []


def test_an_iterator_of_tensors_makes_shards(pair):
    made, origin, client = pair
    tensors = ((f"layers.{n}", RawTensor("BF16", (64, 64), np.full(4096, n, "u2").tobytes())) for n in range(6))
    published = publisher_of(origin).publish(tensors, step=2, shard_bytes=20_000)
    subscriber = subscriber_of(client)
    target = subscriber.pull(subscriber.wait(2, timeout_s=60), made.home / "pulled")
    assert len(list(target.glob("model-*-of-00003.safetensors"))) == 3
    index = json.loads((target / "model.safetensors.index.json").read_text())
    assert sorted(index["weight_map"]) == [f"layers.{n}" for n in range(6)]
    assert sum(len(data) for data in tree_of(target).values()) == published.bytes


def test_a_directory_is_published_from_where_the_caller_is(pair, monkeypatch):
    made, origin, client = pair
    path = made.checkpoint(3, 1 << 20)
    monkeypatch.chdir(path.parent)
    published = publisher_of(origin).publish(path.name, step=3, link="copy")
    assert published.link == "copy"
    version = subscriber_of(client).wait(3, timeout_s=60)
    with subscriber_of(client).hold(version) as held:
        assert tree_of(held) == tree_of(path)


def test_the_same_tensors_again_sign_nothing_and_other_ones_are_a_conflict(pair):
    _, origin, _ = pair
    publisher = publisher_of(origin)
    first = publisher.publish(weights(4), step=4)
    again = publisher.publish(weights(4), step=4)
    assert (again.existing, again.seq, again.manifest) == (True, first.seq, first.manifest)
    with pytest.raises(Conflict):
        publisher.publish(weights(5), step=4)
    rewound = publisher.publish(weights(5), step=4, rewind=True)
    assert rewound.seq == first.seq + 1
    assert spools_of(origin) == []


def test_publish_can_wait_until_a_neighbour_is_complete(pair):
    _, origin, client = pair
    published = publisher_of(origin).publish(weights(6), step=6, wait=1, timeout_s=60)
    assert published.complete_neighbours >= 1
    assert client.version(6)["have_chunks"] == client.version(6)["chunks"]


def test_an_engine_that_waits_for_something_newer_gets_the_newest(pair):
    _, origin, client = pair
    subscriber = subscriber_of(client)
    before = subscriber.wait(timeout_s=60)
    with pytest.raises(NotReady):
        subscriber.wait(newer_than=before, timeout_s=0.2)
    found: list[Version] = []
    waiting = threading.Thread(target=lambda: found.append(subscriber.wait(newer_than=before, timeout_s=60)))
    waiting.start()
    published = publisher_of(origin).publish(weights(7), step=7)
    waiting.join(70)
    assert [version.seq for version in found] == [published.seq]
    latest = subscriber.latest()
    assert latest is not None
    assert (latest, subscriber.versions()[0].seq) == (found[0], published.seq)


def test_a_failing_iterator_publishes_nothing_and_leaves_nothing(pair):
    _, origin, _ = pair

    def broken():
        yield "a", np.ones(8, "f4")
        raise RuntimeError("a device is lost")

    before = origin.get("channels/demo/versions")["versions"][0]["seq"]
    with pytest.raises(RuntimeError, match="a device is lost"):
        publisher_of(origin).publish(broken(), step=8)
    assert origin.get("channels/demo/versions")["versions"][0]["seq"] == before
    assert spools_of(origin) == []


@pytest.mark.parametrize(
    ("checkpoint", "more"),
    [
        (7, {}),
        ({"w": "text"}, {}),
        ({"w": np.ones(2)}, {"files": {"../x": b""}}),
        ({"w": np.ones(2)}, {"files": {"model.safetensors": b""}}),
        ({"w": np.ones(2)}, {"files": {"model.safetensors/x": b""}}),
        ({"w": np.ones(2)}, {"files": {"d": b"1", "d/x": b"2"}}),
        ({"w": np.ones(2)}, {"files": {"d/x": b"2", "d": b"1"}}),
        ({"w": np.ones(2)}, {"files": {"d": 123}}),
        ({"w": np.ones(2)}, {"files": {3: b""}}),
        ({"w": np.ones(2)}, {"shard_bytes": 0}),
        ({"a\ud800": np.ones(2)}, {}),
        ("somewhere", {"files": {"config.json": b"{}"}}),
    ],
)
def test_what_is_no_checkpoint_is_refused(pair, checkpoint, more):
    _, origin, _ = pair
    with pytest.raises(ConfigError):
        publisher_of(origin).publish(checkpoint, step=9, **more)
    assert spools_of(origin) == []


def test_errors_are_those_of_the_daemon(pair, tmp_path):
    _, origin, client = pair
    with pytest.raises(TrustError):
        publisher_of(client).publish(weights(1), step=9)
    with pytest.raises(NotFound):
        Publisher(origin.ready["api"], "other").publish(weights(1), step=9)
    with pytest.raises(NotFound):
        publisher_of(origin).publish(tmp_path / "nothing", step=9)
    with pytest.raises(NotFound):
        Subscriber(origin.ready["api"], "other").versions()
    with pytest.raises(DaemonUnreachable):
        Publisher("127.0.0.1:1", "demo").publish(weights(1), step=9)
    with pytest.raises(NotReady):
        subscriber_of(client).wait(12345, timeout_s=0.2)


def test_a_version_that_is_gone_is_not_waited_for(tmp_path):
    with swarm(tmp_path) as made:
        origin = made.origin("--keep", "1")
        publisher, subscriber = publisher_of(origin), subscriber_of(origin)
        assert subscriber.latest() is None
        first = publisher.publish(weights(1), step=1)
        version = subscriber.wait(1, timeout_s=20)
        with subscriber.hold(version) as held:
            publisher.publish(weights(2), step=2)
            publisher.publish(weights(3), step=3)
            assert (held / "model.safetensors").exists()
        until(lambda: _state(origin, first.manifest) == "gone", 60, origin.log)
        with pytest.raises(NotFound):
            subscriber.wait(1, timeout_s=20)
        with pytest.raises((NotFound, NotReady)), subscriber.hold(version):
            pass


def _state(daemon: Daemon, manifest: str) -> str:
    state: str = daemon.get(f"channels/demo/versions/{manifest}")["state"]
    return state


def test_the_address_may_come_from_the_environment(pair, monkeypatch):
    _, origin, _ = pair
    monkeypatch.setenv("SHARDCAST_API", origin.ready["api"])
    assert Subscriber(None, "demo").versions() == subscriber_of(origin).versions()


def test_the_imports_are_light():
    script = (
        "import sys, shardcast.publisher, shardcast.subscriber\n"
        "from shardcast import Publisher, Subscriber\n"
        "print(*sorted({'aiohttp', 'asyncio', 'libp2p', 'numpy', 'pydantic', 'torch', 'trio'} & set(sys.modules)))"
    )
    # wherever this process has the project from, installed or not
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert done.stdout.split() == []


def test_a_torch_model_is_published_with_its_ties(pair):
    torch = pytest.importorskip("torch", reason="needs torch: make torch")
    from safetensors.torch import load_model

    class Model(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(100, 16, dtype=torch.bfloat16)
            self.head = torch.nn.Linear(16, 100, bias=False, dtype=torch.bfloat16)
            self.head.weight = self.embed.weight

    _, origin, client = pair
    model = Model()
    expected = model.embed.weight.detach().clone()
    publisher_of(origin).publish(model.state_dict(), step=20)
    with torch.no_grad():
        model.embed.weight.zero_()
    version = subscriber_of(client).wait(20, timeout_s=60)
    loaded = Model()
    load_model(loaded, version.path / "model.safetensors")
    assert torch.equal(loaded.embed.weight, expected)
    assert loaded.head.weight.data_ptr() == loaded.embed.weight.data_ptr()
