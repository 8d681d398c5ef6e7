"""Every program compiles ahead of time for GPUs, without growth; see gpu_programs.py.

bash launch/test_gpu.sh runs these, in an environment with jax's CUDA plugin.
"""

import importlib.util
import json

import jax
import pytest
from gpu_programs import BOUNDS, PROGRAMS, RECORD, compile_program, export

GROWTH = 1.05
# Like others, but for the batch size or the GPU's memory; a minute each.
SLOW = ("train paper, bfloat16, batch 256", "train paper, bfloat16, batch 64, H200")


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program") / "exported"
    export(folder)
    return folder


def test_every_program_has_a_record():
    assert set(json.loads(RECORD.read_text())) == set(PROGRAMS), (
        "python tests/gpu_programs.py --record adds what is missing"
    )


@pytest.mark.gpu
@pytest.mark.skipif(
    not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)),
    reason="jax's CUDA plugin is not installed",
)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in PROGRAMS],
)
def test_compiles_and_has_not_grown(name, request):
    folder = request.getfixturevalue("exported") if "exported" in name else None
    result = compile_program(name, folder)
    recorded = json.loads(RECORD.read_text())[name]
    if recorded["jax"] != jax.__version__:
        return  # counts of different compilers are not comparable
    grown = {
        key: (recorded[key], result[key]) for key in BOUNDS if result[key] > GROWTH * recorded[key]
    }
    assert not grown, f"above the record: {grown}; if intended, record again"
