# Sourced by the other scripts. `environment EXTRA...` creates the virtual environment $VENV
# (default .venv), installs jdance with these extras, and activates it. $PYTHON is the interpreter
# to use; by default the first suitable one. Modules are compiled at their first import, which is
# quicker than compiling all of them.

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
    if "$candidate" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
      2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: no Python 3.11 to 3.13 with its venv module found; install one, or set PYTHON=..." >&2
  return 1
}

environment() {
  local extras stamp python venv=${VENV:-.venv}
  extras=$(IFS=,; echo "$*")
  stamp="$venv/.installed-$(cksum <<<"$extras $(cat pyproject.toml)" | cut -d' ' -f1)"
  if [ ! -e "$stamp" ]; then
    python=$(find_python)
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv "$venv"
    echo "installing jdance into $venv (the first time takes a minute)"
    "$venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
      -e ".${extras:+[$extras]}"
    touch "$stamp"
  fi
  export PATH="$PWD/$venv/bin:$PATH"
}

# Like `environment`, but also installs jax's CUDA plugin if there is a GPU. If jax cannot use the
# GPU, prints why and falls back to JAX_PLATFORMS=cpu.
environment_for_gpu() {
  local cuda reason
  cuda=$(nvidia-smi 2>/dev/null | grep -o 'CUDA Version: [0-9]*' | grep -o '[0-9]*$') || cuda=
  if [ -z "$cuda" ]; then
    environment "$@"
    return
  fi
  if [ "$cuda" -lt 12 ]; then
    environment "$@"
    reason="its driver is for CUDA $cuda; CUDA 12 or newer is needed"
  else
    environment "cuda$((cuda >= 13 ? 13 : 12))" "$@"
    reason=$(python -c 'import jax; jax.devices("gpu")' 2>&1 >/dev/null) && return
    reason=$(tail -n 1 <<<"$reason")
  fi
  echo "note: jax cannot use this machine's GPU ($reason); using the CPU"
  export JAX_PLATFORMS=cpu
}
