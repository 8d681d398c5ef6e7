"""Renders images or videos of StageDance, the synthetic stage, with exact key points.

python launch/stage.py --output=scenes --scenes=3 --dancers=4
python launch/stage.py --output=videos --video --scenes=2 --seconds=20

Images: writes scene-N.jpg and scene-N_keypoints.json (OpenPose's format), and prints the motions.

Videos: writes scene-N.webm (or .mp4), the key points of each frame to scene-N_keypoints/, and the
timeline of each dancer's motions to scene-N_truth.csv; manifest.csv labels the parts of all videos
for launch/prepare.py.
"""

import csv
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from absl import flags

from jdance.cli import check_local, run
from jdance.data import crop, images, openpose_json, videos
from jdance.progress import counted
from jdance.recognize import timeline
from jdance.stagedance import stage, video

_OUTPUT = flags.DEFINE_string("output", None, "Folder for the scenes.", required=True)
_SCENES = flags.DEFINE_integer(
    "scenes", 1, "Number of scenes, each on a different stage.", lower_bound=1
)
_DANCERS = flags.DEFINE_integer(
    "dancers",
    None,
    "Dancers per scene. Default: random in images, 3 in videos.",
    lower_bound=1,
    upper_bound=6,
)
_SEED = flags.DEFINE_integer("seed", 1, "Random seed.", lower_bound=0)
_WIDTH = flags.DEFINE_integer("width", 960, "Image width in pixels.", lower_bound=32)
_HEIGHT = flags.DEFINE_integer("height", 720, "Image height in pixels.", lower_bound=32)
_VIDEO = flags.DEFINE_bool("video", False, "Render videos in which motions change at known times.")
_SECONDS = flags.DEFINE_float("seconds", 20.0, "Video length in seconds.", lower_bound=1.0)
_FPS = flags.DEFINE_float("fps", 15.0, "Video frames per second.", 1.0, 60.0)


def _write_video(number: int, output: Path) -> Iterator[list[str]]:
    """Writes a video with its key points and the true timeline of its dancers.

    Yields the rows of the manifest.
    """
    clip = video.StageVideo(
        _SEED.value, number, dancers=_DANCERS.value or 3, seconds=_SECONDS.value,
        width=_WIDTH.value, height=_HEIGHT.value,
    )  # fmt: skip
    path = videos.output_path(output / f"scene-{number}")
    folder = output / f"scene-{number}_keypoints"
    folder.mkdir(exist_ok=True)
    for older in openpose_json.frames(folder):  # of a longer video
        older.unlink()
    boxes: list[list[tuple[float, tuple[float, ...]]]] = [[] for _ in clip.spans]
    with closing(videos.VideoWriter(path, _FPS.value)) as writer:
        for index, (when, scene) in enumerate(clip.frames(_FPS.value)):
            writer.write(when, scene.image)
            for track, dancer in enumerate(scene.dancers):
                if dancer.keypoints.any():
                    boxes[track].append((when, crop.tight_box(dancer.keypoints)))
            seen = [d.keypoints for d in scene.dancers if d.keypoints.any()]
            seen.sort(key=lambda keypoints: crop.tight_box(keypoints)[0])
            target = openpose_json.path_for_frame(path.name, index, folder)
            openpose_json.write(target, np.array(seen), stage.NAME)
    truth = [
        timeline.Segment(track, span.start, span.end, stage.MOTIONS[span.motion], 1.0)
        for track, spans in enumerate(clip.spans)
        for span in spans
    ]
    timeline.write_csv(output / f"scene-{number}_truth.csv", truth)
    print(f"{path}: {counted(len(clip.spans), 'dancer')}, {counted(len(truth), 'motion')}")
    for s in truth:
        inside = [box for when, box in boxes[s.track] if s.start <= when < s.end]
        if inside:
            box = " ".join(f"{value:.1f}" for value in np.mean(inside, 0))
            yield [path.name, s.motion, f"{s.start:.3f}", f"{s.end:.3f}", box]


def main() -> None:
    check_local(_OUTPUT)
    output = Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    if _VIDEO.value:
        with open(output / "manifest.csv", "w", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["path", "label", "start", "end", "box"])
            for number in range(_SCENES.value):
                table.writerows(_write_video(number, output))
        return
    rng = np.random.default_rng(_SEED.value)
    for number in range(_SCENES.value):
        motions = None
        if _DANCERS.value:
            motions = rng.integers(len(stage.MOTIONS), size=_DANCERS.value).tolist()
        scene = stage.render_scene(
            _SEED.value, number, 0, motions=motions, width=_WIDTH.value, height=_HEIGHT.value
        )
        seen = [dancer for dancer in scene.dancers if dancer.keypoints.any()]
        seen.sort(key=lambda dancer: crop.tight_box(dancer.keypoints)[0])
        path = output / f"scene-{number}.jpg"
        images.write(path, scene.image)
        openpose_json.write(
            openpose_json.path_for(path.stem, output),
            np.array([d.keypoints for d in seen]),
            stage.NAME,
        )
        print(f"{path}: from left to right {', '.join(d.motion for d in seen)}")


if __name__ == "__main__":
    run(main)
