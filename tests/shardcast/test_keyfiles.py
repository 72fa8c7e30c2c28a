"""Key files: what is written is read again, and what anybody else may touch is refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from shardcast.keyfiles import load_key, save_key, write_new
from shardcast_proto.errors import ConfigError, Conflict, NotFound, StoreError
from shardcast_proto.trust import SigningKey

SEED = bytes(range(32))


def test_a_saved_key_is_read_again(tmp_path):
    path = tmp_path / "demo.key"
    save_key(path, SEED)
    assert load_key(path).key_id == SigningKey(SEED).key_id
    assert path.read_text() == f"shardcast-key-1 {SEED.hex()}\n"


def test_a_key_file_is_readable_by_its_owner_alone(tmp_path):
    path = tmp_path / "demo.key"
    before = os.umask(0)
    try:
        save_key(path, SEED)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_key_that_others_may_touch_is_refused_with_what_to_do(tmp_path, mode):
    path = tmp_path / "demo.key"
    save_key(path, SEED)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}") as caught:
        load_key(path)
    assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        SEED.hex(),
        f"shardcast-key-2 {SEED.hex()}\n",
        f"shardcast-key-1 {SEED.hex()[:-1]}\n",
        f"shardcast-key-1 {SEED.hex().upper()}\n",
        f"shardcast-key-1 {SEED.hex()}\n\n",
        f"shardcast-key-1  {SEED.hex()}\n",
        f"shardcast-key-1 {SEED.hex()}" + "0" * 1000,
    ],
)
def test_anything_but_the_one_line_is_no_key(tmp_path, text):
    path = tmp_path / "demo.key"
    write_new(path, text.encode(), mode=0o600)
    with pytest.raises(ConfigError, match="not a key file") as caught:
        load_key(path)
    assert SEED.hex() not in caught.value.describe()


def test_a_key_is_never_written_over(tmp_path):
    path = tmp_path / "demo.key"
    save_key(path, SEED)
    with pytest.raises(Conflict, match="exists already"):
        save_key(path, bytes(32))
    assert load_key(path).key_id == SigningKey(SEED).key_id
    assert [file.name for file in tmp_path.iterdir()] == ["demo.key"]


def test_a_seed_of_another_length_is_not_written(tmp_path):
    with pytest.raises(ConfigError, match="31 bytes"):
        save_key(tmp_path / "demo.key", bytes(31))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_key_is_not_found(tmp_path):
    with pytest.raises(NotFound, match=r"nothing\.key does not exist"):
        load_key(tmp_path / "nothing.key")


def test_a_pipe_is_no_key_and_blocks_nobody(tmp_path):
    path = tmp_path / "demo.key"
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match="no regular file"):
        load_key(path)


def test_a_directory_is_no_key(tmp_path):
    with pytest.raises(ConfigError, match="no regular file"):
        load_key(tmp_path)


def test_a_place_that_does_not_exist_is_a_clear_error():
    with pytest.raises(StoreError, match="cannot write"):
        save_key(Path("/proc/nowhere/demo.key"), SEED)
