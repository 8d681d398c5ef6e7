"""Packs a run's motion network into one small file, for --model of other programs.

python launch/pack.py --workdir=runs/dance6 --output=dance6.npz

The file has the configuration, the classes, the parameters in half precision, and the temperature
and threshold of launch/evaluate.py --calibrate.
"""

from pathlib import Path

from absl import flags

from jdance.cli import check_local, checkpoint_flag, run
from jdance.recognize import packed

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_CHECKPOINT = checkpoint_flag("--workdir")
_OUTPUT = flags.DEFINE_string("output", None, "File (.npz) to write.", required=True)


def main() -> None:
    check_local(_OUTPUT)
    file = Path(_OUTPUT.value)
    packed.pack(Path(_WORKDIR.value), file, _CHECKPOINT.value)
    print(f"wrote {file}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    run(main)
