"""The baselines STR and QES against direct implementations of their definitions."""

import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config
from test_features import people

from jdance import config as defaults
from jdance import features, models, skeleton_maps
from jdance import skeleton as sk
from jdance.data.prepare import prepare
from jdance.data.sources import open_source
from jdance.errors import UserError
from jdance.models.baselines import fuzzy_c_means
from jdance.models.baselines.qes import TwoStagePostureNet
from jdance.recognize.recognizer import Recognizer
from jdance.train import categories, loop, posture, results

# --- STR ------------------------------------------------------------------------------------------


def centered(person):
    p = person[:, :2].astype(np.float64)
    return (p - p[1]) / np.linalg.norm(p[1] - (p[8] + p[11]) / 2)


def color(value):
    return [min(max(1.5 - abs(4 * value - peak), 0), 1) for peak in (3, 2, 1)]


def test_still_map_matches_its_definition():
    person = people(1, seed=3)[0]
    person[16] = 0  # the right ear is missing
    p = centered(person)
    expected = np.zeros((18, 18, 3))
    for j in range(18):
        for k in range(j + 1, 18):
            if 16 in (j, k):
                continue
            vector = p[k] - p[j]
            length = np.hypot(*vector)
            expected[j, k] = color(min(length / 3, 1))
            expected[k, j] = [(vector[0] / length + 1) / 2, (vector[1] / length + 1) / 2, 0.5]
    np.testing.assert_allclose(skeleton_maps.still(person), expected, atol=1e-4)


def test_clip_map_matches_its_definition():
    frames = people(7, seed=4)
    positions = np.stack([centered(person) for person in frames])
    smoothed = positions.copy()
    for t in range(2, 5):
        smoothed[t] = sum(
            w * positions[t + d] for w, d in zip((-3, 12, 17, 12, -3), range(-2, 3), strict=True)
        )
        smoothed[t] /= 35
    pairs = [(j, k) for j in range(18) for k in range(j + 1, 18)]
    assert len(pairs) == 153
    expected = np.zeros((306, 13, 3))
    for column in range(13):
        before, after = smoothed[column // 2], smoothed[(column + 1) // 2]
        for row, (j, k) in enumerate(pairs):
            vector = after[k] - before[j]
            length = np.hypot(*vector)
            expected[row, column] = color(min(length / 3, 1))
            expected[153 + row, column] = [*((vector / length + 1) / 2), 0.5]
    np.testing.assert_allclose(skeleton_maps.clip(frames), expected, atol=2e-4)


def test_finished_map():
    image = np.random.default_rng(0).random((18, 18, 3))
    large = np.kron(image, np.ones((2, 2, 1)))
    lab = cv2.cvtColor(np.round(255 * large).astype(np.uint8), cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(lab[..., 0])
    expected = cv2.resize(
        cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), (32, 32), interpolation=cv2.INTER_AREA
    )
    np.testing.assert_array_equal(skeleton_maps.finish(image), expected)
    assert skeleton_maps.compute(people(3)).shape == (3, 32, 32, 3)
    assert skeleton_maps.compute(people(6).reshape(2, 3, 18, 3)).shape == (2, 32, 32, 3)
    assert not skeleton_maps.still(np.zeros((18, 3), np.float32)).any()


@pytest.mark.parametrize(
    ("depth", "trainable", "total"),
    [(16, 126_950, 129_590), (28, 465_878, 474_518), (40, 1_017_926, 1_036_022)],
)
def test_str_has_the_papers_parameters(depth, trainable, total):
    config = defaults.model()
    config.branches, config.str.depth = "str", depth
    maps = jnp.zeros((1, *models.inputs(config).shape))
    variables = jax.eval_shape(models.build(config).init, jax.random.key(0), None, maps)
    assert models.count_parameters(variables) == trainable
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == total


# --- QES ------------------------------------------------------------------------------------------


def test_segments_are_angles_to_the_trunk():
    group = people(20, seed=5)
    pairs = [(1, 0), (2, 5), (8, 11), (2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10), (11, 12),
             (12, 13)]  # fmt: skip
    actual = features.compute("segments22", group).reshape(20, 11, 2)
    for person, found in zip(group[..., :2].astype(np.float64), actual, strict=True):
        trunk = (person[8] + person[11]) / 2 - person[1]
        for (a, b), (cosine, sine) in zip(pairs, found, strict=True):
            bone = person[b] - person[a]
            angle = np.arctan2(bone[1], bone[0]) - np.arctan2(trunk[1], trunk[0])
            np.testing.assert_allclose([cosine, sine], [np.cos(angle), np.sin(angle)], atol=1e-4)
    group[:, [8, 11]] = 0  # no hips: the trunk is upright, hips and legs are missing
    upright = features.compute("segments22", group).reshape(20, 11, 2)
    assert not upright[:, [2, 7, 9]].any()
    head = group[:, 0, :2] - group[:, 1, :2]
    cosine = head[:, 1] / np.linalg.norm(head, axis=-1)
    np.testing.assert_allclose(upright[:, 0, 0], cosine, atol=1e-4)


def test_memberships_match_their_definition_and_sum_to_one():
    rng = np.random.default_rng(0)
    points, prototypes = rng.normal(size=(30, 5)), rng.normal(size=(4, 5))
    for fuzziness in (1.25, 2.0):
        actual = fuzzy_c_means.memberships(jnp.asarray(points, jnp.float32), prototypes, fuzziness)
        for point, memberships in zip(points, np.asarray(actual), strict=True):
            d = np.linalg.norm(point - prototypes, axis=1)
            expected = [1 / sum((d[k] / d[j]) ** (2 / (fuzziness - 1)) for j in range(4))
                        for k in range(4)]  # fmt: skip
            np.testing.assert_allclose(memberships, expected, atol=1e-5)
        np.testing.assert_allclose(np.asarray(actual).sum(1), 1, atol=1e-6)
    on_it = fuzzy_c_means.memberships(jnp.asarray(prototypes), jnp.asarray(prototypes), 1.25)
    np.testing.assert_allclose(on_it, np.eye(4), atol=1e-6)


def test_fuzzy_c_means_step_matches_its_definition():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(40, 3)).astype(np.float32)
    prototypes = rng.normal(size=(5, 3)).astype(np.float32)
    weights = np.r_[np.ones(30), np.zeros(10)].astype(np.float32)
    actual = fuzzy_c_means.step(points, weights, jnp.asarray(prototypes), fuzziness=1.25)
    d = np.linalg.norm(points[:30, None].astype(float) - prototypes, axis=-1)
    u = d ** (-2 / 0.25) / (d ** (-2 / 0.25)).sum(1, keepdims=True)
    expected = (u**1.25).T @ points[:30] / (u**1.25).sum(0)[:, None]
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_fuzzy_c_means_finds_cluster_centers():
    rng = np.random.default_rng(2)
    centers = np.array([[0, 0], [5, 0], [0, 5], [5, 5]], np.float32)
    points = np.repeat(centers, 50, 0) + rng.normal(0, 0.3, (200, 2)).astype(np.float32)
    outliers = np.full((20, 2), 100, np.float32)
    data = jnp.asarray(np.concatenate([points, outliers]))
    weights = jnp.asarray(np.r_[np.ones(200), np.zeros(20)], jnp.float32)
    found = fuzzy_c_means.fit(data, weights, jax.random.key(0), count=4, fuzziness=1.25)
    means = points.reshape(4, 50, 2).mean(1)
    order = np.linalg.norm(means[:, None] - np.asarray(found), axis=-1).argmin(1)
    assert sorted(order) == [0, 1, 2, 3]
    np.testing.assert_allclose(np.asarray(found)[order], means, atol=0.05)


def test_merging_of_confused_classes():
    counts = np.diag([90, 80, 80, 70, 95, 100])
    counts[1, 2], counts[2, 1] = 20, 20  # .2 mutually
    counts[0, 3], counts[3, 0] = 10, 30  # .2
    counts[4, 5] = 5  # .025: too little
    assert categories.merge(counts, 3, 0.05) == (0, 1, 1, 0, 2, 3)
    assert categories.merge(counts, 5, 0.05) in ((0, 1, 1, 2, 3, 4), (0, 1, 2, 0, 3, 4))
    assert categories.merge(counts, 3, 0.01) == (0, 1, 1, 0, 2, 2)
    assert categories.merge(np.ones((6, 6)), 3, 0.05).count(0) > 1
    assert len(set(categories.merge(np.ones((6, 6)), 3, 0.05))) == 3
    assert categories.merge(np.diag([5, 5]), 3, 0.05) == (0, 1)


def gaussian_classes(count, seed):
    """Clusters in 22 dimensions: classes 0 and 1 have two crossed lobes each, so that neither a
    line nor a mean separates them; classes 2 to 4 are separate."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 5
    points = rng.normal(0, 0.15, (count, 22)).astype(np.float32)
    lobe = rng.choice([-1, 1], count)
    crossed = labels < 2
    points[crossed, 0] += lobe[crossed]
    points[crossed, 1] += (lobe * np.where(labels == 0, 1, -1))[crossed]
    for label in (2, 3, 4):
        points[labels == label, label + 1] += 2
    return points, labels


def test_two_stages_solve_a_toy_problem():
    points, labels = gaussian_classes(500, 0)
    found = categories.find(
        points, labels, [""] * 500, 5, hidden=1, min_categories=3, threshold=0.05, seed=0
    )  # one hidden unit cannot separate the crossed lobes
    assert found[0] == found[1]
    net = TwoStagePostureNet((0, 0, 1, 2, 3), prototypes=2)
    variables = net.init(jax.random.key(0), None, jnp.asarray(points))
    # Stage 1 by hand: far along axis 3, 4, 5 is category 1, 2, 3, else 0.
    hidden = np.zeros((22, 30), np.float32)
    output = np.zeros((30, 4), np.float32)
    for category in (1, 2, 3):
        hidden[2 + category, category] = 20
        output[category, category] = 20
    stage1 = {
        "hidden": {"kernel": hidden, "bias": np.full(30, -20, np.float32)},
        "logits": {"kernel": output, "bias": np.array([10, 0, 0, 0], np.float32)},
    }
    weights = (labels == np.arange(5)[:, None]).astype(np.float32)
    prototypes = jnp.stack(
        [fuzzy_c_means.fit(points, w, jax.random.key(1), count=2, fuzziness=1.25) for w in weights]
    )
    np.testing.assert_allclose(np.sort(prototypes[0, :, 0]), [-1, 1], atol=0.1)
    variables = {"params": {"category": stage1}, "batch_stats": {"prototypes": prototypes}}
    fresh, true = gaussian_classes(400, 1)
    logs = net.apply(variables, None, jnp.asarray(fresh))
    assert (np.asarray(logs).argmax(1) == true).mean() == 1
    np.testing.assert_allclose(np.exp(logs).sum(1), 1, atol=1e-4)
    # Inside category 0 the probabilities are the summed memberships to the four prototypes.
    point = fresh[0]
    d = np.linalg.norm(point - np.asarray(prototypes[:2]).reshape(4, 22), axis=1)
    u = d**-8.0 / (d**-8.0).sum()
    np.testing.assert_allclose(np.exp(logs[0, :2]), [u[:2].sum(), u[2:].sum()], atol=1e-4)
    # No person detected, all zeros: still finite.
    assert np.isfinite(net.apply(variables, None, jnp.zeros((1, 22)))).all()


def person_with(angles):
    """A person [18, 3] whose segments make these angles (radians) with an upright trunk."""
    position = {"neck": np.array([100.0, 50.0])}

    def step(start, part, length):
        angle = angles[posture.PARTS.index(part)] + np.pi / 2  # the trunk points down
        return start + length * np.array([np.cos(angle), np.sin(angle)])

    position["nose"] = step(position["neck"], "head", 15)
    for pair, at, part in (
        (("right_shoulder", "left_shoulder"), position["neck"], "shoulders"),
        (("right_hip", "left_hip"), position["neck"] + [0, 60], "hips"),
    ):
        half = (step(at, part, 20) - at) / 2
        position[pair[0]], position[pair[1]] = at - half, at + half
    for side in ("right", "left"):
        for joints, parts in (
            (("shoulder", "elbow", "wrist"), ("upper arm", "forearm")),
            (("hip", "knee", "ankle"), ("thigh", "shin")),
        ):
            for before, after, part in zip(joints, joints[1:], parts, strict=False):
                start = position[f"{side}_{before}"]
                position[f"{side}_{after}"] = step(start, f"{side} {part}", 25)
    keypoints = np.zeros((18, 3), np.float32)
    for name, xy in position.items():
        keypoints[sk.NAMES.index(name)] = [*xy, 1]
    return keypoints


def test_feedback_of_a_known_posture():
    rng = np.random.default_rng(0)
    usual = rng.uniform(-0.8, 0.8, 11)
    group = np.stack([person_with(usual + rng.normal(0, 0.1, 11)) for _ in range(300)])
    segments = features.compute("segments22", group)
    model = posture.fit(segments, np.zeros(300, int), ("bow", "never seen"))
    parts = {part.name: part for part in model.score_parts(person_with(usual), "bow")}
    assert list(parts) == list(posture.PARTS)
    assert all(part.score > 0.9 and abs(part.angle) < 4 for part in parts.values())
    wrong = usual.copy()
    wrong[posture.PARTS.index("left thigh")] += np.radians(40)
    wrong[posture.PARTS.index("left shin")] += np.radians(40)  # hangs on the thigh
    parts = {part.name: part for part in model.score_parts(person_with(wrong), "bow")}
    assert parts["left thigh"].score < 0.01 and parts["right thigh"].score > 0.9
    assert abs(parts["left thigh"].angle + 40) < 4
    incomplete = person_with(usual)
    incomplete[sk.L_KNEE] = 0
    names = [part.name for part in model.score_parts(incomplete, "bow")]
    assert len(names) == 9 and "left thigh" not in names and "left shin" not in names
    assert model.score_parts(person_with(usual), "never seen") == []
    with pytest.raises(UserError, match="no posture model of 'jump'"):
        model.score_parts(incomplete, "jump")


def test_feedback_depends_on_the_parent():
    """A forearm that turns with the upper arm keeps its score."""
    rng = np.random.default_rng(1)
    angles = np.zeros((400, 11))
    upper, fore = (posture.PARTS.index(f"right {p}") for p in ("upper arm", "forearm"))
    angles[:, upper] = rng.normal(0, 0.3, 400)
    angles[:, fore] = angles[:, upper] + rng.normal(0, 0.03, 400)
    segments = features.compute("segments22", np.stack([person_with(a) for a in angles]))
    model = posture.fit(segments, np.zeros(400, int), ("wave",))
    turned = np.zeros(11)
    turned[[upper, fore]] = 0.5
    parts = {part.name: part for part in model.score_parts(person_with(turned), "wave")}
    assert parts["right forearm"].score > 0.6 and abs(parts["right forearm"].angle) < 6


def test_feedback_program(tmp_path):
    from programs import program

    rng = np.random.default_rng(0)
    group = np.stack([person_with(rng.normal(0, 0.05, 11)) for _ in range(50)])
    segments = features.compute("segments22", group)
    posture.fit(segments, np.zeros(50, int), ("stand",)).save(tmp_path / "posture.npz")
    wrong = np.zeros(11)
    wrong[posture.PARTS.index("left forearm")] = np.radians(-50)
    person = {"track": 0, "motion": "stand", "keypoints": person_with(wrong).tolist()}
    undetected = {"track": 1, "motion": "stand", "keypoints": None}
    frames = [{"index": 0, "people": [person, undetected]}]
    (tmp_path / "a.json").write_text(json.dumps({"frames": frames}))
    # Files of other formats are no results; those of a pattern are in folders.
    (tmp_path / "images_coco.json").write_text("[]")
    (tmp_path / "a_keypoints.json").write_text("{}")
    (tmp_path / "2020").mkdir()
    (tmp_path / "2020" / "z.json").write_text(json.dumps({"frames": frames}))
    output, _ = program("feedback", f"--model={tmp_path}", f"--input={tmp_path}")
    assert "wrote 2 files" in output and (tmp_path / "2020" / "z_feedback.json").exists()
    (tmp_path / "2020" / "z.json").unlink()
    assert "a, frame 0, person 0, stand: left forearm 0.00: turn 5" in output
    assert "degrees clockwise\n" in output and "person 1, stand: nothing to correct" in output
    written = json.loads((tmp_path / "a_feedback.json").read_text())
    first, second = written["frames"][0]["people"]
    assert len(first["feedback"]["parts"]) == 11 and second["feedback"]["parts"] == []
    assert abs(first["feedback"]["parts"][0]["angle"] - 50) < 3
    _, error = program(
        "feedback", f"--model={tmp_path}", f"--input={tmp_path}", "--motion=jump", status=1
    )
    assert "no posture model of 'jump'" in error
    # Unknown motions and unreadable files do not affect the other results.
    unknown = person | {"track": 2, "motion": "unknown"}
    frames = [{"index": 0, "people": [unknown, person]}]
    (tmp_path / "c.json").write_text(json.dumps({"frames": frames}))
    (tmp_path / "b.json").write_text("[]")
    output, error = program("feedback", f"--model={tmp_path}", f"--input={tmp_path}", status=1)
    assert "b.json: not a result of launch/recognize.py" in output
    assert "1 of 3 results skipped" in error
    assert "1 without feedback: the model has no motion 'unknown'" in output
    first, second = json.loads((tmp_path / "c_feedback.json").read_text())["frames"][0]["people"]
    assert first["feedback"] is None and len(second["feedback"]["parts"]) == 11


# --- Training -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def skeletons(tmp_path_factory):
    """60 training and 30 validation skeletons; the upper arms determine the class."""
    folder, rng = tmp_path_factory.mktemp("skeletons"), np.random.default_rng(0)
    labels = np.arange(90) % 3
    angles = rng.normal(0, 0.2, (90, 11))
    arms = [posture.PARTS.index(f"{side} upper arm") for side in ("right", "left")]
    angles[:, arms] += labels[:, None]
    group = np.stack([person_with(a) for a in angles])
    np.savez(
        folder / "s.npz", xy=group[..., :2], conf=group[..., 2],
        label=np.array(list("abc"))[labels], split=np.where(np.arange(90) < 60, "train", "val"),
    )  # fmt: skip
    prepare(open_source(str(folder / "s.npz")), folder / "data", None)
    return folder / "data"


def baseline_config(data, branches):
    config = tiny_config(data)
    config.model.branches = branches
    config.model.str.depth = 7
    config.model.qes.prototypes = 3
    config.optimizer.update(name="adam", learning_rate=0.03)
    config.augment.update(rotation=0.0, flip=0.0)
    config.eval_every = 100.0
    config.checkpoint_every = 100.0
    config.epochs = 6.0
    return config


def test_qes_trains_resumes_and_is_evaluated(skeletons, tmp_path):
    config = baseline_config(skeletons, "qes")
    result = loop.train(config, tmp_path)
    assert result["accuracy"] > 0.9
    assert loop.train(config, tmp_path) == result
    assert results.evaluate([tmp_path], "val")[0]["accuracy"] == result["accuracy"]
    saved = json.loads((tmp_path / "config.json").read_text())["config"]["model"]["qes"]
    assert saved["categories"] == [0, 1, 2]
    model = posture.PostureModel.load(tmp_path / "posture.npz")
    assert model.classes == ("a", "b", "c") and (model.counts == 20).all()
    config.model.qes.prototypes = 21
    with pytest.raises(UserError, match="only 20 training examples of class 'a'"):
        loop.train(config, tmp_path / "other")
    config.model.qes.update(prototypes=3, categories=(0, 2, 2))
    with pytest.raises(UserError, match="expected a number from 0 on for each of the 3 classes"):
        loop.train(config, tmp_path / "other")


@pytest.mark.parametrize("branches", ["str", "qes_flat"])
def test_other_baselines_train_and_are_evaluated(branches, skeletons, tmp_path):
    config = baseline_config(skeletons, branches)
    if branches == "str":  # slow enough for the running statistics
        config.optimizer.learning_rate = 0.005
    result = loop.train(config, tmp_path)
    assert result["accuracy"] > 0.8
    assert results.evaluate([tmp_path], "val")[0]["accuracy"] == result["accuracy"]
    if branches == "str":
        with pytest.raises(UserError, match="recognition does not support"):
            Recognizer.load(tmp_path, None)
        return
    recognizer, image = Recognizer.load(tmp_path, None), np.zeros((200, 200, 3), np.uint8)
    for number in range(3):
        angles = np.zeros(11)
        for side in ("right", "left"):
            angles[posture.PARTS.index(f"{side} upper arm")] = number
        (person,) = recognizer(image, person_with(angles)[None])
        assert person.motion == "abc"[number]


def test_str_takes_sequences(tmp_path):
    from test_sequences import clips

    np.savez(tmp_path / "clips.npz", **clips(24))
    source = open_source(str(tmp_path / "clips.npz"), split_column="split2")
    prepare(source, tmp_path / "data", None)
    config = tiny_config(tmp_path / "data")
    config.model.branches = "str"
    config.model.str.depth = 7
    config.epochs = 1.0
    assert loop.train(config, tmp_path / "run")["n"]
    config.model.branches = "qes"
    with pytest.raises(UserError, match="holds sequences"):
        loop.train(config, tmp_path / "other")
