"""Trains a network; running it again on the same --workdir continues.

python launch/train.py --config=configs/paper.py --workdir=runs/paper --config.data.dir=data/stage
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from jdance.launcher import run
from jdance.training import loop

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, from configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
flags.mark_flag_as_required("config")


def main() -> None:
    result = loop.train(_CONFIG.value, Path(_WORKDIR.value))
    if result:
        numbers = {name: value for name, value in result.items() if isinstance(value, float)}
        print("val", ", ".join(f"{name} {value:.4f}" for name, value in numbers.items()))


if __name__ == "__main__":
    run(main)
