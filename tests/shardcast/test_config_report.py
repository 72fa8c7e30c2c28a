"""What `--print-config` prints: values that can be read back, each with where it came from."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from shardcast.config import load
from shardcast.config_report import report

ROOT = Path(__file__).resolve().parents[2]


def sources(text: str) -> dict[str, str]:
    """The source of every key, also of those without a value."""
    lines = [line for line in text.splitlines() if "  # " in line]
    return {line.removeprefix("# ").split()[0]: line.rpartition("  # ")[2] for line in lines}


def test_every_value_names_where_it_came_from(tmp_path, monkeypatch):
    path = tmp_path / "node.toml"
    path.write_text('keep = 4\nrole = "relay"\nquota = 400\n')
    monkeypatch.setenv("SHARDCAST_QUOTA", "500")
    monkeypatch.setenv("SHARDCAST_API", "http://127.0.0.1:9999")
    flags: dict[str, object] = {"data": Path("/data"), "channel": [Path("demo.root")], "keep": 6}
    text = report(load(flags, config_file=path), flags, path)
    found = sources(text)
    assert {name: found[name] for name in ("data", "keep", "quota", "role", "api", "token_file", "bootstrap")} == {
        "data": "--data",
        "keep": "--keep",
        "quota": "SHARDCAST_QUOTA",
        "role": str(path),
        "api": "default",
        "token_file": "default",
        "bootstrap": "default",
    }


def test_what_is_printed_can_be_read_back(tmp_path):
    flags: dict[str, object] = {
        "data": Path('/da"ta\\\x7f\n'),
        "channel": [Path("ä.root"), Path("b.root")],
        "up_mbps": 12.5,
        "bootstrap": ["/ip4/10.0.0.1/tcp/7481/p2p/12D3KooW"],
    }
    config = load(flags, config_file=None)
    text = report(config, flags, None)
    path = tmp_path / "again.toml"
    path.write_text(text)
    again = load({}, config_file=path)
    assert again.model_dump() == config.model_dump()
    assert set(tomllib.loads(text)) == {name for name, value in config.model_dump().items() if value is not None}


def _node(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(ROOT / folder) for folder in ("", "proto", "relay"))
    return subprocess.run(
        [sys.executable, "-m", "shardcast.daemon", *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_daemon_prints_its_configuration_and_leaves(tmp_path):
    ended = _node("--data", str(tmp_path / "none"), "--channel", "demo.root", "--print-config", SHARDCAST_KEEP="7")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert tomllib.loads(ended.stdout)["keep"] == 7
    assert sources(ended.stdout)["keep"] == "SHARDCAST_KEEP"
    assert not (tmp_path / "none").exists()


def test_a_configuration_that_is_wrong_is_not_printed():
    ended = _node("--channel", "demo.root", "--print-config")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "--data is missing" in ended.stderr
