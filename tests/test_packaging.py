"""The container files and the unit, checked by their own tools where those are installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_setting_up_compose_makes_a_channel_and_the_address_to_join_at(tmp_path):
    (tmp_path / "channel").mkdir()
    (tmp_path / "data").mkdir()
    environment = {
        "CHANNEL_DIR": str(tmp_path / "channel"),
        "SHARDCAST_DATA": str(tmp_path / "data"),
        "ORIGIN_ADDRESS": "/ip4/172.30.77.10/tcp/7481",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    door = tmp_path / "channel/bootstrap"
    run("sh", str(ROOT / "packaging/compose-setup.sh"), **environment)
    first = door.read_text()
    assert re.fullmatch(r"/ip4/172\.30\.77\.10/tcp/7481/p2p/12D3Koo\w+\n", first)
    assert (tmp_path / "data/node.key").stat().st_mode & 0o777 == 0o600
    run("sh", str(ROOT / "packaging/compose-setup.sh"), **environment)
    assert door.read_text() == first
