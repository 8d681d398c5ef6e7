"""Detects every person in images and videos and classifies their dance motion.

python launch/recognize.py --pose=hpe0001 --input=photos --output=out
python launch/recognize.py --model=runs/paper --pose=hpe0001 --input=a.mp4 --output=out

For each image, writes OUT/<stem>.json and the annotated image. For each video, writes the tracks of
all people to OUT/<stem>.json, the timeline of their motions to OUT/<stem>.csv and OUT/<stem>.html,
and the annotated video. --format adds files that other tools open.

python launch/recognize.py --input='archive/**/*.mp4' --output=out --process_id=0 --num_processes=4

Several processes on one or many machines share the inputs, claimed one by one. The same command
continues after an interruption and skips what is done.
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from jdance.cli import (
    former_name,
    pose_flags,
    recognition_flags,
    refuse_flags,
    resumable,
    run,
)
from jdance.data import containers, images, videos
from jdance.data.shards import Partition
from jdance.data.workers import Loader
from jdance.errors import UserError
from jdance.pose import zoo
from jdance.progress import counted, reporter
from jdance.recognize import archive, batches, formats, gather, inputs, listing, storage, video
from jdance.recognize.image import recognize_image
from jdance.recognize.inputs import Job, is_stage, kind, listed_kind
from jdance.recognize.ledger import FAILURES_FILE, Ledger, digest
from jdance.recognize.recognizer import Recognizer
from jdance.recognize.sequences import SequenceClassifier
from jdance.recognize.storage import Storage
from jdance.recognize.writers import Clip
from jdance.remote import copies
from jdance.report import draw
from jdance.stagedance import skeletons, tracks
from jdance.train.posture import PostureModel
from jdance.train.qes import POSTURE_FILE

_MODEL, _CHECKPOINT, _POSE, _SEQUENCE_MODEL = recognition_flags()
_POSE_SIZE, _POSE_VIEWS = pose_flags()
_INPUT = flags.DEFINE_string(
    "input",
    None,
    "An image or video, a folder or a pattern (archive/**/*.mp4) of them, a CSV file with the "
    "columns path[,start,end,output] (seconds; path of the results without suffix), a folder of "
    "OpenPose JSON files (frames of one clip), the address of one of these in a store (s3://, "
    "gs://; of a file also https://), or camera:N.",
    required=True,
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for the results, or its address in a store.", required=True
)
_KEYPOINTS = flags.DEFINE_string(
    "keypoints",
    "",
    "Key points from another estimator instead of --pose: OpenPose's JSON file of the image, or a "
    "folder with <stem>_keypoints.json for each image and <stem>_000000000000_keypoints.json, ... "
    "for a video, in the folders that the results have.",
)
_MIN_JOINTS = flags.DEFINE_integer(
    "min_joints", 4, "Minimum number of joints of a detected person.", 1, 18
)
_WHOLE_IMAGE = flags.DEFINE_bool(
    "whole_image", False, "Classify the whole image if no person is detected (images only)."
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
    "batch", 0, "Video frames per batch; 0: 16 per GPU, one on CPUs.", lower_bound=0
)
_AT_ONCE = flags.DEFINE_integer(
    "videos_at_once",
    0,
    "Videos that are read, tracked and written at the same time and share batches of frames; 0: 4 "
    "on GPUs, one on CPUs.",
    lower_bound=0,
)
_HARDWARE = flags.DEFINE_string(
    "hardware_decoding", "", "Decode videos by a device of FFmpeg: cuda, vaapi, videotoolbox, ..."
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


_PROCESS = flags.DEFINE_integer(
    "process_id",
    None,
    "Index of this process among --num_processes, from 0. Slurm (steps and arrays) and Open MPI "
    "are detected; in an Indexed Job of Kubernetes, --num_processes is enough.",
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes that share the work.")
_CLAIM_TIMEOUT = flags.DEFINE_float(
    "claim_timeout",
    120.0,
    "Seconds without a sign of life after which the input of another process is taken over.",
    lower_bound=1.0,
)
_WAIT = flags.DEFINE_bool(
    "wait",
    True,
    "Wait at the end for inputs that other processes recognize, to take over those of killed ones.",
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite",
    False,
    "Recognize inputs again whose results are complete. Continues an interrupted --overwrite.",
)
_MAX_FAILURES = flags.DEFINE_integer(
    "max_failures", None, "Stop if more inputs than this fail. Default: no limit.", lower_bound=0
)

_MAX_LISTED = 50  # failures that are printed
# See `_dependencies`; results of images do not depend on them.
_VIDEO_SETTINGS = ("sequence_model", "every", "from", "to", "frames_per_second")


def _warn_if_synthetic(pose: str, source: str, inputs: list[Path]) -> None:
    """Warns about networks that were trained on StageDance, unless the inputs are from there."""
    # The skeletons of dance6 are made for real people.
    real = {f"stage:{skeletons.PRESET}", f"stage:{tracks.PRESET}"}
    synthetic = source.startswith("stage:") and source not in real
    if not (synthetic or pose == "stage") or all(map(is_stage, inputs)):
        return
    if pose == "stage":
        print(
            "warning: --pose=stage was trained on StageDance alone; in real images it misses "
            "people and finds others where there are none; leave out --pose",
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


class _Recognition:
    """Recognizes inputs one by one.

    Args:
        recognizer, classifier: the networks.
        settings: of videos, in the folder of the results; inputs may have times of their own.
        image_formats: formats with a file for each image.
        posture: model for posture feedback.
        show: window in which videos are shown.
        report: whether to show the progress in videos.
        shared: batches of videos in different threads; None: each has its own.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        classifier: SequenceClassifier | None,
        settings: video.Settings,
        image_formats: Sequence[str],
        posture: PostureModel | None,
        show: draw.Window | None,
        report: bool,
        shared: batches.Batches | None,
    ):
        self._recognizer, self._classifier, self._settings = recognizer, classifier, settings
        self._image_formats, self._posture, self._show = image_formats, posture, show
        self._report, self._shared = report, shared
        self._load = Loader(_ISOLATE.value)

    def _settings_of(self, job: Job) -> video.Settings:
        own = {
            name: value for name in ("start", "end") if (value := getattr(job, name)) is not None
        }
        folder = (Path(self._settings.folder or "") / job.name).parent
        return dataclasses.replace(self._settings, **own, folder=folder)

    def __call__(self, job: Job, stem: Path) -> str:
        """Writes the results of an input; returns what could not be read."""
        path, settings = job.source, self._settings_of(job)
        name = job.label if job.address else ""
        match listed_kind(job):
            case "image":
                self._recognize_image(job, stem, name)
                return ""
            case "skeletons":
                return video.recognize_skeletons(
                    self._recognizer, path, stem, settings, classifier=self._classifier, name=name
                )
        return video.recognize_video(
            self._recognizer,
            str(path),
            stem,
            settings,
            keypoints=job.keypoints,
            classifier=self._classifier,
            show=self._show,
            on_progress=reporter(path.name) if self._report else None,
            batches=self._shared,
            name=name,
        )

    def _recognize_image(self, job: Job, stem: Path, name: str) -> None:
        result = recognize_image(
            self._recognizer,
            job.source,
            self._load(partial(images.read, job.source)),
            stem,
            keypoints=job.keypoints,
            posture=self._posture,
            whole_image=_WHOLE_IMAGE.value,
            name=name,
        )
        clip = Clip("", None, None, self._recognizer.classes, images=[job.file_name])
        with closing(formats.Several(self._image_formats, stem, clip)) as writer:
            writer.add(result.to_frame(clip, 0))
            writer.finish([])

    def seconds(self, job: Job) -> float:
        """Duration of a recognized input."""
        if videos.is_camera(str(job.source)) or listed_kind(job) == "image":
            return 0.0
        settings = self._settings_of(job)
        return inputs.seconds(job.source, settings.start, settings.end, settings.fps)

    def close(self) -> None:
        self._load.close()


def _keypoints() -> Path | None:
    return copies.local(_KEYPOINTS.value) if _KEYPOINTS.value else None


def _check_formats(paths: Sequence[Path], output: Path, keypoints: Path | None) -> list[str]:
    """Returns the values of --format; refuses those that the inputs do not have."""
    names = formats.select(_FORMAT.value, videos=any(kind(path) != "image" for path in paths))
    if "openpose" in names and keypoints:
        folder = keypoints.resolve()
        if output.resolve() in (folder, *folder.parents):
            raise UserError(
                f"{keypoints}: might be replaced by --format=openpose; choose another --output"
            )
    return names


def _dependencies(
    recognizer: Recognizer, classifier: SequenceClassifier | None, settings: video.Settings
) -> dict[str, Any]:
    """What all results depend on besides their inputs."""
    posture = Path(_POSTURE_MODEL.value) / POSTURE_FILE
    return {
        **recognizer.digests(),
        "sequence_model": classifier.digest() if classifier else "",
        "posture_model": digest(posture.read_bytes().hex()) if _POSTURE_MODEL.value else "",
        "pose_size": _POSE_SIZE.value,
        "pose_views": _POSE_VIEWS.value,
        "precision": _PRECISION.value,
        "min_joints": _MIN_JOINTS.value,
        "min_confidence": _MIN_CONFIDENCE.value,
        "whole_image": _WHOLE_IMAGE.value,
        "keypoints": Path(_KEYPOINTS.value).name,
        "every": settings.every,
        "from": settings.start,
        "to": None if settings.end == float("inf") else settings.end,
        "frames_per_second": settings.fps,
    }


def _report(outcome: archive.Outcome, output: Storage) -> None:
    """Prints the outcome; raises UserError if inputs failed."""
    for failure in outcome.failures[:_MAX_LISTED]:
        print(images.printable("skipped " * (not failure.partial) + copies.shown(failure.reason)))
    if len(outcome.failures) > _MAX_LISTED:
        more = len(outcome.failures) - _MAX_LISTED
        print(f"... and {more} more in {output}/{FAILURES_FILE}")
    line = f"wrote {counted(len(outcome.own), 'result')} to {output}"
    if others := len(outcome.results) - len(outcome.own):
        line += f"; {others} done by earlier runs or other processes"
    if outcome.missing and not (outcome.full or outcome.stopped):
        line += f"; {outcome.missing} with other processes"
    print(line)
    if outcome.full:
        where = getattr(outcome.full, "filename", None) or output
        raise UserError(f"{where}: the disk is full; make room and run it again") from outcome.full
    if not outcome.failures:
        return
    partial_results = sum(failure.partial for failure in outcome.failures)
    skipped = len(outcome.failures) - partial_results
    count = counted(len(outcome.jobs), "input")
    summary = [f"{skipped} of {count} skipped"] * bool(skipped)
    summary += [f"{partial_results} of {count} read in part"] * bool(partial_results)
    where = f"(listed above and in {output}/{FAILURES_FILE})"
    if outcome.stopped:
        where += f"; stopped, since --max_failures={_MAX_FAILURES.value}"
    raise UserError(f"{', '.join(summary)} {where}") from outcome.transient


def main() -> None:
    process = archive.this_process(_PROCESS.value, _PROCESSES.value, os.environ)
    if process.processes > 1:
        copies.check_shared(_OUTPUT.value, "output")
    with storage.opened(_OUTPUT.value) as output:
        _recognize(output, process)


def _recognize(output: Storage, process: Partition) -> None:
    """Writes the results of all inputs."""
    keypoints = _keypoints()
    jobs = listing.jobs(_INPUT.value, str(output), [_KEYPOINTS.value] * bool(keypoints))
    usable = [job for job in jobs if not job.problem]
    paths = [job.source for job in usable]
    clip = [kind(path) for path in paths] == ["skeletons"]
    pose = _POSE.value
    if bool(pose) + bool(keypoints) + clip > 1:
        raise UserError("the key points are given; leave out --pose or --keypoints")
    if len(paths) > 1 and keypoints and not keypoints.is_dir():
        raise UserError(f"{keypoints}: one file for {len(paths)} images; name a folder")
    if keypoints:
        jobs = inputs.with_keypoints(jobs, keypoints)
    if _WHOLE_IMAGE.value and paths and not any(kind(path) == "image" for path in paths):
        raise UserError("--whole_image: only images have it, and there is none in the input")
    if not any(kind(path) == "skeletons" for path in paths):
        refuse_flags(("frames_per_second",), "videos have --every; only clips of skeletons have")
    listing.check_output(usable, output)
    if _HARDWARE.value:
        containers.check_hardware(_HARDWARE.value)
    selected = _check_formats(paths, output.path, keypoints)
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
    if any(kind(path) != "image" for path in paths):
        classifier = SequenceClassifier.choose(_SEQUENCE_MODEL.value, _MODEL.value)
    _warn_if_synthetic(pose, classifier.source if classifier else recognizer.source, paths)
    posture = _load_posture(classifier.classes if classifier else recognizer.classes)
    settings = video.Settings(
        every=_EVERY.value,
        start=_START.value,
        end=float("inf") if _END.value is None else _END.value,
        batch=_BATCH.value,
        fps=_FRAMES_PER_SECOND.value,
        hardware=_HARDWARE.value,
        min_confidence=_MIN_CONFIDENCE.value,
        annotate=_VIDEO_OUT.value,
        formats=selected,
        posture=posture,
        folder=output.path,
    )
    several = sum(kind(path) == "image" for path in paths) > 1
    shared_formats = formats.of_several_images(selected) if several else []
    image_formats = [n for n in formats.of_images(selected) if n not in shared_formats]
    formats.check_files(usable, selected, image_formats)
    dependencies = _dependencies(recognizer, classifier, settings)
    outputs = selected + ["annotate"] * _VIDEO_OUT.value
    live = bool(window) or any(videos.is_camera(str(path)) for path in paths)
    at_once = 1 if live else batches.videos_at_once(_AT_ONCE.value, list(map(kind, paths)))
    shared = batches.Batches(recognizer, _BATCH.value) if at_once > 1 else None
    options = archive.Options(
        run=digest(_INPUT.value, dependencies, outputs, _OVERWRITE.value)[:16],
        process=process,
        claim_timeout=_CLAIM_TIMEOUT.value,
        wait=_WAIT.value,
        overwrite=_OVERWRITE.value or live,
        max_failures=_MAX_FAILURES.value,
        at_once=at_once,
    )
    ledger = Ledger(output, dependencies, outputs, inputs.version, _VIDEO_SETTINGS)
    recognition = _Recognition(
        recognizer, classifier, settings, image_formats, posture, window,
        process.processes == at_once == 1, shared,
    )  # fmt: skip
    with resumable(), closing(recognition):
        outcome = archive.Archive(
            jobs, ledger, recognition, recognition.seconds, options, shared.stop if shared else None
        ).run()
        done = not (outcome.missing or outcome.stopped or outcome.full)
        if shared_formats and done and outcome.results:
            formatted = gather.write_if_changed(
                shared_formats, recognizer.classes, outcome, options, ledger
            )
            if formatted.failures:
                raise UserError(formatted.failures[0].reason) from formatted.transient
    _report(outcome, output)


if __name__ == "__main__":
    run(main)
