"""Prepares a data set: detects people in labeled images and stores their crops and key points.

python launch/prepare.py --source=photos/ --output=data/photos --pose=mobilenet_v2_small
python launch/prepare.py --source=stage:paper --output=data/stage
python launch/prepare.py --source=stage:pose --task=pose --output=data/pose
python launch/prepare.py --verify=data/photos

--task=pose stores whole images, to train and evaluate pose networks. Its source is stage:PRESET or
a folder in COCO's layout (annotations/person_keypoints_train2017.json, train2017/, ...).

--process_id and --num_processes distribute the work over processes, on one or many machines. The
last process to finish completes the data set. After an interruption, run the same command again.
"""

import json
from pathlib import Path
from typing import Any

from absl import flags

from jdance import files
from jdance.cli import POSE_HELP, former_name, pose_flags, refuse_flags, run
from jdance.data import manifest, prepare_scenes, records, shards
from jdance.data.items import Source
from jdance.data.prepare import prepare, summary
from jdance.data.sources import open_source
from jdance.data.splits import split_name
from jdance.data.verify import verify
from jdance.errors import UserError
from jdance.progress import counted
from jdance.remote import copies, objects

_SOURCE = flags.DEFINE_string(
    "source",
    None,
    "Labeled data: a folder [split/]class/file of images, videos or OpenPose JSON files; a folder "
    "[split/]class/clip/file of JSON frames; a manifest .csv "
    "(path,label[,split,group,start,end,box,person]); a skeleton file .npz (xy [N,J,2], conf "
    "[N,J], label [N] [,joints,size,split,group]; sequences: xy [F,J,2], lengths [N], label [N]); "
    "or stage:PRESET, the synthetic StageDance (stage:dance6: bare skeletons for real people).",
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for the data set, or its address in a store (s3:// or gs://)."
)
_VERIFY = flags.DEFINE_string(
    "verify",
    None,
    "Data set to check against its checksums instead of preparing one.",
)
_TASK = flags.DEFINE_enum("task", "motion", ["motion", "pose"], "Task of the data set.")
former_name("for", "task")
_POSE = flags.DEFINE_string(
    "pose",
    "",
    f"{POSE_HELP}Default: for images and videos without key points, the most accurate one that is "
    "in the cache or can be downloaded.",
)
_POSE_SIZE, _POSE_VIEWS = pose_flags()
_KEYPOINTS = flags.DEFINE_string(
    "keypoints",
    "",
    "Folder of key points from another pose estimator instead of --pose, in OpenPose's format: "
    "a/b_keypoints.json for the image a/b.jpg of the source.",
)
_MIN_JOINTS = flags.DEFINE_integer(
    "min_joints", 4, "Minimum number of joints of a detected person.", 1, 18
)
_LABEL_ALL = flags.DEFINE_bool("label_all", False, "Apply each label to all people in the image.")
_ALSO_WHOLE = flags.DEFINE_bool(
    "also_whole",
    False,
    "Add each training image a second time, as if no person were detected, for poses that the pose "
    "network often misses.",
)
_WHERE = flags.DEFINE_string(
    "where", "", "COLUMN=VALUE: use only these rows of a manifest or entries of a skeleton file."
)
_SPLIT_COLUMN = flags.DEFINE_string(
    "split_column",
    "split",
    "Column of a manifest, or array of a skeleton file, that holds the splits.",
)
_LABELS = flags.DEFINE_list(
    "labels", [], "OLD=NEW,...: use only these classes, and rename them. OLD alone keeps its name."
)
_FRACTIONS = flags.DEFINE_string(
    "fractions", "train=0.8,val=0.1,test=0.1", "Splits to draw if the source has none."
)
_SPLIT_BY = flags.DEFINE_enum(
    "split_by",
    "video",
    ["video", "frame"],
    "Unit of drawn splits: a group, such as a video, or a single frame.",
)
_FRAMES_PER_SECOND = flags.DEFINE_float(
    "frames_per_second", 2.0, "Video frames per second that become examples.", lower_bound=0.001
)
_WINDOW = flags.DEFINE_float(
    "window",
    0.0,
    "Make examples for sequence networks from labeled videos: this many seconds of a person's "
    "track, --frames_per_second times per second; 0: single frames.",
    lower_bound=0.0,
    upper_bound=60.0,
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Random seed of drawn splits and of StageDance.", lower_bound=0
)
_WORKERS = flags.DEFINE_integer(
    "workers",
    0,
    "Number of processes that read or draw images; 0: this process does it.",
    lower_bound=0,
)
_PROCESS = flags.DEFINE_integer(
    "process_id",
    None,
    "Index of this process among --num_processes, from 0, such as $SLURM_PROCID.",
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes that share the work.")
_OF_MOTION = (
    "pose", "pose_size", "pose_views", "keypoints", "min_joints", "label_all", "also_whole",
    "where", "split_column", "labels", "fractions", "split_by", "frames_per_second", "window",
)  # fmt: skip
flags.register_multi_flags_validator(
    ["source", "output", "verify"],
    lambda values: (
        (values["source"] is not None and values["output"] is not None)
        != (values["verify"] is not None)
    ),
    message="give either --source and --output, to prepare, or --verify",
)


def _fractions() -> dict[str, float]:
    try:
        pairs = dict(pair.split("=") for pair in _FRACTIONS.value.split(","))
        result = {split_name(name) or "": float(fraction) for name, fraction in pairs.items()}
    except ValueError:
        raise UserError(
            f"--fractions={_FRACTIONS.value}: expected train=0.8,val=0.1,test=0.1"
        ) from None
    if "" in result:
        raise UserError(f"--fractions={_FRACTIONS.value}: a split has no name")
    if not 0 < sum(result.values()) <= 1.0001 or min(result.values()) < 0:
        raise UserError(f"--fractions={_FRACTIONS.value}: fractions must sum to at most 1")
    return result


def _is_media(source: str) -> bool:
    """Whether a source can hold videos."""
    return Path(source).is_dir() or Path(source).suffix.lower() in manifest.SUFFIXES


def _refuse_flags(source: Source, name: str) -> None:
    """Raises UserError for flags without effect on this kind of source."""
    if not source.has_images:
        reason = f"--source={name}: holds key points without images; only images have"
        refuse_flags(("pose", "pose_size", "pose_views", "also_whole", "frames_per_second"), reason)
    if not _is_media(name):
        refuse_flags(("label_all",), f"--source={name}: only a folder or a manifest has")
        if not _POSE.value:
            refuse_flags(("min_joints",), f"--source={name}: its people are known; no")
    if not source.needs_pose and not _POSE.value:
        refuse_flags(("pose_size", "pose_views"), "without a pose network there is no")


def _weight_files(pose: str) -> list[Path]:
    """The files of a pose network that is given as a file or a folder."""
    path = Path(pose)
    if not pose or not path.exists():
        return []
    return files.find_below(path, "") if path.is_dir() else [path]


def _prepare(output: Path, partition: shards.Partition) -> dict[str, Any]:
    name = _SOURCE.value or ""
    if objects.is_remote(name):
        name = str(copies.local(name))
    folder = Path(name).resolve()
    if folder.is_dir() and output.resolve().is_relative_to(folder):
        raise UserError(f"{output}: lies inside the source; choose another --output")
    if _TASK.value == "pose":
        refuse_flags(_OF_MOTION, "--task=pose: only --task=motion has")
        return prepare_scenes.prepare(
            name, output, seed=_SEED.value, workers=_WORKERS.value, partition=partition
        )
    fractions = _fractions()
    if _POSE.value and _KEYPOINTS.value:
        raise UserError("give either --pose or --keypoints, not both")
    if _WINDOW.value and (_KEYPOINTS.value or partition.processes > 1 or not _is_media(name)):
        raise UserError(
            f"--window={_WINDOW.value:g}: for videos in a folder or a manifest .csv, without "
            "--keypoints and --num_processes"
        )
    if _WINDOW.value:
        shards.check_free(output)  # before hours of tracking
    labels = {old: new or old for old, _, new in (word.partition("=") for word in _LABELS.value)}
    source = open_source(
        name,
        label_all=_LABEL_ALL.value,
        where=_WHERE.value,
        split_column=_SPLIT_COLUMN.value,
        labels=labels,
        keypoints=copies.local(_KEYPOINTS.value) if _KEYPOINTS.value else None,
        frames_per_second=None if _WINDOW.value else _FRAMES_PER_SECOND.value,
        min_joints=_MIN_JOINTS.value,
        seed=_SEED.value,
    )
    _refuse_flags(source, name)
    for note in source.notes:
        print(f"note: {note}")
    estimator, pose = None, _POSE.value
    if source.needs_pose or pose:
        # Imported only here, so that worker processes start without it.
        from jdance.pose import DecodeConfig, PoseEstimator, zoo

        if not pose:
            pose = zoo.choose()
            print(f"pose network: {pose}")
        decode_config = DecodeConfig(min_joints=_MIN_JOINTS.value)
        estimator = PoseEstimator.load(
            pose, decode_config, size=_POSE_SIZE.value, view_names=_POSE_VIEWS.value
        ).people
    if _WINDOW.value:
        if estimator is None:
            raise UserError(
                f"--window={_WINDOW.value:g}: {name} holds key points, but --window is for videos"
            )
        from jdance.recognize import windows

        source = windows.from_videos(
            source, estimator, window=_WINDOW.value, per_second=_FRAMES_PER_SECOND.value
        )
        estimator = None
    return prepare(
        source,
        output,
        estimator,
        pose=pose or ("key-point files" if _KEYPOINTS.value else ""),
        fractions=fractions,
        seed=_SEED.value,
        workers=_WORKERS.value,
        also_whole=_ALSO_WHOLE.value,
        min_joints=_MIN_JOINTS.value,
        split_by=_SPLIT_BY.value,
        settings=repr(
            (
                _KEYPOINTS.value,
                _POSE_SIZE.value,
                _POSE_VIEWS.value,
                _WINDOW.value,
                _FRAMES_PER_SECOND.value,
                [files.version(file) for file in _weight_files(pose)],
            )
        ),
        partition=partition,
    )


def _verify(folder: str) -> None:
    good, problems = verify(folder)
    for problem in problems:
        print(problem)
    if problems:
        raise UserError(f"{folder}: is damaged (listed above); prepare the data again")
    print(f"{folder}: {counted(good, 'example')} read, all unchanged")


def main() -> None:
    if _VERIFY.value is not None:
        _verify(_VERIFY.value)
        return
    partition = shards.partition(_PROCESS.value, _PROCESSES.value)
    with shards.stored(_OUTPUT.value or "", partition) as output:
        info = _prepare(output, partition)
    path = output / "dataset.json"
    if path.exists():  # perhaps merged at last
        info = json.loads(path.read_text())
    for line in summary(info, complete=path.exists()):
        print(line)
    if path.exists():
        if _PROCESSES.value is None:  # of several processes, no single one reads everything again
            records.Dataset(path.parent, kind="").verify_checksums()
        print(f"wrote {copies.shown(path)}")
    else:
        print(f"process {_PROCESS.value} of {_PROCESSES.value} is done; others are still running")
    if info["skipped"]:
        for entry in info["skipped"]:
            print(f"skipped {entry['file']}: {entry['reason']}")
        raise UserError(
            f"{len(info['skipped'])} of the inputs skipped (listed above and in dataset.json); "
            "the rest is prepared"
        )


if __name__ == "__main__":
    run(main)
