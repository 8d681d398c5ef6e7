"""Fused key-point features: definition and invariances."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdance import features
from jdance import skeleton as sk


def people(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [rng.uniform(20, 300, (count, 18, 2)), rng.uniform(0.1, 1, (count, 18, 1))], -1
    ).astype(np.float32)


def fused18_by_hand(person: np.ndarray) -> np.ndarray:
    """The 18 features of one complete person, computed explicitly."""
    p = person[:, :2].astype(np.float64)
    s = np.linalg.norm(p[1] - (p[8] + p[11]) / 2)

    def angle(a, b, c):
        u, v = p[a] - p[b], p[c] - p[b]
        return np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)) / np.pi

    def ratio(a, b, c):
        return np.linalg.norm(p[a] - p[c]) / (
            np.linalg.norm(p[a] - p[b]) + np.linalg.norm(p[b] - p[c])
        )

    joints = [(p[j] - p[1]) / s for j in (3, 4, 6, 7)]
    ankles = [(p[10, 0] - p[1, 0]) / s, (p[13, 0] - p[1, 0]) / s]
    positions = np.clip(np.concatenate([*joints, ankles]), -3, 3)
    angles = [angle(2, 3, 4), angle(5, 6, 7), angle(1, 8, 9), angle(1, 11, 12)]
    ratios = [ratio(2, 3, 4), ratio(5, 6, 7), ratio(8, 9, 10), ratio(11, 12, 13)]
    return np.concatenate([positions, angles, ratios])


def test_fused18():
    group = people(50)
    expected = np.stack([fused18_by_hand(person) for person in group])
    np.testing.assert_allclose(features.compute("fused18", group), expected, atol=2e-5)


@pytest.mark.parametrize("name", features.NAMES)
def test_numpy_and_jax_agree_for_any_leading_shape(name):
    group = people(24).reshape(2, 3, 4, 18, 3)
    group[0, 0, :, 5:9, 2] = 0
    actual = features.compute(name, group)
    assert actual.shape == (2, 3, 4, features.size(name)) and actual.dtype == np.float32
    compiled = jax.jit(lambda k: features.compute(name, k))(jnp.asarray(group))
    np.testing.assert_allclose(actual, compiled, atol=1e-5)


@pytest.mark.parametrize("name", features.NAMES)
def test_invariance_to_position_and_size(name):
    group = people(20)
    moved = group.copy()
    moved[..., :2] = moved[..., :2] * 1.7 + [40, -15]
    np.testing.assert_allclose(
        features.compute(name, group), features.compute(name, moved), atol=1e-4
    )


def test_mirror_is_a_signed_permutation():
    group = people(20)
    group[3:9, 4, 2] = 0
    mirrored = features.compute("fused18", sk.flip(group, width=320))
    straight = features.compute("fused18", sk.clean(group))
    expected = features.FUSED18_SIGN * straight[:, features.FUSED18_FLIP]
    np.testing.assert_allclose(mirrored, expected, atol=1e-5)


def test_fallbacks_of_the_unit():
    person = people(1)[0]
    p = person[:, :2]
    ankle = person[sk.R_ANKLE, 0] - person[sk.NECK, 0]

    def unit(*missing):
        thinned = person.copy()
        thinned[list(missing)] = 0
        return ankle / features.compute("fused18", thinned)[8]

    person[sk.R_ANKLE, 0] = person[sk.NECK, 0] + 1  # small, so that nothing is clipped
    ankle = 1.0
    assert unit() == pytest.approx(np.linalg.norm(p[1] - (p[8] + p[11]) / 2), rel=1e-4)
    assert unit(8) == pytest.approx(np.linalg.norm(p[1] - p[11]), rel=1e-4)
    assert unit(11) == pytest.approx(np.linalg.norm(p[1] - p[8]), rel=1e-4)
    assert unit(8, 11) == pytest.approx(1.3 * np.linalg.norm(p[2] - p[5]), rel=1e-4)
    rest = np.delete(p, [2, 8, 11], axis=0)
    assert unit(2, 8, 11) == pytest.approx(0.35 * np.ptp(rest[:, 1]), rel=1e-4)


def test_missing_joints_and_missing_neck():
    person = people(1)[0]
    no_wrist = person.copy()
    no_wrist[sk.R_WRIST] = 0
    changed = features.compute("fused18", no_wrist)
    assert np.flatnonzero(changed == 0).tolist() == [2, 3, 10, 14]

    middle = person.copy()
    middle[sk.NECK, :2] = (person[sk.R_SHOULDER, :2] + person[sk.L_SHOULDER, :2]) / 2
    no_neck = middle.copy()
    no_neck[sk.NECK] = 0
    np.testing.assert_allclose(
        features.compute("fused18", no_neck), features.compute("fused18", middle), atol=1e-6
    )

    no_neck[sk.L_SHOULDER] = 0
    for name in features.NAMES:
        assert not features.compute(name, no_neck).any()
    assert not features.valid(no_neck) and features.valid(middle)


@pytest.mark.parametrize("name", features.NAMES)
@pytest.mark.parametrize("evil", ["nan", "inf", "one spot", "one joint", "huge", "nothing"])
def test_values_and_gradients_stay_finite(name, evil):
    group = people(4)
    if evil in ("nan", "inf"):
        group[:, 3:6, 0] = float(evil)
    elif evil == "one spot":
        group[..., :2] = 7
    elif evil == "one joint":
        group[:, 2:] = 0
        group[:, 0] = 0
    elif evil == "huge":
        group[..., :2] *= 1e9
    else:
        group[:] = 0
    assert np.isfinite(features.compute(name, group)).all()
    assert np.isfinite(gradient(name, jnp.asarray(group))).all()


@partial(jax.jit, static_argnums=0)
def gradient(name, keypoints):
    return jax.grad(lambda k: features.compute(name, k).sum())(keypoints)


def test_unknown_name():
    with pytest.raises(ValueError, match="fused19"):
        features.compute("fused19", people(1))
