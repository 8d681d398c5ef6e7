"""Reproduces the paper's evaluation on your data: the method, its variants, STR and QES.

python launch/prepare.py --source=stage:paper --pose=stage --output=data/stage
python launch/reproduce.py --data=data/stage --output=reproduction

Writes OUTPUT/report.html, a self-contained page, and its tables as tables.md. Stop it at any time
(SIGTERM: status 75) and run the same command again: completed runs are not repeated, and an
interrupted one resumes from its newest checkpoint.

--preset=full uses the paper's network, for a GPU, with the recipe for random weights of
configs/paper.py; small makes the same tables with a network for CPUs; reduced trains the four
compared methods once, split by video.
"""

import dataclasses
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from jdance import config as defaults
from jdance.cli import check_local, report_failed_runs, resumable, run
from jdance.errors import UserError
from jdance.paper import plan
from jdance.paper.run import reproduce

_DATA = flags.DEFINE_string("data", None, "Data set by launch/prepare.py.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the runs and the report.", required=True)
_PRESET = flags.DEFINE_enum(
    "preset",
    "full",
    list(plan.PRESETS),
    "Size of the reproduction: 78 runs for full and small, 4 for reduced.",
)
_SEEDS = flags.DEFINE_integer(
    "seeds", None, "Runs per variant, with different random seeds. Default: 3, for reduced 1.", 1
)
_SPLITS = flags.DEFINE_list(
    "splits", None, "How to split the data: video, frame, or both. Default: the preset's."
)
_ABLATIONS = flags.DEFINE_bool(
    "ablations", None, "Also train the method's variants. Default: the preset's."
)
_SWEEP = flags.DEFINE_bool("sweep", False, "Also search over batch sizes and layer widths.")
_POSE = flags.DEFINE_string(
    "pose", "", "Pose network to include in the speed measurement. Default: none."
)
_CONFIG = flags.DEFINE_string("config", "", "Configuration of the method. Default: the preset's.")


def _load(name: str) -> ConfigDict:
    if _CONFIG.value and name == plan.PRESETS[_PRESET.value].proposed:
        return defaults.load(_CONFIG.value)
    return defaults.load(str(Path(__file__).resolve().parent.parent / "configs" / name))


def main() -> None:
    check_local(_OUTPUT)
    preset = plan.PRESETS[_PRESET.value]
    if _ABLATIONS.value is not None:
        preset = dataclasses.replace(preset, ablations=_ABLATIONS.value)
    splits = _SPLITS.value or preset.splits
    if not {"video", "frame"}.issuperset(splits):
        raise UserError(f"--splits={','.join(splits)}: expected video, frame, or video,frame")
    config, chosen = plan.variants(preset, _load, search=_SWEEP.value)
    output = Path(_OUTPUT.value)
    with resumable():
        failures = reproduce(
            config,
            chosen,
            _DATA.value,
            output,
            splits,
            _SEEDS.value or preset.seeds,
            _POSE.value,
            plan.differences(preset),
        )
    print(f"wrote {output / 'report.html'} and tables.md")
    report_failed_runs(failures, "report")


if __name__ == "__main__":
    run(main, keep_memory=True)
