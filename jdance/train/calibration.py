"""Temperature scaling of a classifier's logits, fitted on held-out examples.

Logits are divided by one temperature before the softmax, which changes confidences but no
prediction (Guo et al., "On Calibration of Modern Neural Networks", 2017).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize, special

from jdance.errors import UserError
from jdance.train.checkpoints import NEWEST, suffix

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
    """The temperature with the lowest cross-entropy; shapes as above."""
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        true = apply_temperature(probabilities, np.exp(log_temperature))[rows, labels]
        return float(-np.log(np.maximum(true, 1e-30)).mean())

    low, high = np.log(_RANGE)
    return float(np.exp(optimize.minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def calibrate(
    probabilities: np.ndarray,
    labels: np.ndarray,
    split: str,
    workdir: Path,
    checkpoint: str = NEWEST,
) -> tuple[dict[str, Any], Path]:
    """Fits the temperature of a checkpoint and writes it for `load_temperature`.

    Returns:
        The content: temperature, split, n, and expected_calibration_error before and after; and the
        file, WORKDIR/calibration[_best|_stepN].json.
    """
    temperature = fit(probabilities, labels)
    scaled = apply_temperature(probabilities, temperature)
    result = {
        "temperature": temperature,
        "split": split,
        "n": len(labels),
        "expected_calibration_error": {
            "before": expected_calibration_error(probabilities, labels),
            "after": expected_calibration_error(scaled, labels),
        },
    }
    path = _path(workdir, checkpoint)
    path.write_text(json.dumps(result, indent=2) + "\n")
    return result, path


def load_temperature(workdir: Path, checkpoint: str = NEWEST) -> float:
    """The temperature of a run's checkpoint; 1 if it has not been calibrated.

    Raises:
        UserError: the calibration file is damaged.
    """
    path = _path(workdir, checkpoint)
    try:
        temperature = float(json.loads(path.read_text())["temperature"])
    except FileNotFoundError:
        return 1.0
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: not a calibration ({error}); remove or repeat it") from error
    if not _RANGE[0] / 2 < temperature < _RANGE[1] * 2:
        raise UserError(f"{path}: temperature {temperature}; remove or repeat the calibration")
    return temperature


def _path(workdir: Path, checkpoint: str) -> Path:
    return workdir / f"calibration{suffix(checkpoint)}.json"
