"""The whole interface of real daemons: events, pins, verification, spools, waiting for neighbours, metrics, publish roots."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.loopback.daemons import MIB, Daemon, swarm, until

pytestmark = pytest.mark.timeout(120)

PUBLISHED = "channels/demo/versions"


def ask(daemon: Daemon, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Make one request below /v1; return the status and what the JSON says."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{daemon.ready['api']}/v1/{path}", data=data, method=method, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=70) as response:
            status, answer = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, answer = error.code, error.read()
    return status, json.loads(answer) if answer else None


def lines_of(daemon: Daemon, path: str, body: object = None) -> list[dict[str, Any]]:
    """POST what is answered by a stream, and return all of its lines."""
    data = json.dumps(body or {}).encode()
    request = urllib.request.Request(
        f"{daemon.ready['api']}/v1/{path}", data=data, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=70) as response:
        assert response.headers["Content-Type"] == "application/x-ndjson"
        return [json.loads(line) for line in response.read().splitlines()]


def metrics_of(daemon: Daemon) -> dict[tuple[str, ...], float]:
    """Return the samples that a scrape sees, by name and label values."""
    with urllib.request.urlopen(f"{daemon.ready['api']}/metrics", timeout=10) as response:
        text = response.read().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class EventStream:
    """Server-sent events of a daemon's channel, read on a thread as they come."""

    def __init__(self, daemon: Daemon, last_id: str = "") -> None:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
        request = urllib.request.Request(f"{daemon.ready['api']}/v1/channels/demo/events", headers=headers)
        self._response = urllib.request.urlopen(request, timeout=70)
        assert self._response.headers["Content-Type"] == "text/event-stream"
        self.events: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        fields: dict[str, str] = {}
        for line in self._lines():
            name, _, value = line.partition(": ")
            fields[name] = value
            if not line and "data" in fields:
                event = json.loads(fields["data"])
                assert (event["id"], event["event"]) == (fields["id"], fields["event"])
                self.events.append(event)
            if not line:
                fields = {}

    def _lines(self) -> Iterator[str]:
        for line in self._response:
            yield line.decode().rstrip("\n")

    def kinds(self, step: int) -> list[str]:
        return [
            event["event"]
            for event in self.events
            if event["event"] != "snapshot" and event["versions"][0]["step"] == step
        ]

    def wait_for(self, kind: str, step: int) -> None:
        until(lambda: kind in self.kinds(step), 30.0, lambda: str(self.events))


def test_events_tell_the_life_of_each_version_and_are_read_on_from_any_of_them(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        (client,) = made.others(origin, "client", flags=("--keep", "1"))
        stream = EventStream(client)
        until(lambda: len(stream.events) == 1, 10.0)
        assert (stream.events[0]["event"], stream.events[0]["versions"]) == ("snapshot", [])
        origin.publish(made.checkpoint(1, MIB), 1)
        stream.wait_for("complete", 1)
        assert stream.kinds(1) == ["announced", "complete"]
        first = next(event for event in stream.events if event["event"] == "announced")
        origin.publish(made.checkpoint(2, MIB), 2)
        stream.wait_for("complete", 2)
        stream.wait_for("gone", 1)
        again = EventStream(client, first["id"])
        until(lambda: "gone" in again.kinds(1), 10.0)
        assert again.events == stream.events[2:]
        polled = client.get(f"channels/demo/events?since={first['id']}")
        assert polled == {"events": stream.events[2:], "next": stream.events[-1]["id"]}
        assert client.get(f"channels/demo/events?since={polled['next']}&timeout=0.2")["events"] == []
        assert client.stop() == 0
        client.start().wait_ready()
        (snapshot,) = client.get(f"channels/demo/events?since={polled['next']}&timeout=9")["events"]
        assert snapshot["event"] == "snapshot", "ids of an earlier run are not known any more"
        assert [view["step"] for view in snapshot["versions"]] == [2, 1]


def test_a_long_poll_ends_as_soon_as_something_happens(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        since = origin.get("channels/demo/events")["next"]
        polled: list[dict[str, Any]] = []
        waiting = threading.Thread(
            target=lambda: polled.append(origin.get(f"channels/demo/events?since={since}&timeout=60")), daemon=True
        )
        waiting.start()
        origin.publish(made.checkpoint(1, MIB), 1)
        waiting.join(20)
        assert polled and polled[0]["events"][0]["event"] == "announced"


def test_a_pinned_version_outlives_those_that_came_after_it(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin("--keep", "1")
        origin.publish(made.checkpoint(1, MIB), 1)
        assert ask(origin, "POST", f"{PUBLISHED}/1/pin")[1]["pinned"] is True
        for step in (2, 3):
            origin.publish(made.checkpoint(step, MIB), step)
        until(lambda: origin.version(2)["state"] == "gone", 20.0)
        assert (origin.version(1)["state"], origin.version(1)["pinned"]) == ("complete", True)
        assert ask(origin, "POST", f"{PUBLISHED}/2/pin")[0] == 404, "what is gone cannot be kept"
        assert ask(origin, "POST", "gc", {"dry_run": True})[1]["deleted"] == []
        assert ask(origin, "DELETE", f"{PUBLISHED}/1/pin")[1]["pinned"] is False
        doomed = ask(origin, "POST", "gc", {"dry_run": True})[1]
        assert doomed == {
            "deleted": [origin.version(1)["manifest"]],
            "bytes": origin.version(1)["bytes"],
            "dry_run": True,
        }
        assert origin.version(1)["state"] == "complete"
        assert ask(origin, "POST", "gc")[1] == {**doomed, "dry_run": False}
        assert origin.version(1)["state"] == "gone"
        assert not list((origin.data / "versions").glob(doomed["deleted"][0].removeprefix("b3:")))


def test_a_damaged_version_is_found_by_verify_and_fetched_again(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        (client,) = made.others(origin, "client")
        origin.publish(made.checkpoint(1, 4 * MIB), 1)
        view = client.wait_complete(1)
        *told, verified = lines_of(client, f"{PUBLISHED}/1/verify")
        assert all(line["event"] == "verifying" and line["total"] == view["bytes"] for line in told)
        assert (verified["event"], verified["chunks"], verified["bytes"]) == ("verified", view["chunks"], view["bytes"])
        damaged = max(Path(view["path"]).iterdir(), key=lambda path: path.stat().st_size)
        damaged.chmod(0o600)
        with damaged.open("r+b") as file:
            file.seek(1000)
            byte = file.read(1)
            file.seek(1000)
            file.write(bytes([byte[0] ^ 1]))
        stream = EventStream(client)
        status, problem = ask(client, "POST", f"{PUBLISHED}/1/verify")
        assert (status, problem["type"]) == (502, "urn:shardcast:error:integrity")
        assert (problem["facts"]["files"], problem["facts"]["wrong_chunks"]) == ([damaged.name], 1)
        stream.wait_for("complete", 1)
        assert stream.kinds(1) == ["failed", "complete"]
        assert lines_of(client, f"{PUBLISHED}/1/verify")[-1]["event"] == "verified"
        assert client.pulled_tree(1) == origin.pulled_tree(1)


def test_a_publication_ends_when_enough_neighbours_are_complete(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        others = made.others(origin, "a", "b")
        until(lambda: origin.get("status")["neighbours"] == 2, 20.0)
        *told, last = lines_of(
            origin, PUBLISHED, {"path": str(made.checkpoint(1)), "step": 1, "wait": 2, "timeout_s": 60}
        )
        assert (last["event"], last["complete_neighbours"]) == ("published", 2)
        assert all(view["have_chunks"] == view["chunks"] > 0 for view in (node.version(1) for node in others))
        assert any(line["event"] == "spreading" and line["wait_neighbours"] == 2 for line in told)
        last = lines_of(origin, PUBLISHED, {"path": str(made.checkpoint(1)), "step": 1, "wait": 3, "timeout_s": 0.5})[
            -1
        ]
        facts = last["problem"]["facts"]
        assert (last["event"], facts["reason"], facts["seq"]) == ("error", "deadline", 1)
        assert (facts["complete_neighbours"], facts["wait_neighbours"]) == (2, 3)


def test_a_directory_is_taken_once_its_marker_is_there(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        path = tmp_path / "late"
        wanted = {"path": str(path), "step": 1, "wait_marker": "STABLE", "timeout_s": 60}
        lines: list[list[dict[str, Any]]] = []
        waiting = threading.Thread(target=lambda: lines.append(lines_of(origin, PUBLISHED, wanted)), daemon=True)
        waiting.start()
        made.checkpoint(1, MIB).rename(path)
        waiting.join(0.5)
        assert waiting.is_alive() and origin.get(PUBLISHED)["versions"] == []
        (path / "STABLE").touch()
        waiting.join(30)
        (told,) = lines
        assert told[0] == {"event": "waiting", "marker": "STABLE"} and told[-1]["event"] == "published"
        status, problem = ask(origin, "POST", PUBLISHED, {**wanted, "wait_marker": "../STABLE"})
        assert (status, problem["type"]) == (400, "urn:shardcast:error:config")
        last = lines_of(origin, PUBLISHED, {**wanted, "wait_marker": "NEVER", "timeout_s": 0.3})[-1]
        assert last["problem"]["facts"]["reason"] == "deadline"


def test_a_spool_is_private_published_and_swept(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        (tmp_path / "elsewhere").mkdir()
        origin = made.origin("--publish-root", str(tmp_path / "elsewhere"))
        status, spool = ask(origin, "POST", "channels/demo/spool")
        path = Path(spool["path"])
        assert status == 201 and path.is_relative_to(origin.data) and path.stat().st_mode & 0o777 == 0o700
        for file in made.checkpoint(1, MIB).iterdir():
            file.rename(path / file.name)
        published = lines_of(origin, PUBLISHED, {"path": str(path), "step": 1})[-1]
        assert published["event"] == "published" and not path.exists()
        assert ask(origin, "DELETE", f"spools/{spool['spool']}")[0] == 404
        kept = ask(origin, "POST", "channels/demo/spool")[1]
        dropped = ask(origin, "POST", "channels/demo/spool")[1]
        assert ask(origin, "DELETE", f"spools/{dropped['spool']}")[0] == 204 and not Path(dropped["path"]).exists()
        assert origin.stop() == 0
        origin.start().wait_ready()
        assert not Path(kept["path"]).exists(), "what nobody has given back goes at the next start"
        (client,) = made.others(origin, "client")
        assert ask(client, "POST", "channels/demo/spool")[0] == 403, "a node that cannot publish lends nothing"


def test_only_what_lies_below_a_publish_root_is_read(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        allowed, outside = tmp_path / "allowed", made.checkpoint(2, MIB)
        allowed.mkdir()
        made.checkpoint(1, MIB).rename(allowed / "ckpt")
        (allowed / "link").symlink_to(outside)
        origin = made.origin("--publish-root", str(allowed))
        refused = [outside, allowed / "link", allowed / ".." / outside.name, Path("/etc"), tmp_path / "allowed-not"]
        for path in refused:
            status, problem = ask(origin, "POST", PUBLISHED, {"path": str(path), "step": 2})
            assert (status, problem["facts"]["reason"]) == (403, "publish_root"), path
        assert origin.publish(allowed / "ckpt", 1)["event"] == "published"


def test_an_api_with_a_token_publishes_nothing_without_a_publish_root(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        token = tmp_path / "token"
        token.write_text("0123456789abcdef")
        token.chmod(0o600)
        origin = made.origin("--token-file", str(token))
        body = json.dumps({"path": str(made.checkpoint(1, MIB)), "step": 1}).encode()
        request = urllib.request.Request(
            f"{origin.ready['api']}/v1/{PUBLISHED}",
            data=body,
            headers={"Content-Type": "application/json", "Authorization": "Bearer 0123456789abcdef"},
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        assert caught.value.code == 403 and "--publish-root" in json.load(caught.value)["hint"]


def test_metrics_count_bytes_by_source_and_never_name_a_peer_or_a_version(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        (client,) = made.others(origin, "client")
        origin.publish(made.checkpoint(7, 4 * MIB), 7)
        view = client.wait_complete(7)
        until(lambda: metrics_of(client)["shardcast_version_transfer_seconds_count",] == 1, 10.0)
        seen, sent = metrics_of(client), metrics_of(origin)
        assert seen["shardcast_received_bytes_total", "origin"] == view["bytes"]
        assert seen["shardcast_received_bytes_total", "peers"] == 0
        assert seen["shardcast_chunks_verified_total",] == view["chunks"]
        assert sent["shardcast_sent_bytes_total",] >= view["bytes"]
        assert sent["shardcast_publish_hash_seconds_count",] == 1
        assert seen["shardcast_store_healthy",] == 1 and seen["shardcast_store_versions", "complete"] == 1
        assert seen["shardcast_channel_newest_step", "demo"] == seen["shardcast_channel_complete_step", "demo"] == 7
        assert seen["shardcast_neighbours",] == 1 and seen["process_resident_memory_bytes",] > MIB
        names = " ".join(" ".join(sample) for sample in {*seen, *sent})
        for word in (origin.peer, client.peer, view["manifest"], view["manifest"].removeprefix("b3:")):
            assert word not in names


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to ask as another user")
def test_another_user_of_the_host_publishes_nothing_without_a_publish_root(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        body = json.dumps({"path": str(made.checkpoint(1, MIB)), "step": 1})
        asking = [
            "curl",
            "-s",
            "-H",
            "Content-Type: application/json",
            "-d",
            body,
            f"{origin.ready['api']}/v1/{PUBLISHED}",
        ]
        refused = json.loads(subprocess.run(asking, capture_output=True, check=True, timeout=30, user=65_534).stdout)
        assert (refused["status"], refused["facts"]["reason"]) == (403, "publish_root")
        own = subprocess.run(asking, capture_output=True, check=True, timeout=30).stdout.splitlines()[-1]
        assert json.loads(own)["event"] == "published"
