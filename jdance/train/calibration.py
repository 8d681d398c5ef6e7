"""Temperature scaling of a classifier's logits, fitted on held-out examples.

Logits are divided by one temperature before the softmax, which changes confidences but no
prediction (Guo et al., "On Calibration of Modern Neural Networks", 2017). With late fusion, each
branch has a weight (an inverse temperature) of its own, so a branch that errs counts less.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, special

from jdance.errors import UserError
from jdance.train.checkpoints import NEWEST, suffix

UNKNOWN = "unknown"  # the class that is no motion, and the motion below the threshold
PRECISION = 0.95  # of motions on held-out examples, for which the threshold is chosen

_PRIOR = 5.0  # examples that pull the weights of branches to 1
_RANGE = (0.05, 20.0)  # of temperatures


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over equal-width bins of the confidence.

    Args:
        probabilities: float [N, M].
        labels: int [N].
        bins: their number.
    """
    confidence = probabilities.max(-1)
    correct = probabilities.argmax(-1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(index, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / max(len(labels), 1))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities float64 [N, M] whose logits are divided by the temperature."""
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-30)) / temperature
    return special.softmax(logits, -1)


def fit(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the lowest cross-entropy; shapes as above.

    A weak prior keeps it near 1 where all examples are classified correctly.
    """
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        true = apply_temperature(probabilities, np.exp(log_temperature))[rows, labels]
        return float(-np.log(np.maximum(true, 1e-30)).mean()) + log_temperature**2 / len(labels)

    low, high = np.log(_RANGE)
    return float(np.exp(optimize.minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def fit_branches(log_probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The weights of a late fusion's branches with the lowest cross-entropy.

    A prior, worth a few examples, pulls them to 1.

    Args:
        log_probabilities: float [N, K, M] of each branch; 0 where it has no input.
        labels: int [N].

    Returns:
        float64 [K], at least 0.
    """
    rows = np.arange(len(labels))

    def loss(weights: np.ndarray) -> float:
        logits = np.einsum("nkm,k->nm", log_probabilities, weights)
        likelihood = special.log_softmax(logits, -1)[rows, labels].mean()
        return float(-likelihood + _PRIOR * np.square(weights - 1).sum() / len(labels))

    branches = log_probabilities.shape[1]
    return optimize.minimize(loss, np.ones(branches), bounds=[(0.0, _RANGE[1])] * branches).x


def threshold(probabilities: np.ndarray, labels: np.ndarray, unknown: int) -> float:
    """The lowest confidence above which predicted motions reach `PRECISION`.

    Args:
        probabilities: float [N, M], calibrated.
        labels: int [N].
        unknown: the class that is no motion.

    Returns:
        A multiple of 0.01; 1 if none reaches it.
    """
    prediction, confidence = probabilities.argmax(-1), probabilities.max(-1)
    for value in np.arange(100) / 100:
        chosen = (prediction != unknown) & (confidence >= value)
        if chosen.any() and (prediction == labels)[chosen].mean() >= PRECISION:
            return float(value)
    return 1.0


def calibrate(
    probabilities: np.ndarray,
    labels: np.ndarray,
    split: str,
    workdir: Path,
    checkpoint: str = NEWEST,
    classes: Sequence[str] = (),
    branch_weights: Sequence[float] = (),
    step: int | None = None,
) -> tuple[dict[str, Any], Path]:
    """Fits the temperature of a checkpoint and writes it for `load_temperature`.

    The probabilities are those with the `branch_weights`, if there are any.

    If one of the `classes` is UNKNOWN, also fits the threshold for `load_min_confidence`. The file
    applies only to the `step` of the checkpoint.

    Returns:
        The content: temperature, min_confidence, split, step, n, and expected_calibration_error
        before and after; and the file, WORKDIR/calibration[_best|_stepN].json.
    """
    temperature = fit(probabilities, labels)
    scaled = apply_temperature(probabilities, temperature)
    min_confidence = 0.0
    if UNKNOWN in classes:
        min_confidence = threshold(scaled, labels, list(classes).index(UNKNOWN))
    result = {
        "temperature": temperature,
        "min_confidence": min_confidence,
        "branch_weights": list(branch_weights),
        "split": split,
        "step": step,
        "n": len(labels),
        "expected_calibration_error": {
            "before": expected_calibration_error(probabilities, labels),
            "after": expected_calibration_error(scaled, labels),
        },
    }
    path = _path(workdir, checkpoint)
    path.write_text(json.dumps(result, indent=2) + "\n")
    return result, path


def load_temperature(workdir: Path, checkpoint: str = NEWEST, step: int | None = None) -> float:
    """The temperature of a run's checkpoint; 1 if it has not been calibrated.

    Args:
        workdir: folder of the run.
        checkpoint: see `Checkpoints.resolve`.
        step: of the checkpoint; the calibration of another step does not count. None: any.

    Raises:
        UserError: the calibration file is damaged.
    """
    return _read(_path(workdir, checkpoint), step).temperature


def load_min_confidence(workdir: Path, checkpoint: str = NEWEST, step: int | None = None) -> float:
    """The confidence below which motions of a run's checkpoint become UNKNOWN; 0 without one.

    Arguments and errors are those of `load_temperature`.
    """
    return _read(_path(workdir, checkpoint), step).min_confidence


def load_branch_weights(
    workdir: Path, checkpoint: str = NEWEST, step: int | None = None
) -> list[float]:
    """The weights of a run's branches, see `fit_branches`; empty without a calibration of them.

    Arguments and errors are those of `load_temperature`.
    """
    return _read(_path(workdir, checkpoint), step).branch_weights


def fitted_branches(
    workdir: Path, checkpoint: str = NEWEST, step: int | None = None
) -> dict[str, Any]:
    """branch_weights, see `load_branch_weights`, and the split they were fitted on; {} without.

    Arguments and errors are those of `load_temperature`.
    """
    stored = _read(_path(workdir, checkpoint), step)
    if not stored.branch_weights:
        return {}
    return {"branch_weights": stored.branch_weights, "split": stored.split}


def warning(workdir: Path, checkpoint: str, step: int) -> str:
    """A line if a run's checkpoint was calibrated at another step than `step`, or ""."""
    path = _path(workdir, checkpoint)
    fitted = _read(path, None).step
    if fitted in (None, step):
        return ""
    return (
        f"warning: {path}: was fitted at step {fitted}, but the checkpoint is of step {step}; it "
        "is not applied until launch/evaluate.py --calibrate fits it again"
    )


class _Stored(NamedTuple):
    """A calibration file, see `calibrate`."""

    temperature: float
    min_confidence: float
    branch_weights: list[float]
    split: str = ""
    step: int | None = None


def _read(path: Path, step: int | None) -> _Stored:
    """Reads a calibration file.

    1, 0 and [] if there is none, or one of another step. Files of earlier versions have no step and
    apply to any.
    """
    try:
        content = json.loads(path.read_text())
        temperature = float(content["temperature"])
        min_confidence = float(content.get("min_confidence", 0.0))
        weights = [float(weight) for weight in content.get("branch_weights", [])]
        fitted = None if content.get("step") is None else int(content["step"])
    except FileNotFoundError:
        return _Stored(1.0, 0.0, [])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: not a calibration ({error}); remove or repeat it") from error
    in_range = all(0 <= weight <= _RANGE[1] for weight in weights)
    if not (_RANGE[0] / 2 < temperature < _RANGE[1] * 2 and 0 <= min_confidence <= 1 and in_range):
        raise UserError(
            f"{path}: temperature {temperature}, min_confidence {min_confidence}, branch_weights "
            f"{weights}; remove or repeat the calibration"
        )
    if step is not None and fitted not in (None, step):
        return _Stored(1.0, 0.0, [])
    return _Stored(temperature, min_confidence, weights, str(content.get("split", "")), fitted)


def _path(workdir: Path, checkpoint: str) -> Path:
    return workdir / f"calibration{suffix(checkpoint)}.json"
