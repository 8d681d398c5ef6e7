"""Detects every person in images and videos and classifies their dance motion.

python launch/recognize.py --model=runs/paper --pose=mobilenet_v2_small --input=photos --output=out
python launch/recognize.py --model=runs/paper --pose=mobilenet_v2_small --input=a.mp4 --output=out

Writes OUT/<stem>.json and the annotated image for each image. For each video, writes
OUT/<stem>.json with the tracks of all people, the timeline of motions as OUT/<stem>.csv and, as a
page, OUT/<stem>.html, and the annotated video.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from absl import flags

from jdance import files
from jdance.cli import checkpoint_flag, former_name, pose_flags, run
from jdance.data import images, openpose_json, videos
from jdance.data.sources import left_out
from jdance.data.workers import load_all
from jdance.errors import UserError, is_full
from jdance.progress import Progress, counted
from jdance.recognize import feedback, video
from jdance.recognize.recognizer import Recognizer, annotate
from jdance.recognize.sequences import SequenceClassifier
from jdance.report import draw
from jdance.stagedance import stage
from jdance.train import experiment
from jdance.train.posture import PostureModel
from jdance.train.qes import POSTURE_FILE

_MODEL = flags.DEFINE_string("model", None, "Folder of a trained run.", required=True)
_CHECKPOINT = checkpoint_flag("--model")
_POSE = flags.DEFINE_string(
    "pose", "", "Pose network: a name, a published weights file, or a checkpoint folder."
)
_POSE_SIZE, _POSE_VIEWS = pose_flags()
_INPUT = flags.DEFINE_string(
    "input",
    None,
    "An image or a video, a folder of them, a folder of OpenPose JSON files (the frames of one "
    "clip), or camera:0.",
    required=True,
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results.", required=True)
_KEYPOINTS = flags.DEFINE_string(
    "keypoints",
    "",
    "Key points from another estimator instead of --pose: a folder with OpenPose's "
    "<stem>_keypoints.json for each image, <stem>_000000000000_keypoints.json and so on for a "
    "video, or one such file for one image.",
)
_MIN_JOINTS = flags.DEFINE_integer(
    "min_joints", 4, "Minimum number of joints of a detected person.", 1, 18
)
_WHOLE_IMAGE = flags.DEFINE_bool(
    "whole_image", False, "Classify the whole image where no person is found."
)
former_name("whole_picture", "whole_image")
_MIN_CONFIDENCE = flags.DEFINE_float(
    "min_confidence", 0.0, "Label motions below this probability as unknown.", 0.0, 1.0
)
_EVERY = flags.DEFINE_integer("every", 1, "Process every Nth video frame.", lower_bound=1)
_START = flags.DEFINE_float("start", 0.0, "Start time in seconds (videos only).", lower_bound=0.0)
_END = flags.DEFINE_float("end", None, "End time in seconds (videos only).", lower_bound=0.0)
_BATCH = flags.DEFINE_integer(
    "batch", 0, "Video frames per batch; 0: one per device.", lower_bound=0
)
_SEQUENCE_MODEL = flags.DEFINE_string(
    "sequence_model",
    "",
    "Folder of a trained sequence network that classifies the motions of tracks.",
)
_POSTURE_MODEL = flags.DEFINE_string(
    "posture_model",
    "",
    "Folder of a run of configs/qes.py: adds what dancers could correct in each motion.",
)
_FRAMES_PER_SECOND = flags.DEFINE_float(
    "frames_per_second",
    30.0,
    "Frame rate of clips of skeletons, which do not state it.",
    lower_bound=0.01,
)
_ISOLATE = flags.DEFINE_bool(
    "isolate", False, "Decode images in a separate process: a crash costs only that image."
)
_VIDEO_OUT = flags.DEFINE_bool("annotate", True, "Write annotated videos.")
_PRECISION = flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "bfloat16"],
    "Data type of the networks' computation; bfloat16 is meant for GPUs and TPUs.",
)
_SHOW = flags.DEFINE_bool("show", False, "Show videos and cameras in a window; q ends.")


def _inputs() -> tuple[list[Path], list[Path]]:
    """What to recognize, and what else lies in the folder but cannot be read."""
    if videos.is_camera(_INPUT.value):
        return [Path(_INPUT.value)], []
    path = Path(_INPUT.value)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check --input")
    if not path.is_dir():
        return [path], []
    found = sorted(images.find(path) + videos.find(path), key=files.natural_key)
    if not found and openpose_json.frames(path):
        return [path], []
    others = _others(path, found)
    if not found and not others:
        raise UserError(f"{path}: no images or videos in it; check --input")
    return found, others


def _others(folder: Path, inputs: list[Path]) -> list[Path]:
    """The entries of a folder that are neither inputs, nor hidden, nor there for a purpose.

    That is the folders of the flags, and what begins with an input's name and _: its key points
    and its timeline.
    """
    flagged = map(Path, filter(None, (_OUTPUT.value, _KEYPOINTS.value)))
    known = {path.resolve() for path in (*inputs, *flagged)}
    stems = tuple(f"{path.stem}_" for path in inputs)

    def belongs(path: Path) -> bool:
        kind = path.is_dir() or path.suffix in (".json", ".csv")
        return kind and path.name.startswith(stems)

    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.resolve() not in known and not belongs(path)
    )


def _is_stage(path: Path) -> bool:
    """Whether an input is a scene of launch/stage.py, whose key points beside it say so."""
    if path.is_dir():
        known = openpose_json.frames(path)[0]
    elif _kind(path) == "video":
        folder = path.with_name(f"{path.stem}_keypoints")
        known = openpose_json.path_for_frame(path.name, 0, folder)
    else:
        known = openpose_json.path_for(path, path.parent)
    return openpose_json.generator(known) == stage.NAME


def _warn_of_synthetic(inputs: list[Path]) -> None:
    """Warns where a model that was trained on StageDance alone is to recognize anything else."""
    folder = Path(_SEQUENCE_MODEL.value or _MODEL.value)
    source = experiment.source(folder)
    if source.startswith("stage:") and not all(map(_is_stage, inputs)):
        print(
            f"warning: {folder}: was trained on synthetic scenes ({source}), its motions of real "
            "people are unreliable; train on labeled images of your own",
            file=sys.stderr,
        )


def _kind(path: Path) -> str:
    if path.is_dir():
        return "skeletons"
    return "video" if videos.is_camera(str(path)) or videos.is_video(path) else "image"


def _window() -> "Window | None":
    if not _SHOW.value:
        return None
    if not draw.has_display():
        raise UserError("--show: there is no display here")
    try:
        return Window()
    except cv2.error:
        raise UserError(
            "--show: this OpenCV has no windows; pip install opencv-python in its place"
        ) from None


class Window:
    """Shows annotated frames as they come."""

    def __init__(self) -> None:
        cv2.namedWindow("jdance", cv2.WINDOW_NORMAL)

    def __call__(self, image: np.ndarray) -> bool:
        """Shows uint8 RGB [H, W, 3]; False if the user has had enough."""
        cv2.imshow("jdance", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return cv2.waitKey(1) & 0xFF not in (ord("q"), 27)


def _recognize(
    recognizer: Recognizer,
    posture: PostureModel | None,
    path: Path,
    image: np.ndarray | UserError,
    name: str,
    output: Path,
) -> None:
    if isinstance(image, UserError):
        raise image
    keypoints = None
    if _KEYPOINTS.value:
        place = Path(_KEYPOINTS.value)
        keypoints = openpose_json.read(
            openpose_json.path_for(path, place) if place.is_dir() else place
        )
    people = recognizer(image, keypoints, whole_image=_WHOLE_IMAGE.value)
    frame: dict[str, Any] = {
        "index": 0,
        "time": 0.0,
        "people": [person.to_json(track) for track, person in enumerate(people)],
    }
    for person, entry in zip(people, frame["people"], strict=True):
        if posture and person.motion in posture.classes:
            entry["feedback"] = feedback.assess(person.keypoints, person.motion, posture)
    result = {
        "source": images.printable(str(path)),
        "width": image.shape[1],
        "height": image.shape[0],
        "fps": None,
        "classes": recognizer.classes,
        "frames": [frame],
    }
    suffix = path.suffix.lower() if path.suffix.lower() in (".jpg", ".jpeg") else ".png"
    images.write(output / f"{name}{suffix}", annotate(image, people, recognizer.classes))
    (output / f"{name}.json").write_text(json.dumps(result) + "\n")


def _posture(classes: list[str]) -> PostureModel | None:
    """What is usual for the motions, if asked for."""
    if not _POSTURE_MODEL.value:
        return None
    path = Path(_POSTURE_MODEL.value) / POSTURE_FILE
    posture = PostureModel.load(path)
    if not set(classes) & set(posture.classes):
        raise UserError(
            f"{path}: knows {', '.join(posture.classes)}, none of which --model names; train it "
            "on the same motions"
        )
    return posture


def _settings(posture: PostureModel | None) -> video.Settings:
    return video.Settings(
        every=_EVERY.value,
        start=_START.value,
        end=float("inf") if _END.value is None else _END.value,
        batch=_BATCH.value,
        fps=_FRAMES_PER_SECOND.value,
        annotate=_VIDEO_OUT.value,
        posture=posture,
    )


def _recognize_clip(
    recognizer: Recognizer,
    classifier: SequenceClassifier | None,
    settings: video.Settings,
    window: "Window | None",
    path: Path,
    stem: Path,
) -> None:
    """Recognises a video or a clip of skeletons; raises UserError if a part is missing, too."""
    if _kind(path) == "skeletons":
        problem = video.recognize_skeletons(recognizer, path, stem, settings, classifier=classifier)
    else:
        known = Path(_KEYPOINTS.value) if _KEYPOINTS.value else None
        progress: list[Progress] = []

        def told(done: int, total: int) -> None:
            if total and not progress:
                progress.append(Progress(path.name, total))
            if total:
                progress[0].update(min(done, total))

        problem = video.recognize_video(
            recognizer,
            str(path),
            stem,
            settings,
            keypoints=known,
            classifier=classifier,
            show=window,
            told=told,
        )
    if problem:
        raise UserError(f"{path}: {problem}; what was read is in {stem}.json")


def main() -> None:
    inputs, others = _inputs()
    skeletons = [_kind(path) for path in inputs] == ["skeletons"]
    if bool(_POSE.value) + bool(_KEYPOINTS.value) + skeletons != 1:
        raise UserError("give either --pose or --keypoints, which locate the people")
    if len(inputs) > 1 and _KEYPOINTS.value and not Path(_KEYPOINTS.value).is_dir():
        raise UserError(f"{_KEYPOINTS.value}: one file for {len(inputs)} images; name a folder")
    output = Path(_OUTPUT.value)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be written to ({error.strerror})") from error
    if any(output.resolve() in (path.resolve(), path.parent.resolve()) for path in inputs):
        raise UserError(f"{output}: is the folder of the inputs; choose another --output")
    window = _window()
    recognizer = Recognizer.load(
        _MODEL.value,
        _POSE.value or None,
        _MIN_JOINTS.value,
        _MIN_CONFIDENCE.value,
        dtype=None if _PRECISION.value == "float32" else _PRECISION.value,
        checkpoint=_CHECKPOINT.value,
        pose_size=_POSE_SIZE.value,
        pose_views=_POSE_VIEWS.value,
    )
    classifier = SequenceClassifier.load(_SEQUENCE_MODEL.value) if _SEQUENCE_MODEL.value else None
    _warn_of_synthetic(inputs)
    posture = _posture(classifier.classes if classifier else recognizer.classes)
    settings = _settings(posture)
    names = files.distinct_names(inputs)
    image_paths = [path for path in inputs if _kind(path) == "image"]
    loaded = load_all([partial(images.read, path) for path in image_paths], int(_ISOLATE.value))
    failures = [images.printable(f"{path}: {left_out(path)}") for path in others]
    partly, total = 0, len(inputs) + len(others)
    full: Exception | None = None
    progress = Progress("recognizing", len(inputs))
    for done, (path, name) in enumerate(zip(inputs, names, strict=True), start=1):
        try:
            if _kind(path) == "image":
                _recognize(recognizer, posture, path, next(loaded), name, output)
            else:
                _recognize_clip(recognizer, classifier, settings, window, path, output / name)
        except UserError as error:
            partly += "what was read is in" in str(error)
            named = str(path) in str(error)
            failures.append(images.printable(str(error) if named else f"{path}: {error}"))
            full = error if is_full(error) else None
        except OSError as error:
            told = f"{path}: {error.filename or output}: {error.strerror}"
            failures.append(images.printable(told))
            full = error if is_full(error) else None
        if full:
            total = done + len(others)
            break
        progress.update(done)
    for failure in failures:
        print(f"skipped {failure}" if "what was read is in" not in failure else failure)
    print(f"wrote {counted(total - len(failures) + partly, 'result')} to {output}")
    if full:
        raise UserError(f"{output}: the disk is full; make room and run it again") from full
    if failures:
        whole = len(failures) - partly
        parts = [f"{whole} of {counted(total, 'input')} skipped"] * bool(whole)
        parts += [f"{partly} of {counted(total, 'input')} read in part"] * bool(partly)
        raise UserError(f"{', '.join(parts)} (listed above)")


if __name__ == "__main__":
    run(main)
