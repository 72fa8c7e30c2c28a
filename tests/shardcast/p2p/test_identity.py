"""The identity file."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardcast.p2p.identity import load_or_create_seed, peer_id_of_seed
from shardcast_proto.errors import ConfigError, StoreError


def test_an_identity_is_created_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    seed = load_or_create_seed(path)
    assert len(seed) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_create_seed(path) == seed
    assert [entry.name for entry in tmp_path.iterdir()] == ["node.key"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o604])
def test_an_identity_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "node.key"
    load_or_create_seed(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}") as caught:
        load_or_create_seed(path)
    assert "chmod 600" in (caught.value.hint or "")


@pytest.mark.parametrize("size", [0, 31, 33, 4096])
def test_an_identity_of_another_length_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "node.key"
    path.write_bytes(bytes(size))
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=f"{size} bytes"):
        load_or_create_seed(path)


def test_a_link_or_a_directory_is_no_identity(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(bytes(32))
    (tmp_path / "node.key").symlink_to(tmp_path / "real")
    with pytest.raises(StoreError):
        load_or_create_seed(tmp_path / "node.key")
    with pytest.raises(ConfigError, match="not a regular file"):
        load_or_create_seed(tmp_path)


def test_a_missing_directory_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot use the identity file"):
        load_or_create_seed(tmp_path / "missing" / "node.key")


def test_the_peer_id_is_the_one_that_libp2p_computes() -> None:
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.id import ID

    for seed in (bytes(32), bytes(range(32))):
        assert peer_id_of_seed(seed) == str(ID.from_pubkey(create_new_key_pair(seed).public_key))
