"""One peer of libtorrent, run by the bench in a host of the lab with the Python that libtorrent is installed for.

Told by lines of JSON on stdin, it answers by lines of JSON on stdout:

    {"add": TORRENT, "save": DIR, "seed": true, "super": false}   ->  {"seeding": UNIX_SECONDS} of a seed, {"added": …} of others
    {"peers": [[IP, PORT], …]}                                    ->  connections are opened
    (by itself)                                                   ->  {"connected": COUNT}, {"first": UNIX_SECONDS}, {"done": …}
    {"count": true}                                               ->  {"counts": {…}}

Pieces and protocol are counted by libtorrent itself. The seed does not hash: `seed_mode` trusts its files, as the clock starts after
hashing for everybody. Neither DHT nor local discovery nor port mapping runs, nothing is queued by `auto_managed`, and no limit of rates
is set: the links are the limit. (libtorrent's own limits would not count addresses of private networks anyway.)
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from typing import Any

import libtorrent as lt

PORT = 6881
QUIET = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "alert_mask": lt.alert.category_t.status_notification | lt.alert.category_t.piece_progress_notification,
}
#: For a swarm of few hosts with the same aim, on links without loss: everybody may ask everybody, TCP alone, quick decisions.
TUNED = {
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "mixed_mode_algorithm": 0,
    "unchoke_slots_limit": 64,
    "unchoke_interval": 2,
    "optimistic_unchoke_interval": 4,
    "seed_choking_algorithm": 1,
    "max_out_request_queue": 1500,
    "send_buffer_watermark": 2 * 1024 * 1024,
    "send_buffer_low_watermark": 256 * 1024,
    "send_buffer_watermark_factor": 150,
    "initial_picker_threshold": 1,
    "whole_pieces_threshold": 1,
    "min_reconnect_time": 2,
    "peer_connect_timeout": 5,
    "request_timeout": 5,
    "piece_timeout": 5,
    "inactivity_timeout": 20,
    "close_redundant_connections": False,
}


class Peer:
    """The session, with the one torrent that it gets."""

    def __init__(self, address: str, *, is_tuned: bool) -> None:
        settings = {**QUIET, **(TUNED if is_tuned else {}), "listen_interfaces": f"{address}:{PORT}"}
        self._session = lt.session(settings)
        self._torrent: Any = None
        self._is_seed = False
        self._said: set[str] = set()
        self._connected = -1

    def obey(self, order: dict[str, Any]) -> None:
        """Do what a line says."""
        if "add" in order:
            self._add(order)
        elif "peers" in order:
            for address, port in order["peers"]:
                self._torrent.connect_peer((address, port))
        elif "count" in order:
            self._count()

    def look(self) -> None:
        """Wait a moment for news of the session, and say what there is."""
        self._session.wait_for_alert(20)
        for alert in self._session.pop_alerts():
            if isinstance(alert, lt.piece_finished_alert) and not self._is_seed:
                self._say_once("first")
            elif isinstance(alert, lt.torrent_finished_alert) and not self._is_seed:
                self._say_once("done")
        if self._torrent is None:
            return
        status = self._torrent.status(0)
        if self._is_seed and status.state == lt.torrent_status.states.seeding:
            self._say_once("seeding")
        if status.num_peers != self._connected:
            self._connected = status.num_peers
            say(connected=self._connected)

    def _add(self, order: dict[str, Any]) -> None:
        self._is_seed = order["seed"]
        params = lt.add_torrent_params()
        params.ti = lt.torrent_info(order["add"])
        params.save_path = order["save"]
        params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
        if self._is_seed:
            params.flags |= lt.torrent_flags.seed_mode
        if order["super"]:
            params.flags |= lt.torrent_flags.super_seeding
        self._torrent = self._session.add_torrent(params)
        say(added=time.time())

    def _count(self) -> None:
        status = self._torrent.status()
        say(
            counts={
                "sent_payload": status.total_payload_upload,
                "sent": status.total_upload,
                "duplicates": status.total_redundant_bytes + status.total_failed_bytes,
                "share": status.progress,
            }
        )

    def _say_once(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            say(**{what: time.time()})


def say(**what: object) -> None:
    """Print a line."""
    print(json.dumps(what), flush=True)


def main() -> None:
    """Serve until stdin ends."""
    peer = Peer(sys.argv[1], is_tuned=sys.argv[2] == "tuned")
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            orders.put(line)
        os._exit(0)  # the session's own end takes its time

    threading.Thread(target=read, daemon=True).start()
    say(ready=lt.__version__)
    while True:
        while not orders.empty():
            peer.obey(json.loads(orders.get()))
        peer.look()


if __name__ == "__main__":
    main()
