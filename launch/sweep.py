"""Trains variants of an experiment with several seeds and compares them in one table.

python launch/sweep.py --config=configs/jhmdb.py --data=data/jhmdb1,data/jhmdb2,data/jhmdb3 \\
    --vary=model.attention=-1,0,1,2 --seeds=3 --views=10 --output=sweeps/attention

Writes OUTPUT/table.md and results.json; the runs are in OUTPUT/VARIANT/DATA/seed-N. Stop it at any
time (SIGTERM: status 75) and run the same command again: completed runs are not repeated, and an
interrupted one resumes.
"""

import json
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from jdance.cli import check_local, report_failed_runs, resumable, run
from jdance.train import sweep

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration of the experiment; --config.KEY=VALUE changes all variants."
)
_DATA = flags.DEFINE_list("data", None, "Data sets by launch/prepare.py.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the runs and the results.", required=True)
_VARY = flags.DEFINE_multi_string(
    "vary",
    [],
    "KEY=VALUE,VALUE,...: one variant per value; repeat the flag for all combinations.",
)
_VARIANT = flags.DEFINE_multi_string(
    "variant", [], "NAME KEY=VALUE KEY=VALUE ...: one more variant, with several changes."
)
_SEEDS = flags.DEFINE_integer(
    "seeds", 3, "Runs per variant and data set, with different random seeds.", lower_bound=1
)
_SPLIT = flags.DEFINE_string("split", "test", "Split of the data sets to evaluate on.")
_VIEWS = flags.DEFINE_integer(
    "views", 1, "Views per example of test-time augmentation.", lower_bound=1
)
flags.mark_flag_as_required("config")


def main() -> None:
    check_local(_OUTPUT)
    chosen = sweep.parse_variants(_VARY.value, _VARIANT.value)
    sweep.check(_CONFIG.value, chosen, _DATA.value, _SPLIT.value, _VIEWS.value)
    output = Path(_OUTPUT.value)
    with resumable():
        rows, failures = sweep.sweep(
            _CONFIG.value,
            chosen,
            _DATA.value,
            _SEEDS.value,
            output,
            split=_SPLIT.value,
            views=_VIEWS.value,
        )
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    table = sweep.table(rows, _VIEWS.value)
    (output / "table.md").write_text(table)
    print(table, end="")
    print(f"wrote {output / 'table.md'}")
    report_failed_runs(failures, "table")


if __name__ == "__main__":
    run(main, keep_memory=True)
