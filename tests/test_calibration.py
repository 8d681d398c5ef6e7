"""Temperature scaling."""

import json

import numpy as np
import pytest

from jdance.errors import UserError
from jdance.train import calibration


def _examples(temperature, count=4000):
    """Labels drawn from softmax(logits / temperature), and the probabilities softmax(logits)."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (count, 4))
    true = calibration.apply_temperature(np.exp(logits), temperature)
    labels = (true.cumsum(-1) > rng.random((count, 1))).argmax(-1)
    return calibration.apply_temperature(np.exp(logits), 1.0), labels


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_finds_the_temperature(tmp_path, temperature):
    probabilities, labels = _examples(temperature)
    result, _ = calibration.calibrate(probabilities, labels, "val", tmp_path)
    assert result["temperature"] == pytest.approx(temperature, rel=0.1)
    error = result["expected_calibration_error"]
    assert error["after"] < 0.03 and error["after"] <= error["before"] + 0.01
    assert calibration.load_temperature(tmp_path) == result["temperature"]
    assert calibration.load_temperature(tmp_path, "best") == 1  # of another checkpoint


def test_expected_calibration_error():
    confident = np.array([[0.9, 0.1]] * 10)
    assert calibration.expected_calibration_error(
        confident, np.array([0] * 9 + [1])
    ) == pytest.approx(0)
    assert calibration.expected_calibration_error(confident, np.ones(10, int)) == pytest.approx(0.9)


def test_a_calibration_applies_to_its_step(tmp_path):
    probabilities, labels = _examples(2.5)
    classes, weights = ["a", "b", "c", calibration.UNKNOWN], [0.5, 2.0]
    result, path = calibration.calibrate(
        probabilities, labels, "val", tmp_path, "best", classes, weights, step=6
    )
    loads = [calibration.load_temperature, calibration.load_min_confidence,
             calibration.load_branch_weights]  # fmt: skip
    fitted = [result["temperature"], result["min_confidence"], weights]
    assert [load(tmp_path, "best", 6) for load in loads] == fitted
    assert [load(tmp_path, "best", 60) for load in loads] == [1, 0, []]
    assert not calibration.warning(tmp_path, "best", 6)
    line = calibration.warning(tmp_path, "best", 60)
    assert f"{path}: was fitted at step 6, but the checkpoint is of step 60" in line
    del result["step"]  # as in files of earlier versions
    path.write_text(json.dumps(result))
    assert [load(tmp_path, "best", 60) for load in loads] == fitted
    assert not calibration.warning(tmp_path, "best", 60)


def test_missing_or_damaged_calibration(tmp_path):
    assert calibration.load_temperature(tmp_path) == 1
    for text in ("", "[]", '{"temperature": "x"}', '{"temperature": 0}', '{"temperature": NaN}',
                 '{"temperature": 2, "step": "x"}'):  # fmt: skip
        (tmp_path / "calibration.json").write_text(text)
        with pytest.raises(UserError, match=r"calibration\.json"):
            calibration.load_temperature(tmp_path)
