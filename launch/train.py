"""Trains a network, or resumes the run in --workdir.

python launch/train.py --config=configs/paper.py:scratch --workdir=runs/paper
python launch/train.py --config=configs/paper.py --summary

Any value of the configuration can be overridden with --config.KEY=VALUE. WORKDIR/report.html shows
the learning curves and the evaluation on val. SIGTERM or SIGUSR1 saves a checkpoint and exits with
status 75.

On a cluster, start one process per GPU or per machine: with Slurm (launch/slurm.sh), Kubernetes
(launch/kubernetes.yaml), Open MPI (5 or later needs mpi4py), or by hand with --coordinator,
--process_id and --num_processes. A signal to any process stops all of them after the same step.
"""

import os
import shlex
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from jdance import models
from jdance.cli import run
from jdance.data.records import Dataset
from jdance.report import run as report
from jdance.train import distributed, evaluation, experiment, loop, results, tasks, workdirs
from jdance.train.checkpoints import NEWEST

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration of the experiment.")
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of the run, or its address in a store (s3:// or gs://)."
)
_SUMMARY = flags.DEFINE_bool(
    "summary",
    False,
    "Print the network's modules with shapes, parameters and FLOPs instead of training.",
)
_RESUME = flags.DEFINE_enum(
    "resume", "auto", ["never", "auto", "must"], "Whether to resume from a checkpoint in --workdir."
)
_WATCHDOG = flags.DEFINE_float(
    "watchdog",
    600.0,
    "Seconds without a finished step after which the process exits with status 70; 0: no limit.",
    lower_bound=0.0,
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0. Default: from Slurm or Open MPI."
)
_PROCESS = flags.DEFINE_integer(
    "process_id", None, "Index of this process. Default: $JOB_COMPLETION_INDEX, if set."
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes.")
flags.mark_flag_as_required("config")
flags.register_multi_flags_validator(
    ["workdir", "summary"],
    lambda values: bool(values["workdir"]) != values["summary"],
    message="give either --workdir, to train, or --summary",
)


def _write_results(result: dict[str, Any], workdir: Path) -> None:
    """Writes the last evaluation and the report."""
    if "confusion" in result:
        described = {"views": 1, "drop_joints": "", "checkpoint": NEWEST}
        results.write(result | described, workdir, "val")
    report.write(workdir)


def main() -> None:
    config = _CONFIG.value
    if _SUMMARY.value:
        classes = config.model.get("classes", 0)  # pose networks have none
        task = tasks.make(config, [str(number) for number in range(classes)])
        experiment.check(task)
        print(models.summary(task.model(), *task.input_shapes()))
        return
    where = distributed.address_from_flags(
        _COORDINATOR.value, _PROCESS.value, _PROCESSES.value, os.environ
    )
    with distributed.initialized(where, _WATCHDOG.value):
        first = distributed.is_main_process()
        with workdirs.opened(_WORKDIR.value) as workdir:
            result = loop.train(config, workdir, resume=_RESUME.value, watchdog=_WATCHDOG.value)
            if first:
                _write_results(result, workdir)
    if not first:
        return
    if result:
        metrics = {name: value for name, value in result.items() if isinstance(value, float)}
        print("val", ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        if "confusion" in result and (guess := evaluation.only_prediction(result)):
            print(
                f"note: has learned nothing, every example of val is called {guess}; from random "
                "weights, docs/training.md#from-random-weights has what helps"
            )
    dataset = Dataset(config.data.dir, "")
    split = next((name for name in ("test", "val", "train") if dataset.count(name)), "test")
    run_folder = shlex.quote(_WORKDIR.value)
    print(f"next: python launch/evaluate.py --workdir={run_folder} --split={split}")


if __name__ == "__main__":
    run(main, keep_memory=True)
