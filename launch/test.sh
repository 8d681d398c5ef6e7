#!/usr/bin/env bash
# Installs jdance and its test dependencies into .venv, then lints, type-checks, and runs all tests
# on up to four CPU cores. Without PyTorch, the tests that compare with it are skipped.
#
#   bash launch/test.sh [pytest options]      with options, tests run on one core, such as -m slow
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
environment test
if [ ! -e .venv/.reference ]; then
  if python -m pip install --quiet --disable-pip-version-check -e '.[reference]'; then
    touch .venv/.reference
  else
    echo "note: PyTorch cannot be installed; tests that compare with it are skipped"
  fi
fi

ruff check .
ruff format --check .
mypy
[ $# -gt 0 ] || set -- --numprocesses=auto --maxprocesses=4 --dist=worksteal
python -m pytest "$@"
