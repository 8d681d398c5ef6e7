#!/usr/bin/env bash
# Compiles every program for GPUs, without needing one, and compares kernels, loops, memory and
# memory traffic with recorded values. Installs jax's CUDA plugin into .venv-gpu.
#
#   bash launch/test_gpu.sh [cuda12|cuda13] [pytest options]
#
# The default is cuda12. CUDA 13 needs Python 3.12: PYTHON=python3.13 bash launch/test_gpu.sh cuda13
# Steps that differ from others only in the batch size or the GPU's memory take -m gpu.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
cuda=cuda12
case ${1-} in cuda12 | cuda13) cuda=$1 && shift ;; esac
VENV=.venv-gpu
[ "$cuda" = cuda12 ] || VENV=.venv-gpu13
environment "$cuda" test
python -m pytest -m "gpu and not slow" --numprocesses=2 tests/test_gpu_programs.py "$@"
