"""Recognition of images, annotation, and OpenPose JSON."""

import jax
import numpy as np
import pytest
from conftest import eval_batches, tiny_config, tiny_image

from jdance import models, skeleton
from jdance.data import crop, openpose_json, records
from jdance.errors import UserError
from jdance.recognize.recognizer import Recognizer, annotate
from jdance.report import draw
from jdance.train import evaluation


@pytest.fixture(scope="module")
def setup(tiny_data):
    config = tiny_config(tiny_data)
    config.data.image_size = 56
    config.model.classes = 3
    net = models.build(config.model)
    image = np.zeros((1, 56, 56, 3), np.uint8)
    variables = net.init(jax.random.key(0), image, np.ones((1, 18), np.float32))
    return config, variables


def test_probabilities_match_evaluation(setup, tiny_data):
    config, variables = setup
    source = records.Dataset(tiny_data).source("val")
    predictions = evaluation.predict(
        evaluation.make_eval_step(config), variables, eval_batches(source, config)
    )
    recognizer = Recognizer(config, ["a", "b", "c"], variables)
    for i in range(4):
        index = int(records.unpack(source[i]).source.split()[1])
        image, keypoints = tiny_image(index)
        (person,) = recognizer(image, keypoints)
        expected = predictions["probabilities"][i]
        np.testing.assert_allclose(person.probabilities, expected, atol=0.02)  # JPEG
        assert person.motion == "abc"[int(person.probabilities.argmax())]
        assert person.box == pytest.approx(crop.tight_box(keypoints[0]))


def test_people_in_an_image_are_independent(setup):
    recognizer = Recognizer(setup[0], ["a", "b", "c"], setup[1])
    image = tiny_image(0)[0]
    people = np.concatenate([tiny_image(i)[1] for i in range(5)])
    recognized = recognizer(image, people)
    for person, keypoints in zip(recognized, people, strict=True):
        (alone,) = recognizer(image, keypoints[None])
        np.testing.assert_allclose(person.probabilities, alone.probabilities, atol=1e-5)


def test_images_without_people(setup):
    recognizer = Recognizer(setup[0], ["a", "b", "c"], setup[1])
    image, no_people = tiny_image(0)[0], np.zeros((0, 18, 3), np.float32)
    assert recognizer(image, no_people) == []
    (person,) = recognizer(image, no_people, whole_image=True)
    entry = person.to_json(track=0)
    assert entry["keypoints"] is None and entry["box"] == [0, 0, 80, 96]
    assert sum(entry["probabilities"]) == pytest.approx(1, abs=1e-4)
    with pytest.raises(UserError, match="--pose"):
        recognizer(image)


def test_json_is_rounded(setup):
    image, keypoints = tiny_image(0)
    keypoints[..., 2] = np.float32(0.792)
    (person,) = Recognizer(setup[0], ["a", "b", "c"], setup[1])(image, keypoints)
    entry = person.to_json(track=0)
    assert entry["keypoints"][0][2] == 0.792
    for value in [*np.ravel(entry["keypoints"]), *entry["box"], *entry["probabilities"]]:
        assert len(repr(float(value)).partition(".")[2]) <= 5
    # The annotation draws the same box.
    drawn = draw.people(np.zeros_like(image), [None], [person.box], ["a"], [0])
    x, y, width, height = entry["box"]
    column = np.flatnonzero((drawn == draw.motion_color(0)).all(-1)[round(y + height / 2)])
    assert abs(column - x).min() <= 1 and abs(column - x - width).min() <= 1
    assert column.min() >= x - 2 and column.max() <= x + width + 2


def test_annotation_draws_skeleton_box_and_label(setup):
    recognizer = Recognizer(setup[0], ["a", "b", "c"], setup[1])
    image, keypoints = tiny_image(2)
    before = image.copy()
    drawn = annotate(image, recognizer(image, keypoints), ["a", "b", "c"])
    np.testing.assert_array_equal(image, before)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    for joint in (skeleton.NOSE, skeleton.L_ANKLE):
        x, y = np.round(keypoints[0, joint, :2]).astype(int)
        assert np.abs(drawn[y, x].astype(int) - 245).max() <= 12  # a white dot on the joint


def test_labels_do_not_cover_each_other():
    canvas = np.zeros((200, 300, 3), np.uint8)
    taken: list[tuple[int, int, int, int]] = []
    for x in (10, 20, 30, 250):
        taken.append(draw._label(canvas, "wave 0.98", (x, 5), 40, (9, 9, 9), 1.0, taken))
    for i, a in enumerate(taken):
        assert a[0] >= 0 and a[1] >= 0 and a[0] + a[2] <= 300
        assert not any(draw._overlap(a, b) for b in taken[:i])


def test_openpose_json_round_trip(tmp_path):
    people = np.concatenate([tiny_image(i)[1] for i in range(2)])
    people[1, 4] = 0
    openpose_json.write(tmp_path / "x.json", people)
    np.testing.assert_allclose(openpose_json.read(tmp_path / "x.json"), people, atol=1e-3)
    openpose_json.write(tmp_path / "x.json", people[:0])
    assert openpose_json.read(tmp_path / "x.json").shape == (0, 18, 3)


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"people": 3}', '{"people": [{"pose_keypoints_2d": [1, 2]}]}',
     '{"people": [{"pose_keypoints_2d": ["a", 2, 3]}]}', '{"people": [[]]}'],
)  # fmt: skip
def test_invalid_openpose_json(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match="not OpenPose key points"):
        openpose_json.read(tmp_path / "x.json")
