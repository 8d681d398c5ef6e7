#!/usr/bin/env bash
# Runs the tests with the lowest or the newest versions that pyproject.toml allows, in a temporary
# environment.
#
#   bash tests/versions.sh lowest python3.11 [pytest options]
#   bash tests/versions.sh newest python3.13 [pytest options]
#
# Uses uv, as pip cannot resolve to the lowest versions. PyTorch is left out, as its version is
# pinned.
set -euo pipefail
case ${1-} in lowest) resolution=lowest-direct ;; newest) resolution=highest ;; *)
  echo "error: expected lowest or newest, then the interpreter" >&2
  exit 1
  ;;
esac
python=${2:?"error: name the interpreter, such as python3.11"}
shift 2
cd "$(dirname "$0")/.."
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
"$python" -m venv "$temp/venv"
export PATH="$temp/venv/bin:$PATH" VIRTUAL_ENV="$temp/venv"
python -m pip install --quiet --disable-pip-version-check uv
uv pip install --quiet --resolution "$resolution" -e '.[test]'
uv pip freeze
python -m pytest "$@"
