#!/usr/bin/env bash
# Runs the tests with the lowest or the newest versions that pyproject.toml admits, in an environment
# of its own that is removed afterwards.
#
#   bash tests/versions.sh lowest python3.11 [pytest options]
#   bash tests/versions.sh newest python3.13 [pytest options]
#
# uv, from PyPI, finds the lowest versions, which pip cannot. PyTorch is left out: it has one version.
set -euo pipefail
case ${1-} in lowest) resolution=lowest-direct ;; newest) resolution=highest ;; *)
  echo "error: say lowest or newest, then the interpreter" >&2
  exit 1
  ;;
esac
python=${2:?"error: name the interpreter, such as python3.11"}
shift 2
cd "$(dirname "$0")/.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"$python" -m venv "$place/venv"
export PATH="$place/venv/bin:$PATH" VIRTUAL_ENV="$place/venv"
python -m pip install --quiet --disable-pip-version-check uv
uv pip install --quiet --resolution "$resolution" -e '.[test]'
uv pip freeze
python -m pytest "$@"
