"""The decoder: round trips from drawn people, and comparison with a NumPy implementation."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decode_reference import decode_reference, find_peaks

from jdance import skeleton
from jdance.bench import pose_baselines
from jdance.pose.decode import DecodeConfig, decode, match_greedily
from jdance.pose.targets import encode

SIZE = (46, 46)
PIXELS = 368
MAX_DRAWN = 12
LENIENT = DecodeConfig(min_joints=1, min_score=0, smoothing=0)

# A standing figure of height 1 about its middle: its right hand is on the left of the image.
FIGURE = np.array([
    (0, -0.40), (0, -0.30),
    (-0.10, -0.30), (-0.14, -0.14), (-0.15, 0.00), (0.10, -0.30), (0.14, -0.14), (0.15, 0.00),
    (-0.06, 0.02), (-0.07, 0.24), (-0.07, 0.45), (0.06, 0.02), (0.07, 0.24), (0.07, 0.45),
    (-0.025, -0.43), (0.025, -0.43), (-0.05, -0.41), (0.05, -0.41),
])  # fmt: skip


def draw_people(rng, count, height=(60, 160), apart=24, border=0):
    """`count` random people [count, 18, 3] inside the image, leaning, facing either way.

    The same joint of two people is at least `apart` pixels apart: the heat map cannot tell closer
    ones. No more than that, so limbs cross and people overlap.
    """
    people = []
    while len(people) < count:
        lean = rng.uniform(-0.6, 0.6)
        turn = np.array([[np.cos(lean), np.sin(lean)], [-np.sin(lean), np.cos(lean)]])
        shape = FIGURE * [rng.choice([-1, 1]), 1]
        shape[2:14] += rng.normal(0, 0.03, (12, 2))
        points = shape @ turn * rng.uniform(*height) + rng.uniform(0, PIXELS, 2)
        inside = points.min() >= border and points.max() <= PIXELS - 1 - border
        if inside and all(np.linalg.norm(points - p, axis=1).min() >= apart for p in people):
            people.append(points)
    scores = np.ones((count, skeleton.NUM_JOINTS, 1))
    return np.concatenate([people, scores], axis=2).astype(np.float32)


def without(people, *joints):
    """People [..., 18, 3] with these joints removed."""
    people = people.copy()
    people[..., list(joints), :] = 0
    return people


_encode = jax.jit(encode, static_argnames=("size", "overhang"))


def maps_of(people, overhang=1.0):
    """The maps [1, h, w, 19], [1, h, w, 38] of people [N, 18, 3]."""
    padded = np.zeros((1, MAX_DRAWN, skeleton.NUM_JOINTS, 3), np.float32)
    padded[0, : len(people)] = people
    return _encode(padded, size=SIZE, overhang=overhang)


def people_in(heat, paf, config=DecodeConfig()):  # noqa: B008
    """The key points [N, 18, 3] and scores [N] of the N people in one image's maps."""
    keypoints, valid, score = (np.asarray(x[0]) for x in decode(heat, paf, config))
    assert np.all(np.diff(valid.astype(int)) <= 0) and np.all(np.diff(score[valid]) <= 0)
    assert not keypoints[~valid].any() and not score[~valid].any()
    return keypoints[valid], score[valid]


def assert_recovered(found, drawn, tolerance=1.5):
    """Every person is detected once with the same joints, within `tolerance` pixels."""
    assert len(found) == len(drawn)
    for person in drawn:
        labeled = person[:, 2] > 0
        both = (found[..., 2] > 0) & labeled
        distance = np.linalg.norm(found[..., :2] - person[:, :2], axis=-1)
        match = found[np.argmin(np.where(both, distance, 1000).sum(axis=1))]
        np.testing.assert_array_equal(match[:, 2] > 0, labeled)
        assert np.linalg.norm(match[:, :2] - person[:, :2], axis=-1)[labeled].max() < tolerance


def assert_equals_reference(heat, paf, config=DecodeConfig()):  # noqa: B008
    keypoints, score = people_in(heat, paf, config)
    expected, expected_score = decode_reference(np.asarray(heat[0]), np.asarray(paf[0]), config)
    assert len(keypoints) == len(expected)
    np.testing.assert_allclose(score, expected_score, atol=1e-4)
    np.testing.assert_allclose(keypoints, expected, atol=0.01)
    return keypoints


@pytest.mark.parametrize("count", range(1, MAX_DRAWN + 1))
def test_round_trip(count):
    rng = np.random.default_rng(count)
    for _ in range(3):
        people = draw_people(rng, count)
        assert_recovered(people_in(*maps_of(people))[0], people)


def test_round_trip_of_large_people_without_overhang():
    rng = np.random.default_rng(0)
    for count in range(1, 5):
        people = draw_people(rng, count, height=(210, 260), apart=32)
        assert_recovered(people_in(*maps_of(people, overhang=0))[0], people)


def test_subcell_joints_at_the_border():
    person = draw_people(np.random.default_rng(0), 1, height=(300, 301))
    person[..., 0] -= person[..., 0].min()
    person[..., 1] += PIXELS - 1 - person[..., 1].max()
    assert_recovered(people_in(*maps_of(person))[0], person)


def test_crossing_arms():
    left, right = (FIGURE * 200 + [x, 184] for x in (130, 220))
    # The neighboring arms cross, and so do the two right forearms.
    left[[skeleton.L_ELBOW, skeleton.L_WRIST]] = [(180, 150), (215, 175)]
    right[[skeleton.R_ELBOW, skeleton.R_WRIST]] = [(170, 160), (105, 205)]
    left[[skeleton.R_ELBOW, skeleton.R_WRIST]] = [(105, 150), (160, 215)]
    people = np.concatenate([[left, right], np.ones((2, 18, 1))], axis=-1).astype(np.float32)
    assert_recovered(people_in(*maps_of(people))[0], people)


@pytest.mark.parametrize(
    "missing",
    [
        pytest.param((8, 9, 10, 11, 12, 13), id="no legs"),
        pytest.param((0, 14, 15, 16, 17), id="no head"),
        pytest.param((0, 14, 15), id="ears alone, from behind"),
        pytest.param((2, 3, 4, 8, 9, 10, 14, 16), id="left side only"),
        pytest.param((0,), id="eyes and ears hang on the shoulders"),
        pytest.param((1, 8, 9, 10, 11, 12, 13), id="no neck, no legs"),
    ],
)
def test_people_with_missing_joints(missing):
    rng = np.random.default_rng(1)
    people = without(draw_people(rng, 4, height=(100, 160)), *missing)
    assert_recovered(people_in(*maps_of(people))[0], people)


def test_without_a_neck_the_upper_body_is_one_person():
    people = without(draw_people(np.random.default_rng(2), 2), skeleton.NECK)
    legs = (8, 9, 10, 11, 12, 13)  # connected by the neck only: three joints are no person
    assert_recovered(people_in(*maps_of(people))[0], without(people, *legs))


def test_min_joints():
    person = draw_people(np.random.default_rng(3), 1)
    arm = without(person, *(j for j in range(18) if j not in (2, 3, 4)))
    found, _ = people_in(*maps_of(arm))
    assert len(found) == 0
    found, _ = people_in(*maps_of(arm), LENIENT)
    assert_recovered(found, arm)


def test_scores():
    person = draw_people(np.random.default_rng(4), 1, height=(300, 301))
    heat, paf = maps_of(person)
    keypoints, score = people_in(heat, paf)
    # At its cell's center a Gaussian of 7 pixels is at least exp(-(4² + 4²) / (2 · 7²)).
    assert np.all((keypoints[..., 2] > 0.72) & (keypoints[..., 2] <= 1))
    cells = np.round((keypoints[0, :, :2] - 3.5) / 8).astype(int)
    np.testing.assert_array_equal(
        keypoints[0, :, 2], heat[0, cells[:, 1], cells[:, 0], np.arange(18)]
    )
    limbs = score[0] * 18 - keypoints[..., 2].sum()
    assert 0.9 * 17 < limbs < 17.01
    # A map half as strong is half as sure.
    _, half = people_in(heat / 2, paf / 2)
    np.testing.assert_allclose(half, score / 2, rtol=1e-3)
    empty, _ = people_in(heat / 8, paf / 8)
    assert len(empty) == 0


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_empty_maps(value):
    heat = jnp.full((1, *SIZE, 19), value)
    keypoints, score = people_in(heat, jnp.full((1, *SIZE, 38), value))
    assert len(keypoints) == len(score) == 0


def test_noise_is_capped():
    rng = np.random.default_rng(6)
    for strength in (0.1, 1, 10):
        heat = rng.normal(0, strength, (1, *SIZE, 19)).astype(np.float32)
        paf = rng.normal(0, strength, (1, *SIZE, 38)).astype(np.float32)
        keypoints, score = people_in(heat, paf)
        assert len(keypoints) <= DecodeConfig().max_people
        assert np.isfinite(keypoints).all() and np.isfinite(score).all()
        present = skeleton.is_present(keypoints)
        assert np.all(present.sum(axis=1) >= 4)
        assert not keypoints[~present].any()
        # No peak is in two people.
        for joint in range(18):
            positions = keypoints[present[:, joint], joint, :2]
            assert len(np.unique(positions, axis=0)) == len(positions)


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_reference_on_drawn_people(seed):
    rng = np.random.default_rng(seed)
    people = draw_people(rng, 1 + 2 * seed, apart=8)
    people = without(people, *rng.choice(18, seed, replace=False))
    heat, paf = maps_of(people, overhang=seed % 2)
    heat += rng.normal(0, 0.02, heat.shape).astype(np.float32)
    paf += rng.normal(0, 0.1, paf.shape).astype(np.float32)
    assert len(assert_equals_reference(heat, paf)) >= 1


@pytest.mark.parametrize("seed", range(2))
def test_equals_the_reference_on_noise(seed):
    rng = np.random.default_rng(seed)
    # Smooth fields, so that limbs are accepted and tangled, more people than are asked for; rough
    # heat, so that some peaks of the smoothed map lie where the map itself is negative.
    heat = rng.normal(0, 1, (1, 24, 32, 19)).astype(np.float32)
    paf = jax.image.resize(rng.normal(0, 1, (1, 4, 5, 38)), (1, 24, 32, 38), "cubic")
    config = DecodeConfig(peaks_per_joint=6, max_people=5, min_joints=2, smoothing=1.0)
    assert len(assert_equals_reference(heat, paf, config)) == 5


def test_few_and_many_peaks_give_the_same_result():
    """Batches in which all images have few peaks take a faster path."""
    rng = np.random.default_rng(3)
    config = DecodeConfig(peaks_per_joint=40, max_people=40)
    few = maps_of(draw_people(rng, 5, apart=8))
    many = [rng.normal(0, 1, m.shape).astype(np.float32) for m in few]
    both = decode(*(np.concatenate(pair) for pair in zip(few, many, strict=True)), config)
    assert np.array(both.valid).sum(1).tolist()[0] == 5
    for row, maps in enumerate((few, many)):
        alone = decode(*maps, config)
        np.testing.assert_allclose(both.keypoints[row], alone.keypoints[0], atol=1e-4)
        np.testing.assert_array_equal(both.valid[row], alone.valid[0])
    assert len(find_peaks(many[0][0, ..., 0], config)) > 24


def test_min_joints_as_an_argument():
    rng = np.random.default_rng(5)
    heat = rng.normal(0, 1, (1, 24, 32, 19)).astype(np.float32)
    paf = jax.image.resize(rng.normal(0, 1, (1, 4, 5, 38)), (1, 24, 32, 38), "cubic")
    config = DecodeConfig(peaks_per_joint=6, max_people=9, min_score=0)
    compiled = decode._cache_size()
    found = [decode(heat, paf, config, np.int32(count)) for count in (1, 5)]
    assert decode._cache_size() == compiled + 1
    for count, people in zip((1, 5), found, strict=True):
        expected = decode(heat, paf, dataclasses.replace(config, min_joints=count))
        np.testing.assert_array_equal(people.valid, expected.valid)
        np.testing.assert_allclose(people.keypoints, expected.keypoints, atol=1e-5)
    assert found[0].valid.sum() > found[1].valid.sum()


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_benchmarks_decoder_in_c():
    rng, config = np.random.default_rng(4), DecodeConfig()
    in_c = pose_baselines.build_c_decoder(config)
    drawn = maps_of(draw_people(rng, 9, apart=8))
    noise = [rng.normal(0, 1, maps.shape).astype(np.float32) for maps in drawn]
    for heat, paf in (drawn, noise):
        keypoints, _ = people_in(heat, paf)
        np.testing.assert_allclose(in_c(heat[0], paf[0]), keypoints, atol=1e-3)
    # Loading it has not changed the arithmetic of this process.
    assert np.finfo(np.float32).smallest_subnormal * np.float32(1) > 0


def test_equals_the_reference_without_smoothing_and_refinement():
    rng = np.random.default_rng(7)
    heat, paf = maps_of(draw_people(rng, 5))
    config = DecodeConfig(smoothing=0, refine=False)
    keypoints = assert_equals_reference(heat, paf, config)
    np.testing.assert_array_equal((keypoints[keypoints[..., 2] > 0][:, :2] - 3.5) % 8, 0)


def test_a_plateau_has_one_peak():
    heat = np.zeros((1, *SIZE, 19), np.float32)
    heat[0, 10:13, 20:22, 0] = 0.5
    heat[0, 0:2, 45, 1] = 0.5
    keypoints, _ = people_in(heat, np.zeros((1, *SIZE, 38), np.float32), LENIENT)
    assert (keypoints[..., 2] > 0).sum(axis=0).tolist() == [1, 1] + 16 * [0]


def greedy(scores):
    """Row matched with each column of a matrix [K, K], best pairs first, ties by index."""
    row = np.full(len(scores), -1)
    for pair in np.argsort(-scores, axis=None, kind="stable"):
        i, j = np.unravel_index(pair, scores.shape)
        if scores[i, j] > -np.inf and row[j] < 0 and i not in row:
            row[j] = i
    return row


def test_match_greedily_equals_sequential_matching():
    rng = np.random.default_rng(8)
    k = 16
    i, j = np.indices((k, k))
    matrices = [
        rng.uniform(size=(k, k)),
        rng.integers(0, 3, (k, k)),  # full of ties
        np.ones((k, k)),
        # Each pair but the first waits for the one before it: as many rounds as there can be.
        np.where((i == j) | (i == j + 1), 100 - i - j, -np.inf),
        np.full((k, k), -np.inf),
    ]
    matrices += [np.where(rng.uniform(size=(k, k)) < 0.7, -np.inf, m) for m in matrices[:3]]
    matrices = np.array(matrices, np.float32)
    row, score = (np.asarray(x) for x in match_greedily(jnp.asarray(matrices)))
    for matrix, rows, scores in zip(matrices, row, score, strict=True):
        np.testing.assert_array_equal(rows, greedy(matrix))
        expected = np.where(rows >= 0, matrix[rows, np.arange(k)], 0)
        np.testing.assert_array_equal(scores, expected)


def test_batch_equals_single_images():
    rng = np.random.default_rng(9)
    maps = [maps_of(draw_people(rng, count)) for count in (1, 7, 3)]
    together = decode(*(np.concatenate(parts) for parts in zip(*maps, strict=True)))
    for i, (heat, paf) in enumerate(maps):
        for batch, single in zip(together, decode(heat, paf), strict=True):
            np.testing.assert_allclose(batch[i], single[0], atol=1e-3)


def test_shapes_and_dtypes():
    heat = jax.ShapeDtypeStruct((2, 20, 30, 19), jnp.bfloat16)
    paf = jax.ShapeDtypeStruct((2, 20, 30, 38), jnp.bfloat16)
    people = jax.eval_shape(decode, heat, paf)
    assert people.keypoints.shape == (2, 24, 18, 3) and people.keypoints.dtype == jnp.float32
    assert people.valid.shape == (2, 24) and people.valid.dtype == bool
    assert people.score.shape == (2, 24) and people.score.dtype == jnp.float32
    with pytest.raises(ValueError, match=r"\[B, h, w, 38\]"):
        jax.eval_shape(decode, heat, heat)


def test_compiles_once():
    heat, paf = maps_of(draw_people(np.random.default_rng(10), 2))
    people_in(heat, paf)
    compiled = decode._cache_size()
    people_in(paf[..., :19], paf, DecodeConfig())
    people_in(heat, paf)
    assert decode._cache_size() == compiled


def real_maps(real_data, name):
    """A network's maps for one photo."""
    with np.load(real_data("pose/mobilenet_v2_small_reference_calibrated.npz")) as arrays:
        return [arrays[name + kind].astype(np.float32)[None] for kind in ("heat", "paf")]


@pytest.mark.parametrize(("name", "joints"), [("p1/lb_", [18]), ("apink3/lb_", 5 * [18] + [15])])
def test_real_maps(real_data, name, joints):
    heat, paf = real_maps(real_data, name)
    keypoints, score = people_in(heat, paf)
    assert sorted((keypoints[..., 2] > 0).sum(axis=1), reverse=True) == joints
    assert score.min() > 3 * DecodeConfig().min_score
    # Not by a hair: noise, and maps half as strong, neither lose nor invent anybody.
    rng = np.random.default_rng(0)
    noisy = [m + rng.normal(0, 0.01, m.shape).astype(np.float32) for m in (heat, paf)]
    assert len(people_in(*noisy)[0]) == len(joints)
    assert len(people_in(heat / 2, paf / 2)[0]) == len(joints)


@pytest.mark.parametrize("name", ["p1/", "p1/lb_", "apink3/", "apink3/lb_", "handsup1/lb_"])
def test_equals_the_reference_on_real_maps(real_data, name):
    assert len(assert_equals_reference(*real_maps(real_data, name))) >= 1


@pytest.mark.parametrize("side", [2, 4])
def test_maps_with_fewer_cells_than_peaks(side):
    rng = np.random.default_rng(0)
    heat = rng.uniform(0, 1, (2, side, side, 19)).astype(np.float32)
    paf = rng.uniform(-1, 1, (2, side, side, 38)).astype(np.float32)
    people = decode(heat, paf)
    assert people.keypoints.shape == (2, 24, 18, 3)
    assert np.isfinite(people.keypoints).all()
