"""Probabilities that mean what they say: one temperature, fitted on held-out examples.

Logits are divided by the temperature before the softmax (Guo et al., "On Calibration of Modern
Neural Networks", 2017). It changes no decision, only how sure the network says it is.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize

from jdance.errors import UserError
from jdance.train.checkpoints import NEWEST, suffix

_RANGE = (0.05, 20.0)  # of temperatures


def expected_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy over equal bins.

    Args:
        probabilities: float [N, M].
        labels: int [N].
        bins: of the confidence, from 0 to 1.
    """
    confidence = probabilities.max(-1)
    right = probabilities.argmax(-1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(place, weights=confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / max(len(labels), 1))


def soften(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities [N, M] as they would be with their logits divided by the temperature."""
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-30)) / temperature
    logits -= logits.max(-1, keepdims=True)
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def fit(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the smallest cross-entropy on N examples."""
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        own = soften(probabilities, np.exp(log_temperature))[rows, labels]
        return float(-np.log(np.maximum(own, 1e-30)).mean())

    low, high = np.log(_RANGE)
    return float(np.exp(optimize.minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def calibrate(
    probabilities: np.ndarray,
    labels: np.ndarray,
    split: str,
    workdir: Path,
    checkpoint: str = NEWEST,
) -> tuple[dict[str, Any], Path]:
    """Fits the temperature of a checkpoint and writes it where `temperature_of` finds it.

    Returns:
        What is written: temperature, split, n, and expected_calibration_error before and after;
        and the file, WORKDIR/calibration[_best|_stepN].json.
    """
    temperature = fit(probabilities, labels)
    result = {
        "temperature": temperature,
        "split": split,
        "n": len(labels),
        "expected_calibration_error": {
            "before": expected_error(probabilities, labels),
            "after": expected_error(soften(probabilities, temperature), labels),
        },
    }
    path = _path(workdir, checkpoint)
    path.write_text(json.dumps(result, indent=2) + "\n")
    return result, path


def temperature_of(workdir: Path, checkpoint: str = NEWEST) -> float:
    """The temperature of a run's checkpoint; 1 if it has not been calibrated.

    Raises:
        UserError: its calibration.json is damaged.
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
