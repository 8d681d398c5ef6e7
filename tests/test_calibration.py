"""Temperature scaling."""

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


def test_missing_or_damaged_calibration(tmp_path):
    assert calibration.load_temperature(tmp_path) == 1
    for text in ("", "[]", '{"temperature": "x"}', '{"temperature": 0}', '{"temperature": NaN}'):
        (tmp_path / "calibration.json").write_text(text)
        with pytest.raises(UserError, match=r"calibration\.json"):
            calibration.load_temperature(tmp_path)
