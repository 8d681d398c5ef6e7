#!/usr/bin/env bash
# Makes .venv if need be, installs jdance with what its tests need, and runs them all, on up to four
# CPU cores at once. Tests that compare with PyTorch are skipped where that cannot be installed.
#
#   bash launch/test.sh [pytest options]      for instance: -m slow; then one test after the other
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
environment test
if [ ! -e .venv/.reference ]; then
  if python -m pip install --quiet --disable-pip-version-check -e '.[reference]'; then
    touch .venv/.reference
  else
    echo "PyTorch cannot be installed now: the tests that compare with it are skipped"
  fi
fi

ruff check .
ruff format --check .
mypy
[ $# -gt 0 ] || set -- --numprocesses=auto --maxprocesses=4 --dist=worksteal
python -m pytest "$@"
