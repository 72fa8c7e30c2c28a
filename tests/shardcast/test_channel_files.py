"""The files of a new channel: three of them, or none, and never over anything."""

from __future__ import annotations

import stat

import pytest

from shardcast.channel_files import create_channel
from shardcast.keyfiles import load_key
from shardcast_proto.errors import ConfigError, Conflict
from shardcast_proto.trust import TrustedChannel, open_root


def test_a_node_can_follow_a_new_channel(tmp_path):
    made = create_channel("demo", tmp_path / "keys")
    trusted = TrustedChannel.from_root(made.root.read_bytes())
    assert (trusted.channel, trusted.root.name, trusted.root.version) == (made.channel, "demo", 1)
    assert trusted.root.root_role.public_keys == (load_key(made.root_key).public_key,)
    assert trusted.root.origin_role.public_keys == (load_key(made.origin_key).public_key,)


def test_keys_are_private_while_the_root_is_public(tmp_path):
    made = create_channel("demo", tmp_path)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (made.root, made.root_key, made.origin_key)]
    assert modes[1:] == [0o600, 0o600] and modes[0] & 0o400
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.key", "demo.root", "demo.root.key"]


def test_two_channels_of_one_name_are_different(tmp_path):
    assert create_channel("demo", tmp_path / "a").channel != create_channel("demo", tmp_path / "b").channel


@pytest.mark.parametrize("there", ["demo.root", "demo.root.key", "demo.key"])
def test_nothing_is_written_when_one_of_the_files_is_there(tmp_path, there):
    (tmp_path / there).write_text("precious")
    with pytest.raises(Conflict, match=there):
        create_channel("demo", tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(there, "precious")]


def test_a_channel_that_cannot_be_finished_leaves_no_key(tmp_path):
    # a link to nowhere is not there for those who look, yet cannot be written over
    (tmp_path / "demo.root").symlink_to("nowhere")
    with pytest.raises(Conflict):
        create_channel("demo", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["demo.root"]


@pytest.mark.parametrize("name", ["", "a/b", "..", "ä", "a b", "x" * 65])
def test_a_name_that_is_none_makes_no_file(tmp_path, name):
    with pytest.raises(ConfigError, match="channel name"):
        create_channel(name, tmp_path / "keys")
    assert not (tmp_path / "keys").exists()


def test_a_root_says_the_same_when_it_is_read_again(tmp_path):
    made = create_channel("demo", tmp_path)
    assert open_root(made.root.read_bytes()).channel == made.channel
