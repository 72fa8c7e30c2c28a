#!/usr/bin/env bash
# Resolves the dependencies into exact, hashed lock files: one to run a node, one that adds what development needs.
# No registry is named in them, so any mirror serves.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-.venv}

"$VENV/bin/python" -c 'import uv' 2>/dev/null ||
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1' >&2

compile() {
  "$VENV/bin/python" -m uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
    --no-header --no-annotate --no-emit-index-url --no-emit-find-links "$@"
}

compile --upgrade --output-file requirements.lock >/dev/null
compile --upgrade --extra dev --constraint requirements.lock --output-file requirements-dev.lock >/dev/null
printf 'lock: %s packages to run, %s to develop\n' "$(grep -c '==' requirements.lock)" "$(grep -c '==' requirements-dev.lock)" >&2
