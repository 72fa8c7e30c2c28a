"""The rates that `top` shows, without a daemon."""

from __future__ import annotations

from shardcast.cli.look import Sample, compare
from shardcast.cli.top_view import lines


def peer(name: str, received: int = 0, sent: int = 0, **more: object) -> dict:
    return {
        "peer": name,
        "roles": ["relay"],
        "serve": "127.0.0.1:1",
        "rate_bytes_per_s": None,
        "received_bytes": received,
        "sent_bytes": sent,
        "success_rate": 0.5,
        "quarantined_for_s": 0.0,
        "in_flight_bytes": 0,
        **more,
    }


def sample(at_s: float, received: int, sent: int, *peers: dict, **more: object) -> Sample:
    status = {
        "peer_id": "12D3KooWabcdefghij",
        "roles": ["client"],
        "serve": "127.0.0.1:2",
        "channels": [],
        "neighbours": len(peers),
        "uploads_running": 0,
        "received_bytes": received,
        "sent_bytes": sent,
        "store_error": None,
        **more,
    }
    return Sample(at_s, status, list(peers))


def test_a_rate_is_what_has_come_between_two_samples():
    look = compare(sample(10.0, 1000, 0, peer("a", 500)), sample(12.0, 5000, 1000, peer("a", 1500, 100)))
    assert (look.received_bytes_per_s, look.sent_bytes_per_s) == (2000.0, 500.0)
    assert look.peer_rates == {"a": (500.0, 50.0)}


def test_a_new_neighbour_has_no_rate_yet():
    look = compare(sample(10.0, 0, 0), sample(11.0, 700, 0, peer("new", 700)))
    assert look.peer_rates == {"new": (0.0, 0.0)}


def test_a_daemon_that_was_started_anew_has_no_negative_rate():
    look = compare(sample(10.0, 9000, 9000, peer("a", 9000)), sample(11.0, 10, 0, peer("a", 10)))
    assert (look.received_bytes_per_s, look.sent_bytes_per_s, look.peer_rates) == (0.0, 0.0, {"a": (0.0, 0.0)})


def test_a_peer_in_quarantine_and_a_store_that_fails_are_seen():
    bad = peer("12D3KooWxxxxxxxxxx", quarantined_for_s=41.6)
    now = sample(11.0, 0, 0, bad, store_error="no space left on device")
    text = "\n".join(lines(compare(now, now)))
    assert "refused for 42 s" in text
    assert "STORE: no space left on device" in text
