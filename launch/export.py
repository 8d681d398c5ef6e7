"""Exports the recognition program, from pixels to motions, for use without this library.

python launch/export.py --model=runs/paper --pose=mobilenet_v2_small --output=exported

The folder's load.py shows how to call it; requirements.txt lists what it needs.
"""

from pathlib import Path

from absl import flags

from jdance.cli import check_local, checkpoint_flag, former_name, pose_flags, run
from jdance.errors import UserError
from jdance.recognize.export import PLATFORMS, export
from jdance.recognize.recognizer import Recognizer

_MODEL = flags.DEFINE_string(
    "model", None, "Motion network, as for launch/recognize.py.", required=True
)
_CHECKPOINT = checkpoint_flag("--model")
_POSE = flags.DEFINE_string(
    "pose", None, "Pose network, as for launch/recognize.py.", required=True
)
_POSE_SIZE, _POSE_VIEWS = pose_flags()
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the exported program.", required=True)
_BATCH = flags.DEFINE_integer("batch", 1, "Frames per batch.", lower_bound=1)
_HEIGHT = flags.DEFINE_integer("height", 720, "Maximum frame height in pixels.", lower_bound=32)
_WIDTH = flags.DEFINE_integer("width", 1280, "Maximum frame width in pixels.", lower_bound=32)
_PLATFORMS = flags.DEFINE_list("platforms", list(PLATFORMS), "Platforms to compile for.")
_MIN_JOINTS = flags.DEFINE_integer(
    "min_joints", 4, "Minimum number of joints of a detected person.", 1, 18
)
_WHOLE_IMAGE = flags.DEFINE_bool(
    "whole_image", False, "Classify the whole image if no person is detected."
)
former_name("whole_picture", "whole_image")


def main() -> None:
    check_local(_OUTPUT)
    unknown = sorted(set(_PLATFORMS.value) - {"cpu", "cuda", "rocm", "tpu"})
    if unknown or not _PLATFORMS.value:
        raise UserError(f"--platforms={','.join(_PLATFORMS.value)}: expected cpu, cuda, rocm, tpu")
    recognizer = Recognizer.load(
        _MODEL.value,
        _POSE.value,
        _MIN_JOINTS.value,
        checkpoint=_CHECKPOINT.value,
        pose_size=_POSE_SIZE.value,
        pose_views=_POSE_VIEWS.value,
    )
    info = export(
        recognizer,
        Path(_OUTPUT.value),
        batch=_BATCH.value,
        height=_HEIGHT.value,
        width=_WIDTH.value,
        platforms=_PLATFORMS.value,
        whole_image=_WHOLE_IMAGE.value,
    )
    print(f"wrote {_OUTPUT.value}: frames {info['frames']} for {', '.join(_PLATFORMS.value)}")


if __name__ == "__main__":
    run(main)
