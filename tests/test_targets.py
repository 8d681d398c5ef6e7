"""The targets against an implementation with explicit loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdance import skeleton
from jdance.pose.targets import encode

SIZE = (12, 15)
STRIDE = 8


def targets_in_loops(people, size, overhang):
    """heat [h, w, 19] and paf [h, w, 38] of people [M, 18, 3], cell by cell."""
    heat, paf = np.zeros((*size, 19)), np.zeros((*size, 38))
    for row, column in np.ndindex(*size):
        cell = np.array([column, row]) * STRIDE + 3.5
        for joint in range(18):
            for person in people:
                x, y, score = person[joint]
                if score > 0:
                    squared = (cell[0] - x) ** 2 + (cell[1] - y) ** 2
                    value = np.exp(-squared / (2 * 7**2))
                    if value >= 0.01:
                        heat[row, column, joint] = max(heat[row, column, joint], value)
        heat[row, column, 18] = 1 - heat[row, column, :18].max()

        for (first, second), channels in zip(skeleton.LIMBS, skeleton.PAF_CHANNELS, strict=True):
            units = []
            for person in people:
                (start, end), length = person[[first, second], :2], 0
                if person[first, 2] > 0 and person[second, 2] > 0:
                    length = np.linalg.norm(end - start)
                if length > 0:
                    unit = (end - start) / length
                    along = (cell - start) @ unit
                    across = np.linalg.norm(cell - start - along * unit)
                    beyond = overhang * STRIDE
                    if -beyond <= along <= length + beyond and across <= STRIDE:
                        units.append(unit)
            if units:
                paf[row, column, channels] = np.mean(units, axis=0)
    return heat, paf


def random_people(rng, count):
    """People [count, 18, 3] with joints anywhere, some outside the image, some missing."""
    keypoints = rng.uniform(-10, 130, (count, 18, 3)).astype(np.float32)
    keypoints[..., 2] = rng.uniform(size=(count, 18)) < 0.8
    return keypoints


@pytest.mark.parametrize("overhang", [0, 1])
def test_encode_equals_loops(overhang):
    rng = np.random.default_rng(0)
    images = [random_people(rng, 4) for _ in range(2)]
    heat, paf = encode(np.stack(images), SIZE, overhang=overhang)
    assert heat.dtype == paf.dtype == jnp.float32
    for i, people in enumerate(images):
        expected_heat, expected_paf = targets_in_loops(people, SIZE, overhang)
        np.testing.assert_allclose(heat[i], expected_heat, atol=1e-5)
        np.testing.assert_allclose(paf[i], expected_paf, atol=1e-5)


def test_no_people():
    heat, paf = encode(np.zeros((1, 3, 18, 3), np.float32), SIZE)
    assert not heat[..., :18].any() and np.all(heat[..., 18] == 1) and not paf.any()


def test_padding_and_unlabeled_joints_have_no_effect():
    people = random_people(np.random.default_rng(1), 3)
    junk = np.where(people[..., 2:] > 0, people, [np.nan, np.inf, 0]).astype(np.float32)
    padded = np.concatenate([junk, np.full((4, 18, 3), [5, 5, 0], np.float32)])
    for plain, other in zip(encode(people[None], SIZE), encode(padded[None], SIZE), strict=True):
        np.testing.assert_allclose(plain, other, atol=1e-6)


def test_joint_at_a_cell_center_and_its_limb():
    person = np.zeros((1, 1, 18, 3), np.float32)
    person[0, 0, skeleton.NECK] = 3 * STRIDE + 3.5, 5 * STRIDE + 3.5, 1
    person[0, 0, skeleton.R_HIP] = 3 * STRIDE + 3.5, 9 * STRIDE + 3.5, 1
    heat, paf = (np.asarray(maps[0]) for maps in encode(person, SIZE))
    assert heat[5, 3, skeleton.NECK] == 1 and heat[5, 3, 18] == 0
    np.testing.assert_allclose(heat[5, 4, skeleton.NECK], np.exp(-(8**2) / (2 * 7**2)), rtol=1e-5)
    assert heat[5, 6, skeleton.NECK] == 0  # 24 pixels away: under 1 %

    limb = skeleton.LIMBS.tolist().index([skeleton.NECK, skeleton.R_HIP])
    x, y = skeleton.PAF_CHANNELS[limb]
    expected = np.zeros(SIZE)
    expected[4:11, 2:5] = 1  # straight down, one cell to either side and beyond the ends
    np.testing.assert_array_equal(paf[..., y], expected)
    assert not np.delete(paf, y, axis=-1).any() and not paf[..., x].any()


def test_limbs_are_averaged_where_people_overlap():
    person = np.zeros((1, 2, 18, 3), np.float32)
    middle = np.array([7, 6]) * STRIDE + 3.5
    for i, reach in enumerate([(24, 0), (0, 24)]):
        person[0, i, skeleton.R_ELBOW] = *(middle - reach), 1
        person[0, i, skeleton.R_WRIST] = *(middle + reach), 1
    _, paf = encode(person, SIZE)
    limb = skeleton.LIMBS.tolist().index([skeleton.R_ELBOW, skeleton.R_WRIST])
    np.testing.assert_allclose(paf[0, 6, 7, skeleton.PAF_CHANNELS[limb]], 0.5)
    np.testing.assert_allclose(paf[0, 6, 4, skeleton.PAF_CHANNELS[limb]], [1, 0])


def test_under_jit_and_wrong_shapes():
    people = random_people(np.random.default_rng(2), 2)[None]
    compiled = jax.jit(encode, static_argnames="size")(people, size=SIZE)
    for plain, other in zip(encode(people, SIZE), compiled, strict=True):
        np.testing.assert_allclose(plain, other, atol=1e-5)
    with pytest.raises(ValueError, match=r"expected \[B, M, 18, 3\]"):
        encode(people[0], SIZE)
