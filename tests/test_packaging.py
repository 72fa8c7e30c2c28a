"""The container files and the unit, checked by their own tools where those are installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shardcast_proto.errors import ConfigError, StoreError, TrustError

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "packaging/shardcast-node.service"


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"needs {name}, which is not installed")
    return found


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_dockerfile_has_no_complaint_of_hadolint():
    run(tool("hadolint"), str(ROOT / "Dockerfile"))


def test_the_compose_file_is_valid_by_its_schema():
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(ROOT / "compose.yaml"))


def test_the_image_is_built_without_torch():
    names = re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert "libp2p" in names
    assert "torch" not in names


def test_systemd_understands_the_unit(tmp_path):
    text = re.sub(r"^ExecStart=.*$", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE)
    (tmp_path / UNIT.name).write_text(re.sub(r"^(User|Group)=.*$", r"\1=root", text, flags=re.MULTILINE))
    run(tool("systemd-analyze"), "verify", "--man=no", str(tmp_path / UNIT.name))


def test_a_full_disk_never_ends_the_unit_and_a_wrong_configuration_does():
    unit = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))
    codes = {int(code) for code in unit["RestartPreventExitStatus"].split()}
    assert (unit["Restart"], unit["StartLimitIntervalSec"]) == ("on-failure", "0")
    assert int(unit["RestartSec"]) >= 10  # without a limit of starts, the pause is all that keeps them apart
    assert codes == {ConfigError.exit_code, TrustError.exit_code} and StoreError.exit_code not in codes


def test_setting_up_compose_makes_a_channel_and_the_address_to_join_at(tmp_path):
    first = set_up(tmp_path)
    assert re.fullmatch(rb"/ip4/172\.30\.77\.10/tcp/7481/p2p/12D3Koo\w+\n", first["channel/bootstrap"])
    assert sorted(first) == [
        "channel/bootstrap",
        "channel/demo.root",
        "data/node.key",
        "keys/demo.key",
        "keys/demo.root",
        "keys/demo.root.key",
    ]
    for name in ("data/node.key", "keys/demo.key", "keys/demo.root.key"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "channel/demo.root").stat().st_mode & 0o777 == 0o644
    assert set_up(tmp_path) == first


def test_setting_up_compose_takes_keys_away_from_where_all_nodes_could_read_them(tmp_path):
    first = set_up(tmp_path)
    for path in (tmp_path / "keys").iterdir():
        path.rename(tmp_path / "channel" / path.name)
    assert set_up(tmp_path) == first


def test_only_the_origin_and_its_setup_mount_the_keys():
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    document = yaml.safe_load((ROOT / "compose.yaml").read_text())
    mounts = {
        name: {mount.partition(":")[0] for mount in service["volumes"]}
        for name, service in document["services"].items()
    }
    assert {name for name, volumes in mounts.items() if "origin-keys" in volumes} == {"setup", "origin"}
    assert {name for name, volumes in mounts.items() if "origin-data" in volumes} == {"setup", "origin"}
    assert all("channel" in volumes for volumes in mounts.values())


def set_up(home: Path) -> dict[str, bytes]:
    """Run what `setup` runs, and return all files that are there then."""
    for name in ("channel", "keys", "data"):
        (home / name).mkdir(exist_ok=True)
    environment = {
        "CHANNEL_DIR": str(home / "channel"),
        "KEYS_DIR": str(home / "keys"),
        "SHARDCAST_DATA": str(home / "data"),
        "ORIGIN_ADDRESS": "/ip4/172.30.77.10/tcp/7481",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    run("sh", str(ROOT / "packaging/compose-setup.sh"), **environment)
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}
