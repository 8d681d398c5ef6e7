"""Features and their gradients are finite for arbitrary key points."""

from functools import partial

import hypothesis
import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jdance import features, skeleton
from jdance.data import crop
from jdance.errors import UserError

_NUMBERS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 1e-45, 1e-30, 1e-12, 1e-6, 1e6, 1e9, -1e9, 3e38, np.nan,
                     np.inf, -np.inf]),
    st.floats(-1000, 1000, width=32),
    st.floats(width=32),
)  # fmt: skip
_SETTINGS = hypothesis.settings(
    max_examples=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)  # fmt: skip


def people(joints):
    """Skeletons float32 [3, J, 3]: arbitrary values, a single joint, nearly coincident joints."""
    shape = (3, joints, 3)
    return arrays.arrays(np.float32, shape, elements=_NUMBERS, fill=_NUMBERS)


@pytest.mark.parametrize("layout", skeleton.LAYOUTS.values(), ids=lambda layout: layout.name)
def test_features_are_finite(layout):
    @_SETTINGS
    @hypothesis.given(people(len(layout)))
    def check(keypoints):
        with np.errstate(all="ignore"):
            for name in features.NAMES:
                found = features.compute(name, keypoints, layout)
                assert np.isfinite(found).all() and np.abs(found).max() <= 3
            assert np.isfinite(features.sequence("full", keypoints, layout)).all()
            assert np.isfinite(features.centered(keypoints, layout)[0]).all()

    check()


def degenerate():
    """Degenerate skeletons float32 [N, 18, 3]."""
    rng = np.random.default_rng(0)
    some = rng.uniform(0, 500, (40, 18, 3)).astype(np.float32)
    some[:4, :, :2] = 77  # all in one spot
    some[4:8, :, :2] = 77 + rng.choice([0, 1e-30, 1e-12, 1e-6, 1e-3], (4, 18, 2))
    some[8:12, 1:, 2] = 0  # one joint only
    some[12:16, :, :2] *= 2e6  # 1e9
    some[16:20, :, :2] *= 1e-9
    some[20:24] = skeleton.flip(some[20:24], 500)  # mirrored
    some[24:34][rng.random((10, 18, 3)) < 0.2] = np.nan
    some[28:38][rng.random((10, 18, 3)) < 0.2] = np.inf
    some[38:, [2, 5]] = some[38:, [1]]  # shoulders at the neck
    some[39, [8, 11]] = some[39, 1]  # and hips
    return some


@pytest.mark.parametrize("name", features.NAMES)
def test_gradients_are_finite(name):
    keypoints = degenerate()

    @jax.jit
    def gradient(keypoints):
        return jax.grad(lambda k: (features.compute(name, k) ** 2).sum())(keypoints)

    found = np.asarray(gradient(jnp.asarray(keypoints)))
    assert np.isfinite(found).all(), np.unique(np.argwhere(~np.isfinite(found))[:, 0])
    assert np.abs(found).max() > 0
    with np.errstate(all="ignore"):
        expected = features.compute(name, keypoints)
    actual = jax.jit(partial(features.compute, name))(jnp.asarray(keypoints))
    assert np.isfinite(np.asarray(actual)).all() and actual.shape == expected.shape


@_SETTINGS
@hypothesis.given(people(18))
def test_crops_of_arbitrary_key_points(keypoints):
    with np.errstate(all="ignore"):
        for person in skeleton.clean(keypoints):
            try:
                square = crop.person_square(person) if person.any() else crop.image_square(40, 30)
                view = crop.cut(np.zeros((40, 30, 3), np.uint8), square)
                assert np.isfinite(crop.to_crop(person, square)).all()
                assert view.dtype == np.uint8
                assert np.isfinite(crop.fit_keypoints(person)).all()
            except UserError as error:
                assert "\n" not in str(error)
