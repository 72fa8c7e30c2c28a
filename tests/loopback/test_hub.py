"""A channel pulled by the stock `huggingface_hub`, and by transformers, from real nodes with nothing but `HF_ENDPOINT` set."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from shardcast import Published, Publisher
from tests.loopback.api_node import CHANNEL, WEIGHTS, eventually, folder_node, serving
from tests.loopback.daemons import MIB, swarm, tree_of, until
from tests.loopback.hub_client import HubError, environment, hub, wire_to

pytest.importorskip("huggingface_hub", reason="needs huggingface_hub: make setup")

REPO = "shardcast/demo"
FILES = {"config.json": b'{"model_type": "llama"}', "tokenizer/vocab 1.json": b'{"a": 0}'}


def weights(value: float) -> dict[str, np.ndarray]:
    return {"model.embed.weight": np.full((512, 512), value, "f4"), "model.norm.weight": np.ones(512, "f4")}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """An origin with two published steps, and a client that has both."""
    with swarm(tmp_path_factory.mktemp("hub")) as made:
        origin = made.origin()
        (client,) = made.others(origin, "client")
        published = []
        for step in (1, 2):
            published.append(Publisher(origin.ready["api"], "demo").publish(weights(step), step=step, files=FILES))
            client.wait_complete(step)  # else the second one might supersede the first on its way
        yield client, published


def commit_of(published: Published) -> str:
    return published.manifest.removeprefix("b3:")[:40]


def test_a_snapshot_is_the_newest_version_byte_for_byte(nodes, tmp_path):
    client, (_, second) = nodes
    path = Path(hub(client.ready["api"], tmp_path, "snapshot_download", repo_id=REPO))
    assert path.name == commit_of(second)
    assert tree_of(path) == client.pulled_tree(2)
    assert sorted(tree_of(path)) == ["config.json", "model.safetensors", "tokenizer/vocab 1.json"]


def test_a_snapshot_into_a_directory_is_the_version_too(nodes, tmp_path):
    client, _ = nodes
    into = tmp_path / "here"
    hub(client.ready["api"], tmp_path / "home", "snapshot_download", repo_id=REPO, local_dir=str(into))
    assert {name: data for name, data in tree_of(into).items() if ".cache" not in name} == client.pulled_tree(2)


def test_a_step_and_a_commit_name_a_version(nodes, tmp_path):
    client, (first, _) = nodes
    for revision in ("1", commit_of(first)):
        path = Path(hub(client.ready["api"], tmp_path, "snapshot_download", repo_id=REPO, revision=revision))
        assert (path.name, tree_of(path)) == (commit_of(first), client.pulled_tree(1))
    info = hub(client.ready["api"], tmp_path, "model_info", repo_id=REPO, revision="1")
    assert info["sha"] == commit_of(first)
    assert info["shardcast"]["manifest"] == first.manifest
    assert info["shardcast"]["step"] == 1


def test_one_file_is_pulled_by_itself(nodes, tmp_path):
    client, _ = nodes
    arguments = {"repo_id": REPO, "filename": "tokenizer/vocab 1.json", "revision": "main"}
    path = hub(client.ready["api"], tmp_path, "hf_hub_download", **arguments)
    assert Path(path).read_bytes() == FILES["tokenizer/vocab 1.json"]
    blobs = [blob.name for blob in Path(path).resolve().parent.iterdir()]
    assert all(name.startswith("blake3-") for name in blobs), "a name for every file system"


def test_a_client_looks_before_it_pulls(nodes, tmp_path):
    client, _ = nodes
    api = client.ready["api"]
    assert hub(api, tmp_path, "list_repo_files", repo_id=REPO) == sorted([*FILES, "model.safetensors"])
    assert hub(api, tmp_path, "list_repo_tree", repo_id=REPO) == [
        ["RepoFile", "config.json"],
        ["RepoFile", "model.safetensors"],
        ["RepoFolder", "tokenizer"],
    ]
    below = hub(api, tmp_path, "list_repo_tree", repo_id=REPO, path_in_repo="tokenizer", expand=True)
    assert below == [["RepoFile", "tokenizer/vocab 1.json"]]
    assert hub(api, tmp_path, "file_exists", repo_id=REPO, filename="config.json")
    assert not hub(api, tmp_path, "file_exists", repo_id=REPO, filename="config.yaml")
    assert hub(api, tmp_path, "revision_exists", repo_id=REPO, revision="2")
    assert not hub(api, tmp_path, "revision_exists", repo_id=REPO, revision="3")
    assert not hub(api, tmp_path, "repo_exists", repo_id="shardcast/other")


def test_a_download_that_is_cut_goes_on_where_it_was(tmp_path):
    with swarm(tmp_path) as made, wire_to(made.origin().ready["api"]) as wire:
        # a client writes blocks of 10 MB, and goes on after the last whole one
        big = {"w": np.random.default_rng(7).standard_normal(6_000_000, "f4")}
        Publisher(made.daemons[0].ready["api"], "demo").publish(big, step=1)
        wire.cut_after_bytes = 15_000_000
        path = hub(wire.url, tmp_path / "home", "hf_hub_download", repo_id=REPO, filename="model.safetensors")
        assert Path(path).read_bytes() == made.daemons[0].pulled_tree(1)["model.safetensors"]
        first, rest = wire.gets()
    assert (first.range, rest.range, rest.path) == (None, "bytes=10485760-", first.path)


def test_a_file_that_is_read_slowly_stays_until_it_is_read(tmp_path):
    with swarm(tmp_path) as made:
        origin = made.origin("--keep", "1")
        publisher = Publisher(origin.ready["api"], "demo")
        big = {"w": np.random.default_rng(7).standard_normal(8_000_000, "f4")}
        publisher.publish(big, step=1)
        expected = origin.pulled_tree(1)["model.safetensors"]
        url = f"{origin.ready['api']}/{REPO}/resolve/1/model.safetensors"
        with urllib.request.urlopen(url, timeout=60) as reply:
            beginning = reply.read(MIB)
            for step in (2, 3):
                publisher.publish(weights(step), step=step)
            until(lambda: origin.version(2)["state"] == "gone", 60, origin.log)
            assert origin.version(1)["state"] == "complete"
            assert beginning + reply.read() == expected
        until(lambda: origin.version(1)["state"] == "gone", 60, origin.log)


def test_a_newer_step_brings_only_the_files_that_changed(tmp_path):
    with swarm(tmp_path) as made, wire_to(made.origin().ready["api"]) as wire:
        publisher = Publisher(made.daemons[0].ready["api"], "demo")
        fetched = []
        for step in (1, 2):
            publisher.publish(weights(step), step=step, files=FILES)
            wire.asked.clear()
            path = Path(hub(wire.url, tmp_path / "home", "snapshot_download", repo_id=REPO))
            assert tree_of(path) == made.daemons[0].pulled_tree(step)
            fetched.append(sorted({asked.path.split("/", 5)[5] for asked in wire.gets()}))
    assert fetched == [sorted([*FILES, "model.safetensors"]), ["model.safetensors"]]


@pytest.mark.parametrize(
    ("function", "arguments", "kind"),
    [
        ("snapshot_download", {"repo_id": "shardcast/other"}, "RepositoryNotFoundError"),
        ("snapshot_download", {"repo_id": "somebody/demo"}, "RepositoryNotFoundError"),
        ("hf_hub_download", {"repo_id": "gpt2", "filename": "config.json"}, "RepositoryNotFoundError"),
        ("snapshot_download", {"repo_id": REPO, "revision": "77"}, "RevisionNotFoundError"),
        ("snapshot_download", {"repo_id": REPO, "revision": "refs/pr/1"}, "RevisionNotFoundError"),
        ("snapshot_download", {"repo_id": REPO, "revision": "0" * 40}, "RevisionNotFoundError"),
        ("model_info", {"repo_id": REPO, "revision": "9" * 19}, "RevisionNotFoundError"),
        ("hf_hub_download", {"repo_id": REPO, "filename": "config.json", "revision": "x"}, "RevisionNotFoundError"),
        ("hf_hub_download", {"repo_id": REPO, "filename": "none.json"}, "RemoteEntryNotFoundError"),
        ("list_repo_tree", {"repo_id": REPO, "path_in_repo": "none"}, "RemoteEntryNotFoundError"),
        ("dataset_info", {"repo_id": REPO}, "RepositoryNotFoundError"),
    ],
)
def test_what_is_not_there_is_said_in_the_words_of_the_hub(nodes, tmp_path, function, arguments, kind):
    client, _ = nodes
    with pytest.raises(HubError) as caught:
        hub(client.ready["api"], tmp_path, function, **arguments)
    assert caught.value.kinds[0] == kind, caught.value


def test_a_nodes_token_is_what_hf_token_holds(tmp_path):
    token, token_file = "correct-horse-battery", tmp_path / "token"
    token_file.write_text(token)
    token_file.chmod(0o600)
    with swarm(tmp_path) as made:
        checkpoint = made.checkpoint(1, MIB)
        api = made.origin("--token-file", str(token_file), "--publish-root", str(tmp_path)).ready["api"]
        Publisher(api, "demo", token=token).publish(checkpoint, step=1)
        for wrong in (None, "wrong-horse-battery"):
            with pytest.raises(HubError, match="bearer token") as caught:
                hub(api, tmp_path / "a", "snapshot_download", repo_id=REPO, token=wrong)
            assert caught.value.kinds[0] == "HfHubHTTPError"
        path = hub(api, tmp_path / "a", "snapshot_download", repo_id=REPO, token=token)
        assert tree_of(Path(path)) == tree_of(checkpoint)


async def test_a_version_on_its_way_is_asked_for_again_until_it_is_there(tmp_path):
    node = folder_node(tmp_path)
    node.versions_held[0].is_complete = False
    async with serving(node) as (_, caller):
        api = f"http://127.0.0.1:{caller.address[1]}"
        with wire_to(api) as wire:
            wanted = {"repo_id": f"shardcast/{CHANNEL}", "filename": "weights 1.bin", "revision": "20"}
            pull = asyncio.create_task(asyncio.to_thread(hub, wire.url, tmp_path / "home", "hf_hub_download", **wanted))
            await eventually(lambda: len(wire.asked) >= 2)
            assert not pull.done()
            node.complete()
            assert Path(await pull).read_bytes() == WEIGHTS
            # meanwhile the newest complete one was to be had
            node.versions_held[0].is_complete = False
            main = await asyncio.to_thread(hub, api, tmp_path / "home", "model_info", repo_id=f"shardcast/{CHANNEL}")
    assert main["shardcast"]["step"] == 10


def test_the_command_hf_pulls_with_nothing_but_the_endpoint_set(nodes, tmp_path):
    client, _ = nodes
    done = subprocess.run(
        [str(Path(sys.executable).with_name("hf")), "download", REPO, "--revision", "1", "--local-dir", "here"],
        cwd=tmp_path,
        env=environment(client.ready["api"], tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here/model.safetensors").read_bytes() == client.pulled_tree(1)["model.safetensors"]


def test_transformers_loads_a_model_from_a_channel(tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch: make torch")
    transformers = pytest.importorskip("transformers", reason="needs transformers: make torch")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(vocab_size=64, num_key_value_heads=2, **sizes)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    digests = (
        "{n: hashlib.sha256(t.view(torch.int16).numpy().tobytes()).hexdigest() for n, t in model.state_dict().items()}"
    )
    script = (
        "import hashlib, json, sys, torch, transformers\n"
        "model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], revision='5', dtype='auto')\n"
        f"print(json.dumps({digests}))"
    )
    expected = eval(digests, {"hashlib": hashlib, "torch": torch, "model": model})
    with swarm(tmp_path) as made:
        origin = made.origin()
        (client,) = made.others(origin, "client")
        model.save_pretrained(tmp_path / "tiny")
        Publisher(origin.ready["api"], "demo").publish(tmp_path / "tiny", step=5)
        client.wait_complete(5)
        done = subprocess.run(
            [sys.executable, "-c", script, REPO],
            cwd=tmp_path,  # where no directory has the repository's name
            env=environment(client.ready["api"], tmp_path / "home"),
            capture_output=True,
            text=True,
            timeout=110,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected
