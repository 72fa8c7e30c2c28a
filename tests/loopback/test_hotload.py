"""From a trainer's tensors to an engine's, through real nodes: the manifest comes from the node, the bytes from its directory."""

from __future__ import annotations

import pytest

from shardcast import Publisher, Subscriber
from shardcast_proto.errors import HotLoadError, IntegrityError
from tests.loopback.daemons import swarm

torch = pytest.importorskip("torch", reason="needs torch: make torch")


def test_a_published_model_becomes_live_and_a_damaged_one_does_not(tmp_path):
    from shardcast import HotLoader

    class Model(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(100, 16, dtype=torch.bfloat16)
            self.head = torch.nn.Linear(16, 100, bias=False, dtype=torch.bfloat16)
            self.head.weight = self.embed.weight

    with swarm(tmp_path) as made:
        origin = made.origin()
        (client,) = made.others(origin, "client")
        publisher = Publisher(origin.ready["api"], "demo")
        subscriber = Subscriber(client.ready["api"], "demo")
        trained, engine = Model(), Model()
        where = engine.embed.weight.data_ptr()
        with HotLoader(engine) as loader:
            for step in (1, 2):
                with torch.no_grad():
                    trained.embed.weight.normal_()
                published = publisher.publish(trained.state_dict(), step=step)
                version = subscriber.wait(step, timeout_s=60)
                with subscriber.hold(version):
                    loader.load(version)
                    done = loader.commit(timeout_s=60)
                assert done.digest == published.manifest == loader.current
                assert torch.equal(engine.head.weight, trained.embed.weight)
            publisher.publish({"embed.weight": torch.zeros(3)}, step=3)
            with pytest.raises(HotLoadError, match="does not fit"):
                loader.load(subscriber.wait(3, timeout_s=60))
            # another program writes to the node's files after they were verified
            version = subscriber.wait(1, timeout_s=60)
            file = version.path / "model.safetensors"
            data = file.read_bytes()
            file.chmod(0o644)
            file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
            with pytest.raises(IntegrityError, match="changed on this host's disk"):
                loader.load(version)
            assert torch.equal(engine.head.weight, trained.embed.weight)
        assert engine.embed.weight.data_ptr() == where
