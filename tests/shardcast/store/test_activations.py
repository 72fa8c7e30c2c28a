from __future__ import annotations

import sqlite3
from pathlib import Path

from shardcast.store import Store
from shardcast.store.activations import ActivationRow
from shardcast_proto.hashing import digest_of


def row(seq: int) -> ActivationRow:
    return ActivationRow(digest_of(b"%d" % seq), 0, seq, seq * 10)


def test_what_engines_serve_is_held_and_outlives_the_store(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.note_activations("a", {"active": row(2), "previous": row(1), "hold": row(9)})
        store.note_activations("b", {"attempting": row(2)})
    with Store.open(tmp_path) as store:
        assert store.activations("a") == {"active": row(2), "previous": row(1), "hold": row(9)}
        assert store.leased() == {row(1).manifest: ["engine a"], row(2).manifest: ["engine a", "engine b"]}
        store.note_activations("a", {"active": row(3)})
        assert store.activations("a") == {"active": row(3)}
        assert sorted(store.leased()) == sorted([row(2).manifest, row(3).manifest])
        store.forget_engines(["a"])
        assert store.leased() == {row(3).manifest: ["engine a"]} and store.activations("b") == {}


def test_a_directory_of_an_earlier_release_gets_the_table(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    with sqlite3.connect(tmp_path / "state.db") as database:
        database.execute("DROP TABLE activations")
    with Store.open(tmp_path) as store:
        store.note_activations("a", {"active": row(1)})
        assert store.activations("a") == {"active": row(1)}
