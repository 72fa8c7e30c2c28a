#!/usr/bin/env bash
# Adds torch to the project's virtual environment, for `make test`. Does nothing when that is done and nothing changed.
# TORCH=none leaves it out: the tests that need it are then skipped, and say so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-.venv}
LIST=requirements-torch.txt
STAMP=$VENV/.torch-stamp

if [ "${TORCH:-}" = none ] || { [ -f "$STAMP" ] && cmp -s "$LIST" "$STAMP"; }; then
  exit 0
fi
printf 'setup: installing torch (200 MB to some GB, by the index that pip is set to; TORCH=none leaves it out)\n' >&2
"$VENV/bin/python" -m pip --disable-pip-version-check --no-input install -qq --progress-bar off --requirement "$LIST" >&2
cp "$LIST" "$STAMP"
