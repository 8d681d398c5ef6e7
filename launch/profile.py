"""Profiles a training step on this machine, or compiles a program for GPUs it does not have.

python launch/profile.py --config=configs/paper.py --steps=20 --trace=trace --output=profile.json
python launch/profile.py --config=configs/quickstart.py --data=runs/quickstart/data
python launch/profile.py --config=configs/paper.py --target=h100 --gpus=8 --hosts=64
python launch/profile.py --program=recognize --model=runs/paper --pose=stage --target=l4

The step processes random data, already on the device. --data also measures the loader on a real
data set, alone and together with the step. FLOP and bytes are counted twice: analytically, for the
network's convolutions and matmuls, and by the compiler, for the whole program. --trace writes a
trace for xprof and for ui.perfetto.dev (perfetto_trace.json.gz).

--target compiles for a GPU and runs nothing. It reports kernels, FLOP and bytes, what limits the
program, its memory, and the largest batch that fits. It needs jax's CUDA plugin (pip install -e
'.[cuda12]') but no GPU.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from jdance import files
from jdance.bench import ahead, counting, profile, targets
from jdance.cli import check_local, pose_flags, refuse_flags, run
from jdance.data.records import Dataset
from jdance.errors import UserError
from jdance.recognize.recognizer import Recognizer
from jdance.report import html
from jdance.train import distributed, experiment, tasks

PROGRAMS = ("train", "evaluate", "recognize")

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration of the experiment.")
_TARGET = flags.DEFINE_enum(
    "target", None, list(targets.TARGETS), "Compile for this GPU; none is needed."
)
_GPUS = flags.DEFINE_integer("gpus", 1, "GPUs per host (--target only).", lower_bound=1)
_HOSTS = flags.DEFINE_integer("hosts", 1, "Number of hosts (--target only).", lower_bound=1)
_PROGRAM = flags.DEFINE_enum(
    "program",
    "train",
    PROGRAMS,
    "Program to compile: a training step, evaluation, or recognition (--target only).",
)
_MODEL = flags.DEFINE_string(
    "model", None, "Trained run for --program=recognize. Default: --config with dummy weights."
)
_POSE = flags.DEFINE_string(
    "pose", "stage", "Pose network for --program=recognize; empty: key points are an input."
)
_POSE_SIZE, _POSE_VIEWS = pose_flags()
_EXPORTED = flags.DEFINE_string(
    "exported", None, "Folder by launch/export.py: compile its program (--target only)."
)
_BATCH = flags.DEFINE_integer(
    "batch",
    None,
    "Global batch size. Default: the configuration's, or 8 frames for recognition.",
    lower_bound=1,
)
_HEIGHT = flags.DEFINE_integer(
    "height", 720, "Frame height in pixels (--program=recognize).", lower_bound=1
)
_WIDTH = flags.DEFINE_integer(
    "width", 1280, "Frame width in pixels (--program=recognize).", lower_bound=1
)
_SCALE = flags.DEFINE_bool(
    "largest_batch",
    True,
    "Estimate the largest batch that fits, by also compiling for half the batch.",
)
_STEPS = flags.DEFINE_integer("steps", 20, "Number of timed steps.", lower_bound=1)
_DATA = flags.DEFINE_string("data", "", "Data set to measure the loader on.")
_TRACE = flags.DEFINE_string("trace", "", "Folder for a trace of three steps.")
_OUTPUT = flags.DEFINE_string("output", "", "JSON file for the result.")
_FLOPS = flags.DEFINE_float(
    "peak_flops",
    None,
    "Peak FLOP/s of one device. Default: known for common GPUs.",
    lower_bound=1.0,
)
_BANDWIDTH = flags.DEFINE_float(
    "peak_bandwidth",
    None,
    "Peak memory bandwidth of one device in bytes/s. Default: known for common GPUs.",
    lower_bound=1.0,
)
_CHILD = "JDANCE_COMPILE_RESULT"  # result file of the child process


def main() -> None:
    check_local(_OUTPUT, _TRACE)
    if not _TARGET.value:
        _profile()
        return
    refuse_flags(["data", "trace", "steps"], f"--target={_TARGET.value}: runs nothing; leave out")
    if _CHILD in os.environ:
        Path(os.environ[_CHILD]).write_text(json.dumps(_compile(targets.get(_TARGET.value))))
    else:
        _report(_compile_in_child())


def _compile_in_child() -> dict[str, Any]:
    """Compiles in a child process, as XLA aborts its process if compilation fails.

    Raises:
        UserError: the program does not compile, or a flag is wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        environment = os.environ | {_CHILD: str(path), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, *sys.argv], env=environment, capture_output=True, text=True
        )
        if done.returncode == 0:
            return json.loads(path.read_text())
    lines = done.stderr.splitlines()
    reported = [line for line in lines if line.startswith("error: ")]
    if reported:
        raise UserError(reported[-1].removeprefix("error: "))
    fatal = [line for line in lines if "Check failed" in line or "Error:" in line]
    reason = fatal[0] if fatal else [f"status {done.returncode}", *lines][-1]
    raise UserError(f"does not compile for {_TARGET.value}: {reason.strip()}")


def _compile(target: targets.Target) -> dict[str, Any]:
    cluster = ahead.Cluster(target, _GPUS.value, _HOSTS.value)
    if _EXPORTED.value:
        folder = Path(_EXPORTED.value)
        lower = ahead.exported_program((folder / "program.jax").read_bytes(), target)
        batch = json.loads((folder / "program.json").read_text())["frames"][0]
        return ahead.analyze(lower, cluster, batch, scalable=False)
    if _PROGRAM.value == "recognize":
        if cluster.devices > 1:
            raise UserError(
                "--program=recognize: compiles for one GPU; leave --gpus and --hosts out"
            )
        if _MODEL.value:
            recognizer = Recognizer.load(
                _MODEL.value,
                _POSE.value or None,
                pose_size=_POSE_SIZE.value,
                pose_views=_POSE_VIEWS.value,
            )
        else:
            _check_config()
            recognizer = ahead.dummy_recognizer(
                _CONFIG.value, 6, _POSE.value or None, _POSE_SIZE.value, _POSE_VIEWS.value
            )
        lower = ahead.recognition_program(
            recognizer, target, _HEIGHT.value, _WIDTH.value, known=not _POSE.value
        )
        return ahead.analyze(lower, cluster, _BATCH.value or 8, _SCALE.value)
    _check_config()
    config = _CONFIG.value
    if _BATCH.value:
        config.batch_size = _BATCH.value
    classes = 0 if config.task == "pose" else config.model.classes or 6
    task = tasks.make(config, [str(number) for number in range(classes)])
    experiment.check(task)
    batch = task.config.batch_size
    if batch % (cluster.devices * task.config.accumulate):
        raise UserError(
            f"batch_size={batch}: not divisible among {cluster.devices} GPUs; set --batch"
        )
    lower = (ahead.training_program if _PROGRAM.value == "train" else ahead.evaluation_program)(
        task, cluster
    )
    return ahead.analyze(lower, cluster, batch, _SCALE.value)


def _check_config() -> None:
    if _CONFIG.value is None:
        raise UserError("--config: missing; name a file of configs/")


def _report(result: dict[str, Any]) -> None:
    print(html.to_markdown("Compiled ahead of time", ahead.sections(result)))
    if _OUTPUT.value:
        files.atomic_write(Path(_OUTPUT.value), json.dumps(result, indent=2) + "\n")


def _profile() -> None:
    _check_config()
    refuse_flags(
        ["program", "gpus", "hosts", "model", "exported", "pose", "pose_size", "pose_views"],
        "without --target, a training step is timed: leave out",
    )
    # Measures the time of a real compilation.
    jax.config.update("jax_enable_compilation_cache", False)
    config = _CONFIG.value
    classes, dataset = [str(number) for number in range(config.model.get("classes", 0))], None
    if _BATCH.value:
        config.batch_size = _BATCH.value
    if _DATA.value:
        config.data.dir = _DATA.value
        dataset = Dataset(_DATA.value, tasks.data_kind(config))
        classes = dataset.classes
    task = tasks.make(config, classes)
    if dataset is not None:
        task.setup(dataset)
    experiment.check(task)
    distributed.check_batch_size(task.config.batch_size, task.config.accumulate)
    known = counting.device_peak(
        jax.devices()[0].device_kind, task.config.model.get("dtype", "float32")
    )
    peak = counting.Peak(_FLOPS.value or known.flops, _BANDWIDTH.value or known.bandwidth)
    trace = Path(_TRACE.value) if _TRACE.value else None
    result = profile.measure(task, _STEPS.value, peak, trace, dataset)
    print(html.to_markdown("Profile", profile.sections(result)))
    if _OUTPUT.value:
        files.atomic_write(Path(_OUTPUT.value), json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    run(main, keep_memory=True)
