"""OKS suppression and test-time augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdance import skeleton
from jdance.errors import UserError
from jdance.pose import oks, views
from jdance.pose.decode import People
from jdance.recognize import tracking

SIDE = 100


def person(x, y, seed=0, size=30.0):
    """Joints [18, 3] around a point; the same seed gives similar ones."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-size, size, (18, 2)) + [x, y]
    return np.concatenate([xy, rng.uniform(0.5, 1, (18, 1))], 1).astype(np.float32)


def test_similarity_equals_tracking():
    people = np.stack([person(50, 50), person(52, 51), person(50, 50, seed=1), person(90, 10)])
    people[1, 4:9] = 0
    sizes = np.array([tracking.body_scale(one) for one in people])
    expected = tracking.similarity(people, people, sizes)
    expected = np.where(sizes[:, None] > sizes, expected.T, expected)  # the larger of the two sizes
    np.testing.assert_allclose(oks.similarity(jnp.asarray(people)), expected, atol=1e-5)


def test_suppression_equals_sequential_suppression():
    rng = np.random.default_rng(0)
    for _ in range(20):
        alike = rng.random((12, 12)) < 0.25
        alike |= alike.T
        score = rng.integers(0, 6, 12).astype(np.float32)  # with ties
        valid = rng.random(12) < 0.8
        kept, owner = oks.suppress(jnp.asarray(alike), jnp.asarray(score), jnp.asarray(valid))
        expected = []
        for row in np.argsort(-score, kind="stable"):
            if valid[row] and not alike[row, expected].any():
                expected.append(row)
        assert sorted(expected) == np.flatnonzero(kept).tolist()
        for row in np.flatnonzero(valid):
            assert kept[owner[row]] and (owner[row] == row or alike[owner[row], row])


def found(*people):
    """`People` of one view, with an empty last row."""
    keypoints = np.zeros((1, len(people) + 1, 18, 3), np.float32)
    keypoints[0, : len(people)] = people
    valid = keypoints[..., 2].any(-1)
    return People(keypoints, valid, np.where(valid, keypoints[..., 2].mean(-1), 0))


@pytest.mark.parametrize("name", views.VIEWS)
def test_merge_inverts_add(name):
    """A dot in the image is mapped back to its position from every view."""
    image = np.zeros((1, 40, 60, 3), np.uint8)
    image[0, 7, 11] = 200
    both = np.asarray(views.add(jnp.asarray(image), [name]))
    assert both.shape == (2, 40, 60, 3)
    points = []
    for view in both:
        y, x = np.argwhere(view[..., 0])[0]
        keypoints = np.zeros((1, 18, 3), np.float32)
        joint = skeleton.L_WRIST
        if name == "flip" and len(points) == 1:
            joint = skeleton.R_WRIST  # which a network sees in a mirror image
        keypoints[0, joint] = x, y, 1
        points.append(keypoints)
    people = People(np.stack(points), np.ones((2, 1), bool), np.ones((2, 1), np.float32))
    merged = views.merge(people, [name], 40, 60, 2)
    assert merged.valid.tolist() == [[True, False]]
    np.testing.assert_allclose(merged.keypoints[0, 0, skeleton.L_WRIST], [11, 7, 1])
    assert not merged.keypoints[0, 0, skeleton.R_WRIST].any()


def test_people_are_merged_over_views():
    first, second = person(30, 30), person(70, 60, seed=2)
    mirrored = first.copy()
    mirrored[:, 0] += 2
    mirrored[:, 2] = first[:, 2] = 0.5
    mirrored[3] = 0
    first[4] = 0
    turned = skeleton.flip(mirrored, SIDE)
    alone = person(40, 80, seed=3)
    rotated = alone.copy()
    rotated[:, :2] = SIDE - 1 - alone[:, :2]
    plain, flipped, upside_down = found(first, second), found(turned), found(rotated)
    pad = [jax.tree.map(lambda x: np.pad(x, [(0, 0), (0, 1)] + [(0, 0)] * (x.ndim - 2)), one)
           for one in (flipped, upside_down)]  # fmt: skip
    together = jax.tree.map(lambda *x: np.concatenate(x), plain, *pad)
    merged = jax.device_get(views.merge(together, ["flip", "rot180"], SIDE, SIDE, 5))
    assert merged.keypoints.shape == (1, 5, 18, 3) and merged.valid.sum() == 3
    assert (np.diff(merged.score[0]) <= 0).all()  # the best first
    people = merged.keypoints[0][merged.valid[0]]
    one = people[abs(people[:, 10, 0] - first[10, 0] - 1).argmin()]
    np.testing.assert_allclose(one[10], [first[10, 0] + 1, first[10, 1], 0.5], atol=1e-3)
    np.testing.assert_allclose(one[3], first[3], atol=1e-3)  # seen in one of both views
    np.testing.assert_allclose(one[4], mirrored[4], atol=1e-3)
    for expected in (second, alone):
        assert abs(people - expected).max(axis=(1, 2)).min() < 1e-3


def test_overlapping_people_of_other_views_are_dropped():
    whole, part = person(50, 50), person(50, 50, seed=5, size=12.0)
    part[8:] = 0
    part[:, 2] *= 0.5
    upside_down = part.copy()
    upside_down[:8, :2] = SIDE - 1 - part[:8, :2]

    def merged(*views_of):
        together = jax.tree.map(lambda *x: np.concatenate(x), *views_of)
        return int(views.merge(together, ["rot180"], SIDE, SIDE, 3).valid.sum())

    assert merged(found(whole), found(upside_down)) == 1
    nothing = found(np.zeros((18, 3), np.float32))
    # Within one view, the decoder has separated them.
    pair = found(whole, part)
    empty = jax.tree.map(lambda x: np.zeros_like(x), pair)
    assert merged(pair, empty) == 2 and merged(nothing, found(upside_down)) == 1


def test_unknown_views():
    for names in (["flip", "up"], ["flip", "flip"]):
        with pytest.raises(UserError, match=r"--pose_views=.*expected distinct names of flip, rot"):
            views.check(names)
