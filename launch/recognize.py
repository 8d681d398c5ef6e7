"""Detects every person in images and videos and classifies their dance motion.

python launch/recognize.py --pose=hpe0001 --input=photos --output=out
python launch/recognize.py --model=runs/paper --pose=hpe0001 --input=a.mp4 --output=out

For each image, writes OUT/<stem>.json and the annotated image. For each video, writes the tracks of
all people to OUT/<stem>.json, the timeline of their motions to OUT/<stem>.csv and OUT/<stem>.html,
and the annotated video. --format adds files that other tools open.
"""

import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from absl import flags

from jdance import files
from jdance.cli import former_name, pose_flags, recognition_flags, run
from jdance.data import images
from jdance.data.sources import skip_reason
from jdance.data.workers import load_all
from jdance.errors import UserError, is_full
from jdance.pose import zoo
from jdance.progress import Progress, counted, reporter
from jdance.recognize import formats, video
from jdance.recognize.image import recognize_image
from jdance.recognize.inputs import collect, is_stage, kind
from jdance.recognize.recognizer import Recognizer
from jdance.recognize.sequences import SequenceClassifier
from jdance.recognize.writers import Clip
from jdance.report import draw
from jdance.stagedance import skeletons, tracks
from jdance.train.posture import PostureModel
from jdance.train.qes import POSTURE_FILE

_MODEL, _CHECKPOINT, _POSE, _SEQUENCE_MODEL = recognition_flags()
_POSE_SIZE, _POSE_VIEWS = pose_flags()
_INPUT = flags.DEFINE_string(
    "input",
    None,
    "An image or video, a folder of them, a folder of OpenPose JSON files (frames of one clip), or "
    "camera:N.",
    required=True,
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results.", required=True)
_KEYPOINTS = flags.DEFINE_string(
    "keypoints",
    "",
    "Key points from another estimator instead of --pose: OpenPose's JSON file of the image, or a "
    "folder with <stem>_keypoints.json for each image and <stem>_000000000000_keypoints.json, ... "
    "for a video.",
)
_MIN_JOINTS = flags.DEFINE_integer(
    "min_joints", 4, "Minimum number of joints of a detected person.", 1, 18
)
_WHOLE_IMAGE = flags.DEFINE_bool(
    "whole_image", False, "Classify the whole image if no person is detected."
)
former_name("whole_picture", "whole_image")
_MIN_CONFIDENCE = flags.DEFINE_float(
    "min_confidence",
    None,
    "Label motions below this probability as unknown. Default: the model's own threshold, from "
    "calibration with a class unknown, else 0; in videos, where frames support each other, 0.5 at "
    "most.",
    0.0,
    1.0,
)
_EVERY = flags.DEFINE_integer("every", 1, "Process every Nth video frame.", lower_bound=1)
_START = flags.DEFINE_float("start", 0.0, "Start time in seconds (videos only).", lower_bound=0.0)
_END = flags.DEFINE_float("end", None, "End time in seconds (videos only).", lower_bound=0.0)
_BATCH = flags.DEFINE_integer(
    "batch", 0, "Video frames per batch; 0: one per device.", lower_bound=0
)
_POSTURE_MODEL = flags.DEFINE_string(
    "posture_model",
    "",
    "Run of configs/qes.py that adds posture feedback for each dancer and motion.",
)
_FRAMES_PER_SECOND = flags.DEFINE_float(
    "frames_per_second",
    30.0,
    "Frame rate of a clip of skeletons.",
    lower_bound=0.01,
)
_ISOLATE = flags.DEFINE_bool(
    "isolate", False, "Decode images in a separate process, so that a crash loses only that image."
)
_VIDEO_OUT = flags.DEFINE_bool("annotate", True, "Write annotated videos.")
_FORMAT = flags.DEFINE_list(
    "format",
    [],
    f"Further formats to write, separated by commas: {', '.join(formats.FORMATS)}.",
)
_PRECISION = flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "bfloat16"],
    "Data type of the networks' computation; bfloat16 is for GPUs and TPUs.",
)
_SHOW = flags.DEFINE_bool("show", False, "Show videos and cameras in a window; q closes it.")


def _warn_if_synthetic(pose: str, source: str, inputs: list[Path]) -> None:
    """Warns about networks that were trained on StageDance, unless the inputs are from there."""
    # The skeletons of dance6 are made for real people.
    real = {f"stage:{skeletons.PRESET}", f"stage:{tracks.PRESET}"}
    synthetic = source.startswith("stage:") and source not in real
    if not (synthetic or pose == "stage") or all(map(is_stage, inputs)):
        return
    if pose == "stage":
        print(
            "warning: --pose=stage was trained on StageDance alone and misses most people in real "
            "images; leave out --pose",
            file=sys.stderr,
        )
    if synthetic:
        model = _SEQUENCE_MODEL.value or _MODEL.value
        print(
            f"warning: {model}: was trained on synthetic scenes ({source}), its motions of real "
            "people are unreliable; train on labeled images of your own",
            file=sys.stderr,
        )


def _load_posture(classes: list[str]) -> PostureModel | None:
    if not _POSTURE_MODEL.value:
        return None
    path = Path(_POSTURE_MODEL.value) / POSTURE_FILE
    posture = PostureModel.load(path)
    if not set(classes) & set(posture.classes):
        raise UserError(
            f"{path}: has only {', '.join(posture.classes)}, which --model does not classify; "
            "train it on the same motions"
        )
    return posture


def _recognize_video(
    recognizer: Recognizer,
    classifier: SequenceClassifier | None,
    settings: video.Settings,
    window: draw.Window | None,
    path: Path,
    stem: Path,
) -> str:
    """Recognizes a video or a clip of skeletons; returns what could not be read."""
    if kind(path) == "skeletons":
        return video.recognize_skeletons(recognizer, path, stem, settings, classifier=classifier)
    return video.recognize_video(
        recognizer,
        str(path),
        stem,
        settings,
        keypoints=Path(_KEYPOINTS.value) if _KEYPOINTS.value else None,
        classifier=classifier,
        show=window,
        on_progress=reporter(path.name),
    )


def _check_formats(inputs: Sequence[Path], output: Path, keypoints: Path | None) -> list[str]:
    """Returns the values of --format; refuses those that the inputs do not have."""
    names = formats.select(_FORMAT.value, videos=any(kind(path) != "image" for path in inputs))
    if "openpose" in names and keypoints:
        folder = keypoints.resolve()
        if output.resolve() in (folder, *folder.parents):
            raise UserError(
                f"{keypoints}: might be replaced by --format=openpose; choose another --output"
            )
    return names


def main() -> None:
    output, keypoints = Path(_OUTPUT.value), Path(_KEYPOINTS.value) if _KEYPOINTS.value else None
    inputs, unreadable = collect(Path(_INPUT.value), [output, *([keypoints] if keypoints else [])])
    clip = [kind(path) for path in inputs] == ["skeletons"]
    pose = _POSE.value
    if bool(pose) + bool(keypoints) + clip > 1:
        raise UserError("the key points are given; leave out --pose or --keypoints")
    if len(inputs) > 1 and keypoints and not keypoints.is_dir():
        raise UserError(f"{keypoints}: one file for {len(inputs)} images; name a folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be written to ({error.strerror})") from error
    if any(output.resolve() in (path.resolve(), path.parent.resolve()) for path in inputs):
        raise UserError(f"{output}: is the folder of the inputs; choose another --output")
    selected = _check_formats(inputs, output, keypoints)
    if not (pose or keypoints or clip):
        pose = zoo.choose()
        print(f"pose network: {pose}")
    window = draw.Window() if _SHOW.value else None
    recognizer = Recognizer.load(
        _MODEL.value,
        pose or None,
        _MIN_JOINTS.value,
        _MIN_CONFIDENCE.value,
        dtype=None if _PRECISION.value == "float32" else _PRECISION.value,
        checkpoint=_CHECKPOINT.value,
        pose_size=_POSE_SIZE.value,
        pose_views=_POSE_VIEWS.value,
    )
    classifier = None
    if any(kind(path) != "image" for path in inputs):
        classifier = SequenceClassifier.choose(_SEQUENCE_MODEL.value, _MODEL.value)
    _warn_if_synthetic(pose, classifier.source if classifier else recognizer.source, inputs)
    posture = _load_posture(classifier.classes if classifier else recognizer.classes)
    settings = video.Settings(
        every=_EVERY.value,
        start=_START.value,
        end=float("inf") if _END.value is None else _END.value,
        batch=_BATCH.value,
        fps=_FRAMES_PER_SECOND.value,
        min_confidence=_MIN_CONFIDENCE.value,
        annotate=_VIDEO_OUT.value,
        formats=selected,
        posture=posture,
    )
    image_paths = [path for path in inputs if kind(path) == "image"]
    loaded = load_all([partial(images.read, path) for path in image_paths], int(_ISOLATE.value))
    notes = [f"skipped {path}: {skip_reason(path)}" for path in unreadable]
    partial_results, total = 0, len(inputs) + len(unreadable)
    disk_full: Exception | None = None
    progress = Progress("recognizing", len(inputs))
    names = files.distinct_names(inputs)
    # Several images share a file of each format.
    group = names[inputs.index(image_paths[0])] if len(image_paths) == 1 else "images"
    while len(image_paths) > 1 and group in names:
        group += "_"
    file_names = [path.name for path in image_paths]
    stills = Clip("", None, None, recognizer.classes, images=file_names)
    image_formats = formats.of_images(selected) if image_paths else []
    with closing(formats.Several(image_formats, output / group, stills)) as image_writer:
        for done, (path, name) in enumerate(zip(inputs, names, strict=True), start=1):
            stem = output / name
            try:
                if kind(path) == "image":
                    image = next(loaded)
                    if isinstance(image, UserError):
                        raise image
                    result = recognize_image(
                        recognizer,
                        path,
                        image,
                        stem,
                        keypoints=keypoints,
                        posture=posture,
                        whole_image=_WHOLE_IMAGE.value,
                    )
                    image_writer.add(result.to_frame(stills, image_paths.index(path)))
                elif gap := _recognize_video(recognizer, classifier, settings, window, path, stem):
                    notes.append(f"{path}: {gap}; what was read is in {stem}.json")
                    partial_results += 1
            except (UserError, OSError) as error:
                reason = str(error)
                if isinstance(error, OSError):
                    reason = f"{path}: {error.filename or output}: {error.strerror}"
                notes.append(f"skipped {reason if str(path) in reason else f'{path}: {reason}'}")
                if is_full(error):
                    disk_full, total = error, done + len(unreadable)
                    break
            progress.update(done)
        if not disk_full:
            image_writer.finish([])
    skipped = len(notes) - partial_results
    for note in notes:
        print(images.printable(note))
    print(f"wrote {counted(total - skipped, 'result')} to {output}")
    if disk_full:
        raise UserError(f"{output}: the disk is full; make room and run it again") from disk_full
    if notes:
        count = counted(total, "input")
        summary = [f"{skipped} of {count} skipped"] * bool(skipped)
        summary += [f"{partial_results} of {count} read in part"] * bool(partial_results)
        raise UserError(f"{', '.join(summary)} (listed above)")


if __name__ == "__main__":
    run(main)
