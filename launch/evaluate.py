"""Evaluates a trained network on a split and writes DIR/eval_SPLIT.json and DIR/report.html.

python launch/evaluate.py --workdir=runs/paper --split=test
python launch/evaluate.py --workdir=runs/paper --split=test --baselines
python launch/evaluate.py --workdir=runs/paper --split=val --calibrate
python launch/evaluate.py --workdir=runs/paper --split=test --checkpoint=best
python launch/evaluate.py --workdir=runs/pose_stage --split=test
python launch/evaluate.py --pose=mobilenet_v2_small --data=data/pose --split=test

Motion networks get accuracy, its 95 % interval, and confusion; --baselines compares them with
simple classifiers of key points. Pose networks get AP, AP50, AP75 and AR by pycocotools; their data
set is one by launch/prepare.py --task=pose.

The result states data, split, views, checkpoint and step. Options are part of its name, such as
eval_test_views10.json. --output=DIR writes elsewhere, for runs that must not change.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from absl import flags

from jdance.cli import checkpoint_flag, former_name, pose_flags, refuse_flags, run
from jdance.data.records import Dataset
from jdance.errors import UserError
from jdance.pose import PoseEstimator
from jdance.pose.evaluation import average_precision
from jdance.progress import counted
from jdance.remote import copies, runs
from jdance.report import run as report
from jdance.train import baselines, calibration, results

_WORKDIR = flags.DEFINE_list(
    "workdir",
    [],
    "Folder of the run, or its address in a store. Several, separated by commas, are evaluated as "
    "an ensemble by their mean probabilities (motion networks only). Writes "
    "eval_SPLIT_ensemble.json to the first.",
)
_CHECKPOINT = checkpoint_flag("--workdir")
_POSE = flags.DEFINE_string(
    "pose", "", "Evaluate this pose network instead of a run; needs --data."
)
_POSE_SIZE, _POSE_VIEWS = pose_flags()
_SPLIT = flags.DEFINE_string(
    "split",
    None,
    "Split of the data set to evaluate on. Default: test, but val for --calibrate.",
)
_DATA = flags.DEFINE_string(
    "data",
    "",
    "Data set by launch/prepare.py to evaluate on instead of the run's own. Writes "
    "eval_SPLIT_on_DATA-....json.",
)
_OUTPUT = flags.DEFINE_string(
    "output", "", "Folder for the result and the report. Default: the folder of the (first) run."
)
_DROP_JOINTS = flags.DEFINE_string(
    "drop_joints",
    "",
    "Joints to drop: all (as if no person were detected), legs (hips, knees and ankles), or a "
    "random fraction such as 0.2 of each example. Writes eval_SPLIT_without_....json.",
)
_VIEWS = flags.DEFINE_integer(
    "views",
    1,
    "Test-time augmentation: average probabilities over N views of each example. All but the first "
    "are slightly rotated and scaled, and mirrored if training mirrors. Writes "
    "eval_SPLIT_viewsN.json.",
    lower_bound=1,
)
_CALIBRATE = flags.DEFINE_bool(
    "calibrate",
    False,
    "Fit on the split (by default val) instead of evaluating: temperature scaling, the weights of "
    "a late fusion's branches and, if there is a class unknown, the confidence below which motions "
    "become unknown. Every program that uses the run applies them.",
)
_BASELINES = flags.DEFINE_bool(
    "baselines",
    False,
    "Also fit simple classifiers of the key-point features on the run's training split (nearest "
    "class mean, RBF-SVM, gradient boosting), and compare the network with them on the same "
    "examples. Needs scikit-learn (the extra baselines).",
)
former_name("nearest_mean", "baselines")


def _split() -> str:
    if _SPLIT.value is None:
        return "val" if _CALIBRATE.value else "test"
    return _SPLIT.value


def _check_flags() -> None:
    """Raises UserError for an invalid value, and for flags that would have no effect."""
    if bool(_WORKDIR.value) == bool(_POSE.value):
        raise UserError("give either --workdir, a run, or --pose, a pose network")
    if _POSE.value:
        only_motion = ("baselines", "calibrate", "views", "drop_joints")
        refuse_flags(only_motion, f"--pose={_POSE.value}: only motion networks have")
        refuse_flags(["checkpoint"], f"--pose={_POSE.value}: only runs have")
    else:
        workdirs = ",".join(_WORKDIR.value)
        refuse_flags(["pose_size", "pose_views"], f"--workdir={workdirs}: only --pose takes")
    if _CALIBRATE.value:
        if len(_WORKDIR.value) > 1:
            raise UserError("--calibrate takes one run at a time")
        stored = "--calibrate evaluates nothing and stores what it fits in the run: leave out"
        refuse_flags(["output", "baselines", "views", "drop_joints"], stored)
    try:
        known = _DROP_JOINTS.value in ("", "all", "legs") or 0 <= float(_DROP_JOINTS.value) <= 1
    except ValueError:
        known = False
    if not known:
        raise UserError(f"--drop_joints={_DROP_JOINTS.value}: expected all, legs or 0 to 1")


def _print_precision(result: dict[str, Any]) -> None:
    metrics = ", ".join(f"{name} {result[name]:.4f}" for name in ("AP", "AP50", "AP75", "AR"))
    print(f"{metrics} on {counted(result['n'], 'image')}")


def _evaluate_pose() -> None:
    if not _DATA.value:
        raise UserError("--pose needs --data, a data set by launch/prepare.py --task=pose")
    source = Dataset(_DATA.value, "people").source(_split())
    estimator = PoseEstimator.load(_POSE.value, size=_POSE_SIZE.value, view_names=_POSE_VIEWS.value)
    result = average_precision(estimator.on_all_devices(), source, input_size=estimator.size)
    _print_precision(result)
    if _OUTPUT.value:
        result |= {"pose": _POSE.value, "data": _DATA.value, "split": _split()}
        with copies.output(_OUTPUT.value) as folder:
            print(f"wrote {copies.shown(results.write(result, folder, _split()))}")


def _calibrate(workdir: Path) -> None:
    fitted, path = results.calibrate(
        workdir, _split(), data=_DATA.value, checkpoint=_CHECKPOINT.value
    )
    error = fitted["expected_calibration_error"]
    print(
        f"temperature {fitted['temperature']:.3f}; expected calibration error on the "
        f"{counted(fitted['n'], 'example')} of {_split()}: "
        f"{error['before']:.4f} before, {error['after']:.4f} after"
    )
    if fitted["branch_weights"]:
        keypoints, image = fitted["branch_weights"]
        print(f"weights of the branches: key points {keypoints:.2f}, image {image:.2f}")
    if fitted["min_confidence"] >= 1:
        print(
            f"warning: no confidence reaches a precision of {calibration.PRECISION:.0%}: all "
            "motions become unknown; use --min_confidence to recognize with this model"
        )
    elif fitted["min_confidence"]:
        print(
            f"motions below a confidence of {fitted['min_confidence']:.2f} become unknown, the "
            f"others have a precision of {calibration.PRECISION:.0%} there"
        )
    print(f"wrote {copies.shown(path)}")


@contextmanager
def _folders() -> Iterator[tuple[list[Path], Path | None]]:
    """The local folders of the runs, and of the result if it is not that of the first run.

    Those of addresses are copies; what is written into them is uploaded after the block.
    """
    with ExitStack() as stack:
        output = stack.enter_context(copies.output(_OUTPUT.value)) if _OUTPUT.value else None
        local = [
            stack.enter_context(
                runs.reading(name, _CHECKPOINT.value, writes=output is None and number == 0)
            )
            for number, name in enumerate(_WORKDIR.value)
        ]
        yield local, output


def main() -> None:
    _check_flags()
    if _POSE.value:
        _evaluate_pose()
        return
    with _folders() as (workdirs, output):
        if _CALIBRATE.value:
            _calibrate(workdirs[0])
        else:
            _evaluate(workdirs, output)


def _evaluate(workdirs: list[Path], output: Path | None) -> None:
    result, path = results.evaluate(
        workdirs,
        _split(),
        data=_DATA.value,
        drop_joints=_DROP_JOINTS.value,
        views=_VIEWS.value,
        checkpoint=_CHECKPOINT.value,
        output=output,
        with_baselines=_BASELINES.value,
    )
    if "AP" in result:
        _print_precision(result)
    else:
        low, high = result["interval"]
        print(
            f"accuracy {result['accuracy']:.4f} on {counted(result['n'], 'example')}, 95 % "
            f"interval {low:.3f} to {high:.3f} ({result['interval_method']})"
        )
        if "baselines" in result:
            print(baselines.table(result))
            print(baselines.sentence(result, baselines.show))
    page = report.write(workdirs[0], path.parent)
    print(f"wrote {copies.shown(path)} and {page.name}")


if __name__ == "__main__":
    run(main)
