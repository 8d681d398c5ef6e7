"""Draws scenes of StageDance, the synthetic stage, with the dancers' exact key points.

python launch/stage.py --output=scenes --scenes=3 --dancers=4

Writes scene-N.jpg and scene-N_keypoints.json (OpenPose's format), and prints who does what.
"""

from pathlib import Path

import numpy as np
from absl import flags

from jdance.data import crop, images, openpose_json, stage
from jdance.launcher import run

_OUTPUT = flags.DEFINE_string("output", None, "Folder for the scenes.", required=True)
_SCENES = flags.DEFINE_integer(
    "scenes", 1, "How many, each with a stage of its own.", lower_bound=1
)
_DANCERS = flags.DEFINE_integer(
    "dancers", None, "How many in each; drawn by default.", lower_bound=1, upper_bound=6
)
_SEED = flags.DEFINE_integer("seed", 1, "Of everything that is drawn.", lower_bound=0)
_WIDTH = flags.DEFINE_integer("width", 960, "Of the pictures, in pixels.", lower_bound=32)
_HEIGHT = flags.DEFINE_integer("height", 720, "Of the pictures, in pixels.", lower_bound=32)


def main() -> None:
    output = Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(_SEED.value)
    for number in range(_SCENES.value):
        motions = None
        if _DANCERS.value:
            motions = rng.integers(len(stage.MOTIONS), size=_DANCERS.value).tolist()
        scene = stage.scene(
            _SEED.value, number, 0, motions=motions, width=_WIDTH.value, height=_HEIGHT.value
        )
        seen = [dancer for dancer in scene.dancers if dancer.keypoints.any()]
        seen.sort(key=lambda dancer: crop.tight_box(dancer.keypoints)[0])
        path = output / f"scene-{number}.jpg"
        images.write(path, scene.image)
        openpose_json.write(
            openpose_json.path_for(path, output), np.array([d.keypoints for d in seen])
        )
        print(f"{path}: from left to right {', '.join(d.motion for d in seen)}")


if __name__ == "__main__":
    run(main)
