from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shardcast.config import CONFIG_BYTES_MAX, load, split_endpoint
from shardcast_proto.errors import ConfigError


def flags(**more: object) -> dict[str, object]:
    return {"data": Path("/data"), "channel": [Path("demo.root")], **more}


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(text)
    return path


def test_flags_stand_over_variables_over_the_file_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toml(tmp_path, 'keep = 4\nquota = 400\nup_mbps = 40.0\nrole = "relay"\nbootstrap = ["/a", "/b"]\n')
    monkeypatch.setenv("SHARDCAST_KEEP", "5")
    monkeypatch.setenv("SHARDCAST_QUOTA", "500")
    config = load(flags(keep=6), config_file=path)
    assert (config.keep, config.quota, config.up_mbps, config.role) == (6, 500, 40.0, "relay")
    assert config.bootstrap == ("/a", "/b") and config.log_level == "info"


def test_a_list_in_a_variable_is_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDCAST_CHANNEL", "a.root,b.root")
    config = load({"data": Path("/data")}, config_file=None)
    assert config.channel == (Path("a.root"), Path("b.root"))


def test_everything_needed_may_stand_in_the_file(tmp_path: Path) -> None:
    config = load({}, config_file=toml(tmp_path, 'data = "/data"\nchannel = ["demo.root"]\n'))
    assert config.data == Path("/data") and config.role == "client"


def test_an_unknown_key_is_an_error_wherever_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"node\.toml: unknown setting up_mpbs$"):
        load(flags(), config_file=toml(tmp_path, "up_mpbs = 4"))
    monkeypatch.setenv("SHARDCAST_UP_MPBS", "4")
    with pytest.raises(ConfigError, match="SHARDCAST_UP_MPBS"):
        load(flags(), config_file=None)


def test_a_variable_of_the_client_commands_is_not_the_daemons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDCAST_API", "http://127.0.0.1:9999")
    assert load(flags(), config_file=None).api == "127.0.0.1:7480"


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"keep": 0, "role": "boss", "serve": "host:1"}, config_file=None)
    for flag in ("--data", "--channel", "--keep", "--role", "--serve"):
        assert flag in caught.value.message


def test_an_api_that_others_reach_needs_a_token(tmp_path: Path) -> None:
    for bind in ("0.0.0.0:7480", "10.0.0.1:7480", "[::]:7480"):
        with pytest.raises(ConfigError, match="--token-file"):
            load(flags(api=bind), config_file=None)
        assert load(flags(api=bind, token_file=tmp_path / "token"), config_file=None).api == bind
    assert load(flags(api="[::1]:7480"), config_file=None).token_file is None


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan")])
def test_an_uplink_is_a_positive_number(rate: float) -> None:
    with pytest.raises(ConfigError, match="--up-mbps"):
        load(flags(up_mbps=rate), config_file=None)


def test_a_config_file_must_be_there_and_be_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the config file"):
        load(flags(), config_file=tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot read"):
        load(flags(), config_file=toml(tmp_path, "keep ="))


def test_a_token_file_is_private_and_not_empty(tmp_path: Path) -> None:
    path = tmp_path / "token"
    config = load(flags(token_file=path), config_file=None)
    with pytest.raises(ConfigError, match="cannot read"):
        config.read_token()
    path.write_text("secret\n")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others can read"):
        config.read_token()
    path.chmod(0o600)
    assert config.read_token() == b"secret"
    path.write_text(" \n")
    with pytest.raises(ConfigError, match="empty"):
        config.read_token()
    assert load(flags(), config_file=None).read_token() is None


@pytest.mark.parametrize(
    ("text", "endpoint"), [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:7480", ("::1", 7480)), ("0.0.0.0:65535", None)]
)
def test_an_endpoint_is_an_ip_literal_with_a_port(text: str, endpoint: tuple[str, int] | None) -> None:
    assert split_endpoint(text) == (endpoint or ("0.0.0.0", 65535))


@pytest.mark.parametrize(
    "text", ["", "7480", "localhost:1", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "::1:80", "[127.0.0.1]:80"]
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        split_endpoint(text)


def test_a_node_that_nobody_can_dial_says_so_with_none() -> None:
    config = load(flags(serve="none", announce_p2p="none", announce_serve="none"), config_file=None)
    assert (config.serve, config.announce_p2p, config.announce_serve) == ("none", "none", "none")
    for plane in ("p2p", "api"):
        with pytest.raises(ConfigError, match=f"--{plane}"):
            load(flags(**{plane: "none"}), config_file=None)


@pytest.mark.parametrize("rate", [0, -1, float("inf"), "fast"])
def test_a_downlink_is_a_rate(rate: object) -> None:
    assert load(flags(down_mbps=40), config_file=None).down_mbps == 40
    with pytest.raises(ConfigError, match="--down-mbps"):
        load(flags(down_mbps=rate), config_file=None)


@pytest.mark.parametrize("name", ["SHARDCAST_KEEP", "shardcast_keep", "Shardcast_Keep"])
def test_a_variable_counts_in_any_case(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "9")
    assert load(flags(), config_file=None).keep == 9
    monkeypatch.setenv(f"{name}R", "9")
    with pytest.raises(ConfigError, match=f"unknown variables {name}R$"):
        load(flags(), config_file=None)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("foo = 1", "{file}: unknown setting foo"),
        ("_env_file = '/etc/passwd'", "{file}: unknown setting _env_file"),
        ("bootstrap = 5", "{file}: bootstrap must be a list of texts"),
        ("bootstrap = [5, 6]", "{file}: bootstrap must be a list of texts"),
        ("channel = {a = 1}\nfoo = 1", "{file}: unknown setting foo; {file}: channel must be a list of texts"),
        ("data = 5", "{file}: data must be a text"),
        ("p2p = 'foo'", "{file}: p2p: 'foo' is not IP:PORT"),
    ],
)
def test_a_fault_of_the_file_names_the_file(tmp_path: Path, text: str, sentence: str) -> None:
    path = toml(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load({key: value for key, value in flags().items() if key not in text}, config_file=path)
    assert caught.value.message == sentence.format(file=path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("p2p", "foo"),
        ("p2p", "none"),
        ("announce_p2p", "foo"),
        ("api", "1.2.3.4:x"),
        ("serve", f"1.2.3.4:{'9' * 5000}"),
    ],
)
def test_what_is_no_address_is_named_with_its_flag(key: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(flags(**{key: value}), config_file=None)
    assert caught.value.message == f"--{key.replace('_', '-')}: {value!r} is not IP:PORT"


def test_a_fault_of_a_variable_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("shardcast_p2p", "foo")
    with pytest.raises(ConfigError, match=r"^shardcast_p2p: 'foo' is not IP:PORT$"):
        load(flags(), config_file=None)


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def large(path: Path) -> Path:
    path.write_bytes(b"#" * (CONFIG_BYTES_MAX + 1))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: Path("/dev/zero"), "is no regular file"),
        (fifo, "is no regular file"),
        (folder, "is a directory"),
        (large, "has more than"),
        (lambda path: path, "No such file"),
        (lambda path: Path("/") / ("x" * 5000), "File name too long"),
        (lambda path: Path("a\0b"), "null byte"),
    ],
)
def test_only_a_small_regular_file_is_read(tmp_path: Path, make: Callable[[Path], Path], why: str) -> None:
    path = make(tmp_path / "it")
    with pytest.raises(ConfigError, match=f"the config file .*{why}"):
        load(flags(), config_file=path)
    with pytest.raises(ConfigError, match=f"the token file .*{why}"):
        load(flags(token_file=path), config_file=None).read_token()


def test_a_directory_to_publish_from_must_be_there(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    load(flags(publish_root=[tmp_path]), config_file=None).check_publish_roots()
    for root, why in ((tmp_path / "none", "No such file"), (file, "is no directory")):
        with pytest.raises(ConfigError, match=f"--publish-root: {root} .*{why}"):
            load(flags(publish_root=[tmp_path, root]), config_file=None).check_publish_roots()


def test_engines_come_from_flags_variables_and_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = "vllm=http://127.0.0.1:8000,channel=a", "hook=/bin/true,channel=b"
    config = load(
        flags(), config_file=toml(tmp_path, f'activate = ["{one}", "{two}"]\nmax_stale = "10m"\nmax_lag = 4\n')
    )
    assert [spec.kind for spec in config.engines] == ["vllm", "hook"] and (config.max_lag, config.max_stale) == (
        4,
        600.0,
    )
    monkeypatch.setenv("SHARDCAST_ACTIVATE", f"{one};{two}")
    monkeypatch.setenv("SHARDCAST_MAX_STALE", "30s")
    config = load(flags(), config_file=None)
    assert config.activate == (one, two) and config.max_stale == 30.0
    assert load(flags(activate=[two]), config_file=None).activate == (two,)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"activate": ["vllm=nowhere"]}, "--activate: 'nowhere' is not a URL"),
        ({"activate": ["vllm=http://a:1", "vllm=http://b:1"]}, "--activate: two engines are called"),
        ({"max_stale": "soon"}, "--max-stale: 'soon' is not a time"),
        ({"max_lag": -1}, "--max-lag"),
    ],
)
def test_what_is_no_engine_or_limit_is_named(more: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(flags(**more), config_file=None)
