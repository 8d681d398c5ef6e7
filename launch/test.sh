#!/usr/bin/env bash
# Makes .venv if need be, installs jdance with what its tests need, and runs them all.
#
#   bash launch/test.sh [pytest options]      for instance: -m slow
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
environment test

ruff check .
ruff format --check .
mypy
python -m pytest "$@"
