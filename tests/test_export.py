"""The exported program runs without the library and gives the same results."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import tiny_config, tiny_image

from jdance import models
from jdance.errors import UserError
from jdance.pose import PoseEstimator
from jdance.recognize.export import export
from jdance.recognize.recognizer import Recognizer

_CALL = """
import json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import load
recognize, classes = load.load(sys.argv[1])
found = recognize(np.load(sys.argv[2]), np.array([[96, 80]], np.int32))
assert classes == list("abc")
assert not {"jdance", "flax", "cv2", "ml_collections"} & set(sys.modules)
np.savez(sys.argv[3], **found)
frame = np.load(sys.argv[2])
for frames, sizes, named in (
    (frame, [[113, 80]], "[[113, 80]], expected 1 x [height, width] from 1 to [112, 96]"),
    (frame, [[96, 97]], "[[96, 97]]"),
    (np.zeros((1, 200, 300, 3), np.uint8), [[200, 300]], "[1, 200, 300, 3], expected uint8 [1, "),
):
    try:
        recognize(frames, sizes)
    except ValueError as error:
        assert named in str(error), error
    else:
        raise AssertionError(named)
"""


def test_exported_program_equals_the_library(tiny_data, tmp_path, real_data):
    config = tiny_config(tiny_data)
    config.model.classes = 3
    net = models.build(config.model)
    image = np.zeros((1, 32, 32, 3), np.uint8)
    variables = net.init(jax.random.key(0), image, np.ones((1, 18), np.float32))
    estimator = PoseEstimator.load(real_data("pose/mobilenet_v2_small.pb"))
    recognizer = Recognizer(config, list("abc"), variables, estimator, temperature=1.5)
    folder = tmp_path / "exported"
    info = export(recognizer, folder, height=112, width=96, platforms=("cpu",), whole_image=True)
    assert json.loads((folder / "program.json").read_text())["classes"] == info["classes"]
    source_image = tiny_image(0)[0]
    frames = np.zeros((1, 112, 96, 3), np.uint8)
    frames[0, :96, :80] = source_image
    np.save(tmp_path / "frames.npy", frames)
    subprocess.run(
        [sys.executable, "-c", _CALL, str(folder), tmp_path / "frames.npy", tmp_path / "found.npz"],
        check=True, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    expected = recognizer.dispatch([source_image], whole_image=True, size=(112, 96))
    with np.load(tmp_path / "found.npz") as found:
        for name, value in jax.device_get(expected)._asdict().items():
            np.testing.assert_allclose(found[name], value, atol=1e-4)
        assert found["valid"].any()
    assert (folder / "requirements.txt").read_text().startswith("flatbuffers\njax>=")
    with pytest.raises(UserError, match="not empty"):
        export(recognizer, folder)
