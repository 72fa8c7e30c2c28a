"""Bad days of whole nodes: files that change, clocks that are wrong, peers that sleep or do not read, hostile manifests."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shardcast.keyfiles import load_key
from shardcast_proto import messages
from shardcast_proto.blob import Blob
from shardcast_proto.codec import pack
from shardcast_proto.hashing import digest_of
from shardcast_proto.ids import Digest, PeerId
from shardcast_proto.trust import Announce, Head, sign_head
from tests.loopback.daemons import MIB, Daemon, Swarm, swarm, tree_of, until
from tests.loopback.rogue import FalseBytes, rogue

pytestmark = pytest.mark.timeout(120)

YEAR_S = 365 * 86_400
#: A node whose wall clock is wrong by so many seconds.
WRONG_CLOCK = "import time; right = time.time; time.time = lambda: right() + ({offset_s})\nfrom shardcast.daemon import main; main()"


# --- a published file is changed ---


def test_a_file_changed_after_publish_is_withdrawn_and_the_others_complete_from_a_peer(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin("--up-mbps", "100")
        (early,) = made.others(origin, "early")
        path = made.checkpoint(1)
        right = tree_of(path)
        origin.publish(path, 1, link="hardlink")
        early.wait_complete(1)
        rewrite_in_place(path)
        late = made.daemon("late", bootstrap=origin).wait_ready()
        late.wait_complete(1)
        assert late.pulled_tree(1) == early.pulled_tree(1) == right
        # the change is found when a file is next opened: by the latecomer's requests, unless its peer was faster with all of them
        with pytest.raises(urllib.error.HTTPError):
            for name in right:
                origin.get_bytes(f"channels/demo/versions/1/files/{name}")
        view = origin.version(1)
        assert view["state"] == "failed" and view["path"] is None
        assert "was changed after the version was complete" in view["error"]
        assert_nobody_is_blamed(late)
        assert origin.publish(made.checkpoint(2), 2)["event"] == "published"
        late.wait_complete(2)


def test_a_file_changed_in_mid_transfer_gives_nobody_a_wrong_byte_until_it_is_published_again(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin("--up-mbps", "40")
        (client,) = made.others(origin, "client")
        path = made.checkpoint(1)
        right = tree_of(path)
        origin.publish(path, 1, link="hardlink")
        until(lambda: client.version(1)["have_chunks"] > 5, 30.0)
        rewrite_in_place(path)
        until(lambda: origin.version(1)["state"] == "failed", 20.0, origin.log)
        assert client.version(1)["state"] == "staging"
        assert_nobody_is_blamed(client)
        assert origin.get("status")["channels"][0]["head"]["error"]
        again = tmp_path / "again"
        for name, data in right.items():
            (again / name).parent.mkdir(parents=True, exist_ok=True)
            (again / name).write_bytes(data)
        assert origin.publish(again, 1)["event"] == "published"
        client.wait_complete(1)
        assert client.pulled_tree(1) == right


def test_a_version_that_is_published_again_by_copy_no_longer_follows_its_publishers_files(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        path = made.checkpoint(1)
        right = tree_of(path)
        assert origin.publish(path, 1, link="hardlink")["link"] == "hardlink"
        again = origin.publish(path, 1, link="copy")
        assert (again["existing"], again["link"]) == (True, "copy")
        rewrite_in_place(path)
        (client,) = made.others(origin, "client")
        client.wait_complete(1)
        assert client.pulled_tree(1) == origin.pulled_tree(1) == right
        assert origin.version(1)["state"] == "complete"


def test_a_landed_file_that_somebody_changes_is_fetched_again(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        relay, client = made.others(origin, "relay", "client")
        path = made.checkpoint(1)
        origin.publish(path, 1)
        for node in (relay, client):
            node.wait_complete(1)
        landed = max(Path(relay.version(1)["path"]).rglob("*.safetensors"), key=lambda file: file.stat().st_size)
        landed.chmod(0o644)
        rewrite(landed)
        name = landed.relative_to(relay.version(1)["path"])
        with pytest.raises(urllib.error.HTTPError) as refused:
            relay.get_bytes(f"channels/demo/versions/1/files/{name}")
        assert refused.value.code == 507 and b"was changed" in refused.value.read()
        until(lambda: relay.version(1)["state"] == "complete", 30.0, relay.log)
        assert relay.pulled_tree(1) == tree_of(path)


def rewrite_in_place(path: Path) -> None:
    """Change bytes of every file as a trainer does that reuses its files: same size, same inode."""
    for file in path.rglob("*.safetensors"):
        rewrite(file)


def rewrite(file: Path) -> None:
    with file.open("r+b") as opened:
        for offset in range(1024, file.stat().st_size, 64 * 1024):
            opened.seek(offset)
            opened.write(b"another step's weights")


def assert_nobody_is_blamed(node: Daemon) -> None:
    assert [peer for peer in node.get("peers")["peers"] if peer["quarantined_for_s"]] == []


# --- hostile manifests ---

#: Paths of a manifest that its origin has really signed.
HOSTILE: dict[str, tuple[str, ...]] = {
    "climbs": ("../escaped",),
    "climbs from below": ("a/../../escaped",),
    "absolute": ("/tmp/escaped",),
    "nul": ("a\0b",),
    "case twins": ("Model.safetensors", "model.safetensors"),
    "a file and its directory": ("a", "a/b"),
    "backslash": ("a\\..\\escaped",),
    "not composed": ("e\u0301",),
}


def hostile_manifest(paths: Sequence[str]) -> tuple[bytes, int]:
    """Return an encoded manifest of files of one byte, which nothing of ours would make, and its total bytes."""
    rows = b"".join(pack([path, 1, index]) for index, path in enumerate(sorted(paths, key=str.encode)))
    blob = Blob(len(paths), 256 * 1024, b"".join(digest_of(b"x") for _ in paths))
    return pack(["shardcast/manifest", 1, rows, blob.encoded]), len(paths)


class Shelf(FalseBytes):
    """A source that hands out objects, whatever they are."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[Digest, bytes] = {}

    def object(self, digest: Digest) -> bytes | None:
        self.asked_objects.append(digest)
        return self.objects.get(digest)


async def test_signed_manifests_with_hostile_paths_are_refused_one_clear_line_each_and_the_node_lives(
    tmp_path: Path,
) -> None:
    with swarm(tmp_path) as made:
        origin = await asyncio.to_thread(made.origin)
        (client,) = await asyncio.to_thread(made.others, origin, "client")
        key, channel, shelf = load_key(made.channel.origin_key), made.channel.channel, Shelf()
        async with rogue(channel, shelf) as thief:
            await thief.join(client.peer, client.multiaddr)
            for seq, paths in enumerate(HOSTILE.values(), 1):
                data, total = hostile_manifest(paths)
                shelf.objects[digest_of(data)] = data
                head = Head(channel, 0, b"", 1, seq, seq, digest_of(data), manifest_bytes=len(data), total_bytes=total)
                thief.send(PeerId(client.peer), messages.HeadIs(channel, Announce(sign_head(head, [key])).encoded))
                line = f"seq={seq} "
                await asyncio.to_thread(until, partial(is_refused_once, client, line), 10.0, client.log)
        assert refusals_with(client, "level=error") == len(HOSTILE), "each is refused once, and not asked for again"
        assert_nothing_escaped(made, client)
        path = made.checkpoint(20)
        published = await asyncio.to_thread(origin.publish, path, 20)
        assert published["seq"] == len(HOSTILE) + 1
        await asyncio.to_thread(client.wait_complete, 20)
        assert await asyncio.to_thread(client.pulled_tree, 20) == tree_of(path)
        assert "Traceback" not in client.log()


def is_refused_once(node: Daemon, line: str) -> bool:
    return refusals_with(node, line) == 1


def is_seen_as(node: Daemon, freshness: str) -> bool:
    return freshness_of(node) == freshness


def refusals_with(node: Daemon, text: str) -> int:
    """Count the lines by which a node has refused a manifest."""
    return sum("manifest_refused" in line and text in line for line in node.log().splitlines())


def assert_nothing_escaped(made: Swarm, node: Daemon) -> None:
    assert not Path("/tmp/escaped").exists()
    assert list(made.home.rglob("escaped*")) == []
    for place in ("staging", "versions", "objects"):
        assert list((node.data / place).iterdir()) == []


# --- clocks ---


def test_nodes_whose_clocks_are_a_year_off_say_so_and_complete_all_the_same(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        early, late = (
            made.daemon(name, bootstrap=origin, program=("-c", WRONG_CLOCK.format(offset_s=offset_s)))
            for name, offset_s in (("early", -YEAR_S), ("late", YEAR_S))
        )
        for node in (early, late):
            node.wait_ready()
            until(node.has_neighbour, 20.0, node.log)
        path = made.checkpoint(1)
        origin.publish(path, 1)
        for node, freshness in ((early, "clock"), (late, "stale"), (origin, "fresh")):
            node.wait_complete(1)
            assert node.pulled_tree(1) == tree_of(path)
            until(partial(is_seen_as, node, freshness), 10.0, node.log)
            assert node.get("status")["refused_heads"] == 0


def test_an_origin_whose_clock_is_a_year_ahead_is_followed_also_when_the_clock_is_set_right(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        ahead = made.daemon(
            "origin",
            "--origin-key",
            str(made.channel.origin_key),
            program=("-c", WRONG_CLOCK.format(offset_s=YEAR_S)),
        ).wait_ready()
        (client,) = made.others(ahead, "client")
        ahead.publish(made.checkpoint(1), 1)
        client.wait_complete(1)
        until(lambda: freshness_of(client) == "clock", 10.0, client.log)
        assert ahead.stop() == 0
        right = made.origin("--bootstrap", client.multiaddr)
        until(right.has_neighbour, 20.0, right.log)
        path = made.checkpoint(2)
        assert right.publish(path, 2)["seq"] == 2
        client.wait_complete(2)
        assert client.pulled_tree(2) == tree_of(path)
        until(lambda: freshness_of(client) == "fresh", 10.0, client.log)


def freshness_of(node: Daemon) -> str:
    return str(node.get("channels")["channels"][0]["freshness"])


# --- peers that sleep, peers that do not read ---


def test_a_peer_that_is_stopped_for_ten_seconds_holds_nobody_up_and_goes_on_afterwards(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin("--up-mbps", "60")
        sleeper, other = made.others(origin, "sleeper", "other")
        path = made.checkpoint(1, 24 * MIB)
        origin.publish(path, 1)
        until(lambda: sleeper.version(1)["have_chunks"] > 3, 30.0)
        sleeper.signal(signal.SIGSTOP)
        stopped_s = time.monotonic()
        try:
            other.wait_complete(1, timeout_s=20.0)
            assert other.pulled_tree(1) == tree_of(path)
            time.sleep(max(10.0 - (time.monotonic() - stopped_s), 0.0))
        finally:
            sleeper.signal(signal.SIGCONT)
        sleeper.wait_complete(1, timeout_s=20.0)
        assert sleeper.pulled_tree(1) == tree_of(path)
        for node in (origin, sleeper, other):
            assert_nobody_is_blamed(node)


def test_readers_that_take_every_upload_and_read_nothing_keep_nobody_from_completing(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        path = made.checkpoint(1)
        origin.publish(path, 1)
        manifest = origin.get_bytes("channels/demo/versions/1/manifest")
        blob = blob_of(manifest)
        with greedy_readers(origin, blob, 32):
            until(lambda: origin.get("status")["uploads_running"] >= 32, 10.0)
            newcomer = made.daemon("newcomer", bootstrap=origin).wait_ready()
            newcomer.wait_complete(1, timeout_s=15.0)
        assert newcomer.pulled_tree(1) == tree_of(path)


def blob_of(manifest: bytes) -> Digest:
    from shardcast_proto.manifest import Manifest

    return Manifest.decode(manifest).blob.id


@contextmanager
def greedy_readers(node: Daemon, blob: Digest, count: int) -> Iterator[None]:
    """Ask for long runs on many connections and read nothing; whoever is cut asks again."""
    host, _, port = str(node.ready["serve"]).rpartition(":")
    is_over = threading.Event()

    def ask() -> socket.socket:
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((host, int(port)))
        reader.sendall(f"GET /chunk/{blob.hex()}/0?count=64 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return reader

    def stay() -> None:
        readers = [ask() for _ in range(count)]
        while not is_over.wait(0.2):
            for index, reader in enumerate(readers):
                if is_hung_up(reader):
                    reader.close()
                    readers[index] = ask()
        for reader in readers:
            reader.close()

    thread = threading.Thread(target=stay)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def is_hung_up(reader: socket.socket) -> bool:
    return bool(reader.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) or not is_established(reader)


def is_established(reader: socket.socket) -> bool:
    state: int = reader.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state == 1


# --- retention, limits ---


def test_retention_lets_a_leased_version_live_until_its_reader_has_done(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin("--keep", "1")
        (client,) = made.others(origin, "client", flags=("--keep", "1"))
        first = made.checkpoint(1, 4 * MIB)
        right = tree_of(first)
        origin.publish(first, 1)
        client.wait_complete(1)
        leased = ask(client, "POST", "channels/demo/versions/1/lease", b'{"holder": "engine", "ttl_s": 600}')
        name = max(right, key=lambda name: len(right[name]))
        with urllib.request.urlopen(f"{client.ready['api']}/v1/channels/demo/versions/1/files/{name}") as reading:
            begun = reading.read(1000)
            for step in (2, 3):
                origin.publish(made.checkpoint(step, 4 * MIB), step)
                client.wait_complete(step)
            until(lambda: client.version(2)["state"] == "gone", 10.0, client.log)
            assert client.version(1)["state"] == "complete"
            assert tree_of(Path(leased["path"])) == right
            assert begun + reading.read() == right[name]
        ask(client, "DELETE", f"leases/{leased['lease']}")
        origin.publish(made.checkpoint(4, 4 * MIB), 4)
        client.wait_complete(4)
        until(lambda: client.version(1)["state"] == "gone", 10.0, client.log)
        assert not Path(leased["path"]).exists()


def ask(node: Daemon, method: str, path: str, body: bytes | None = None) -> Any:
    """Send one request to a node's API."""
    import json

    request = urllib.request.Request(
        f"{node.ready['api']}/v1/{path}", data=body, method=method, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        return json.loads(response.read() or b"null")


def test_a_node_with_few_file_descriptors_completes_many_small_files_and_lives_through_a_crowd(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin()
        path = made.checkpoint(1, 4 * MIB)
        for index in range(300):
            (path / f"small-{index:03}.json").write_text(f'{{"index": {index}}}')
        poor = made.daemon("poor", bootstrap=origin, wrap=("sh", "-c", 'ulimit -n 96; exec "$@"', "sh")).wait_ready()
        until(poor.has_neighbour, 20.0, poor.log)
        origin.publish(path, 1)
        poor.wait_complete(1)
        assert poor.pulled_tree(1) == tree_of(path)
        host, _, port = str(poor.ready["serve"]).rpartition(":")
        crowd = [socket.create_connection((host, int(port))) for _ in range(90)]
        second = made.checkpoint(2, 4 * MIB)
        origin.publish(second, 2)
        poor.wait_complete(2, timeout_s=20.0)
        assert poor.pulled_tree(2) == tree_of(second)
        assert len(list(Path(f"/proc/{poor.pid}/fd").iterdir())) < 90
        assert "EMFILE" not in poor.log() and "out of system resource" not in poor.log()
        for visitor in crowd:
            visitor.close()


# --- stopping ---


def test_an_origin_that_is_stopped_in_mid_transfer_goes_on_serving_where_it_was(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        origin = made.origin("--up-mbps", "60")
        (client,) = made.others(origin, "client")
        path = made.checkpoint(1)
        origin.publish(path, 1)
        until(lambda: client.version(1)["have_chunks"] > 3, 30.0)
        began_s = time.monotonic()
        assert origin.stop() == 0
        assert time.monotonic() - began_s < 5.0
        held = client.version(1)
        assert held["state"] == "staging", "the transfer was over too soon to test anything"
        again = made.origin("--bootstrap", client.multiaddr)
        until(again.has_neighbour, 20.0, again.log)
        view = client.wait_complete(1)
        assert view["chunks_verified"] == view["chunks"], "a chunk was fetched twice"
        assert client.pulled_tree(1) == tree_of(path)


def test_of_two_daemons_started_at_once_on_one_data_directory_one_runs(tmp_path: Path) -> None:
    with swarm(tmp_path) as made:
        pair = [made.daemon("same"), made.daemon("same")]
        until(lambda: sum(daemon.is_running for daemon in pair) == 1, 20.0)
        (survivor,) = [daemon for daemon in pair if daemon.is_running]
        (refused,) = [daemon for daemon in pair if not daemon.is_running]
        survivor.wait_ready()
        assert refused.stop() == 8
        assert f"in use by process {survivor.pid}" in survivor.log()
        assert survivor.get("status")["neighbours"] == 0
