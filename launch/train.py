"""Trains a network; running it again on the same --workdir continues.

python launch/train.py --config=configs/paper.py --workdir=runs/paper --config.data.dir=data/stage
python launch/train.py --config=configs/paper.py --summary

DIR/report.html shows how it went.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from jdance import models
from jdance.launcher import run
from jdance.report import run as report
from jdance.training import experiment, judge, loop, tasks

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, from configs/.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run.")
_SUMMARY = flags.DEFINE_bool(
    "summary", False, "Only print the network's modules with shapes, parameters and FLOPs."
)
flags.mark_flag_as_required("config")
flags.register_multi_flags_validator(
    ["workdir", "summary"],
    lambda values: bool(values["workdir"]) != values["summary"],
    message="give either --workdir, to train, or --summary",
)


def main() -> None:
    config = _CONFIG.value
    if _SUMMARY.value:
        classes = [str(number) for number in range(config.model.classes)]
        experiment.check(tasks.make(config, classes))
        print(models.summary(config.model, config.data.image_size))
        return
    workdir = Path(_WORKDIR.value)
    result = loop.train(config, workdir)
    if "confusion" in result:  # again, with the mistakes, for the report
        result, _ = judge.judge([workdir], "val")
    report.write(workdir)
    if result:
        numbers = {name: value for name, value in result.items() if isinstance(value, float)}
        print("val", ", ".join(f"{name} {value:.4f}" for name, value in numbers.items()))


if __name__ == "__main__":
    run(main)
