"""Publish to pull between real daemons: the main job."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardcast.api_client import ApiClient
from shardcast.pull import pull
from shardcast_proto.errors import NotFound, StoreError
from tests.loopback.daemons import swarm, tree_of, until

pytestmark = pytest.mark.timeout(180)


def test_every_node_ends_with_the_published_bytes_of_two_steps(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        others = made.others(origin, "relay-1", "relay-2", "client-1", "client-2")
        for step in (1, 2):
            path = made.checkpoint(step)
            published = origin.publish(path, step)
            assert published["event"] == "published" and published["seq"] == step
            for node in others:
                view = node.wait_complete(step)
                assert view["manifest"] == published["manifest"]
                assert view["chunks_verified"] + _adopted(view) == view["chunks"]
                assert node.pulled_tree(step) == tree_of(path)


def test_a_file_is_served_over_http_with_a_range(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        (client,) = made.others(origin, "client")
        path = made.checkpoint(1)
        origin.publish(path, 1)
        client.wait_complete(1)
        name = "model.safetensors.index.json"
        part = client.get_bytes(f"channels/demo/versions/1/files/{name}", {"Range": "bytes=10-99"})
        assert part == (path / name).read_bytes()[10:100]


def test_a_node_that_joins_late_catches_up(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        path = made.checkpoint(1)
        origin.publish(path, 1)
        (late,) = made.others(origin, "late")
        late.wait_complete(1)
        assert late.pulled_tree(1) == tree_of(path)


def test_everybody_completes_without_the_origin_once_its_chunks_are_out(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        first, second = made.others(origin, "first", "second")
        path = made.checkpoint(1)
        origin.publish(path, 1)
        first.wait_complete(1)
        second.wait_complete(1)
        origin.kill()
        third = made.daemon("third", bootstrap=first).wait_ready()
        third.wait_complete(1)
        assert third.pulled_tree(1) == tree_of(path)
        assert third.version(1)["bytes_from_origin"] == 0


def test_publishing_a_step_again_is_told_apart_by_its_content(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        first = origin.publish(made.checkpoint(1), 1)
        again = origin.publish(made.checkpoint(1), 1)
        assert again["existing"] and again["seq"] == first["seq"] and again["manifest"] == first["manifest"]
        other = origin.publish(made.checkpoint(2), 1)
        assert other["problem"]["status"] == 409 and "step 1" in other["problem"]["detail"]
        assert [view["seq"] for view in origin.get("channels/demo/versions")["versions"]] == [1]


def test_going_back_to_old_weights_moves_no_bytes(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        (client,) = made.others(origin, "client")
        old, new = made.checkpoint(1), made.checkpoint(2)
        for path, step in ((old, 1), (new, 2)):
            origin.publish(path, step)
            client.wait_complete(step)
        received = client.get("status")["received_bytes"]
        back = origin.publish(old, 3)
        view = client.wait_complete(3)
        assert view["seq"] == back["seq"] == 3
        assert client.get("status")["received_bytes"] == received


def test_a_restarted_node_goes_on_with_what_it_has(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        (client,) = made.others(origin, "client")
        path = made.checkpoint(1)
        origin.publish(path, 1)
        client.wait_complete(1)
        assert client.stop() == 0
        client.start().wait_ready()
        assert client.version(1)["state"] == "complete"
        assert client.get("status")["received_bytes"] == 0
        assert client.pulled_tree(1) == tree_of(path)


def test_no_pull_passes_on_what_was_written_through_an_earlier_one(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        (client,) = made.others(origin, "client")
        path = made.checkpoint(1)
        origin.publish(path, 1)
        client.wait_complete(1)
        api, first = ApiClient(client.ready["api"]), tmp_path / "first"
        pull(api, client.version(1), first)
        large = max(first.iterdir(), key=lambda file: file.stat().st_size)
        assert large.stat().st_nlink > 1, "nothing was linked, so nothing is tested"
        large.chmod(0o644)
        with large.open("r+b") as file:
            file.write(b"written through the link")
        with pytest.raises(StoreError, match="has other bytes"):
            pull(api, client.version(1), tmp_path / "second")
        assert not (tmp_path / "second").exists()
        until(lambda: bool(client.version(1)["state"] == "complete"), 60)
        assert client.pulled_tree(1) == tree_of(path)


def test_a_pull_of_a_version_that_retention_took_says_so(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin("--keep", "1")
        for step in (1, 2):
            origin.publish(made.checkpoint(step), step)
        until(lambda: bool(origin.version(1)["state"] == "gone"), 30)
        with pytest.raises(NotFound, match="step 1 is not held any more"):
            pull(ApiClient(origin.ready["api"]), origin.version(1), tmp_path / "late")


def _adopted(view: dict[str, object]) -> int:
    """Return the chunks that came from another version on this disk (unchanged files are linked, not fetched)."""
    chunks, verified = view["chunks"], view["chunks_verified"]
    assert isinstance(chunks, int) and isinstance(verified, int)
    assert 0 <= chunks - verified <= 4, "only config.json and the index may be adopted"
    return chunks - verified
