#!/usr/bin/env bash
# Installs jdance and its test dependencies into .venv, then lints, type-checks, and runs all tests
# on up to four CPU cores. Without PyTorch or Rerun, the tests that need them are skipped.
#
#   bash launch/test.sh [pytest options]      with options, tests run on one core, such as -m slow
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
environment test
for extra in reference rerun; do
  [ ! -e ".venv/.$extra" ] || continue
  if python -m pip install --quiet --no-compile --disable-pip-version-check -e ".[$extra]"; then
    touch ".venv/.$extra"
  else
    echo "note: the extra $extra cannot be installed; tests that need it are skipped"
  fi
done

ruff check .
ruff format --check .
mypy
[ $# -gt 0 ] || set -- --numprocesses=auto --maxprocesses=4 --dist=worksteal
python -m pytest "$@"
