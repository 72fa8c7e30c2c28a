#!/usr/bin/env bash
# Creates the project's own virtual environment from the lock file. Does nothing when that is done and nothing changed.
# Exit 2: something is missing on this machine that only its owner can install; one sentence says what.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3.11}
VENV=${VENV:-.venv}
LOCK=requirements-dev.lock
STAMP=$VENV/.setup-stamp

say() { printf 'setup: %s\n' "$*" >&2; }
stop() { say "$*"; exit 2; }

# What the environment was made from: the inputs, the interpreter, and the folder (an editable install names it).
fingerprint() {
  { cat pyproject.toml "$LOCK" tools/setup.sh; pwd; "$PYTHON" -VV; } | sha256sum | cut -d' ' -f1
}

# libp2p brings fastecdsa, which is compiled here: a C compiler, gmp.h and Python.h have to be present.
can_compile() {
  local include
  include=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  command -v cc >/dev/null && printf '#include <Python.h>\n#include <gmp.h>\n' | cc -E -I"$include" - >/dev/null 2>&1
}

can_make_venv() { "$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1; }

need_system_packages() {
  local name packages=()
  name=$(basename "$PYTHON")
  command -v "$PYTHON" >/dev/null || packages+=("$name")
  if [ ${#packages[@]} -gt 0 ] || ! can_make_venv; then packages+=("$name-venv"); fi
  if [ ${#packages[@]} -gt 0 ] || ! can_compile; then packages+=(gcc libc6-dev libgmp-dev "$name-dev"); fi
  if [ ${#packages[@]} -eq 0 ]; then return; fi
  local advice="apt-get install ${packages[*]}"
  [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null ||
    stop "these system packages are needed and only root can install them: $advice"
  say "installing system packages: ${packages[*]}"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"; } >&2 ||
    stop "the system packages could not be installed; run this by hand and look at its error: $advice"
  command -v "$PYTHON" >/dev/null && can_make_venv && can_compile ||
    stop "still missing after the install: $PYTHON with venv, a C compiler, gmp.h or Python.h ($advice)"
}

if [ -f "$STAMP" ] && command -v "$PYTHON" >/dev/null && [ "$(cat "$STAMP")" = "$(fingerprint)" ] && "$VENV/bin/python" -c '' 2>/dev/null; then
  exit 0
fi

need_system_packages
"$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' ||
  stop "$PYTHON is $("$PYTHON" -V), but 3.11 or 3.12 is needed; name another with: make PYTHON=python3.11 setup"

say "creating $VENV with $("$PYTHON" -V)"
"$PYTHON" -m venv --clear "$VENV"
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }
say "installing $(grep -c '==' "$LOCK") locked packages (a minute or two; one of them is compiled)"
pip install -qq --progress-bar off --require-hashes --requirement "$LOCK" >&2
say "installing shardcast-node in place"
pip install -qq --no-deps --no-build-isolation --editable . >&2
fingerprint >"$STAMP"
say "done: $VENV"
