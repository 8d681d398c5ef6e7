import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jdance.models.pose_layers import DepthwiseConv, upsample_corner
from jdance.models.pose_mobilenet import MobileNetV2Small
from jdance.pose.networks import NETWORKS


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0, 255, (3, 64, 48, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def variables(images):
    """Random variables, without compiling `init`."""
    rng = np.random.default_rng(1)

    def random(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return rng.normal(0, 1 / np.sqrt(np.prod(leaf.shape[:-1])), leaf.shape)
        return np.full(leaf.shape, name in ("scale", "var"))

    shapes = jax.eval_shape(MobileNetV2Small().init, jax.random.key(0), images)
    return jax.tree.map_with_path(lambda *x: random(*x).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def apply():
    """The compiled networks by statistics, shared by the tests."""
    return {
        statistics: jax.jit(MobileNetV2Small(statistics=statistics).apply)
        for statistics in ("fixed", "instance")
    }


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (1, 1), (7, 1)])
@pytest.mark.parametrize("shape", [(2, 12, 10, 5), (1, 7, 9, 3)])
def test_depthwise_equals_a_grouped_convolution(shape, size, stride):
    x = jax.random.normal(jax.random.key(0), shape)
    depthwise = DepthwiseConv(size, stride)
    variables = depthwise.init(jax.random.key(1), x)
    grouped = nn.Conv(
        shape[-1],
        (size, size),
        strides=stride,
        use_bias=False,
        feature_group_count=shape[-1],
        precision="highest",
    )
    actual, expected = jax.jit(lambda v, x: (depthwise.apply(v, x), grouped.apply(v, x)))(
        variables, x
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_upsample_corner():
    x = jnp.array([[0.0, 4.0], [8.0, 0.0]]).reshape(1, 2, 2, 1)
    expected = [[0, 2, 4, 4], [4, 3, 2, 2], [8, 4, 0, 0], [8, 4, 0, 0]]
    np.testing.assert_array_equal(upsample_corner(x)[0, :, :, 0], expected)


@pytest.mark.parametrize("statistics", ["fixed", "instance"])
def test_sizes_of_the_network(statistics):
    net = MobileNetV2Small(statistics=statistics)
    image = jax.ShapeDtypeStruct((2, 368, 368, 3), jnp.float32)
    (heat, paf), variables = jax.eval_shape(
        lambda x: net.init_with_output(jax.random.key(0), x), image
    )
    assert heat.shape == (2, 46, 46, 19) and paf.shape == (2, 46, 46, 38)
    assert count(variables["params"]) == 473_472
    backbone = count(variables["params"]["backbone"])
    assert backbone == 151_392
    stage_statistics = count({k: v for k, v in variables["batch_stats"].items() if k != "backbone"})
    assert 473_472 - backbone + stage_statistics == 329_676
    assert ("backbone" in variables["batch_stats"]) == (statistics == "fixed")


def test_all_stages(variables, images):
    net = MobileNetV2Small()

    @jax.jit
    def both(variables, images):
        return net.apply(variables, images, all_stages=True), net.apply(variables, images)

    stages, answer = both(variables, images)
    assert len(stages) == 6
    assert all(h.shape == (3, 8, 6, 19) and p.shape == (3, 8, 6, 38) for h, p in stages)
    for last, expected in zip(stages[-1], answer, strict=True):
        np.testing.assert_array_equal(last, expected)


@pytest.mark.parametrize("statistics", ["fixed", "instance"])
def test_results_do_not_depend_on_the_batch(variables, images, apply, statistics):
    heat, paf = apply[statistics](variables, images)
    others = np.stack([images[0], images[2][::-1], images[1] / 3])
    heat_0, paf_0 = apply[statistics](variables, others)
    np.testing.assert_array_equal(heat[0], heat_0[0])
    np.testing.assert_array_equal(paf[0], paf_0[0])
    assert not np.allclose(heat[1], heat_0[1])


def test_instance_statistics_normalize_contrast(variables, images, apply):
    differences = {}
    for statistics in ("fixed", "instance"):
        bright = apply[statistics](variables, images)[0]
        dark = apply[statistics](variables, images / 4)[0]
        differences[statistics] = np.abs(bright - dark).max() / np.abs(bright).max()
    assert differences["instance"] < 1e-2 < differences["fixed"]


def test_training_uses_and_updates_the_batch_statistics(variables, images):
    net = MobileNetV2Small(momentum=0.5)
    _, updated = jax.jit(lambda v, x: net.apply(v, x, train=True, mutable=["batch_stats"]))(
        variables, images
    )
    before, after = variables["batch_stats"], updated["batch_stats"]
    assert jax.tree.structure(before) == jax.tree.structure(after)
    stem = nn.Conv(16, (3, 3), strides=2, use_bias=False).apply(
        {"params": variables["params"]["backbone"]["stem"]}, images
    )
    for name, value in (("mean", stem.mean((0, 1, 2))), ("var", stem.var((0, 1, 2)))):
        expected = 0.5 * before["backbone"]["stem_bn"][name] + 0.5 * value
        np.testing.assert_allclose(after["backbone"]["stem_bn"][name], expected, rtol=1e-4)
    last = ("stage6_heat", "sep5_bn", "var")
    assert not np.allclose(before[last[0]][last[1]][last[2]], after[last[0]][last[1]][last[2]])


def test_half_precision(variables, images, apply):
    net = MobileNetV2Small(dtype=jnp.bfloat16)
    fresh = jax.eval_shape(net.init, jax.random.key(0), images)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(fresh))
    for half, single in zip(
        jax.jit(net.apply)(variables, images), apply["fixed"](variables, images), strict=True
    ):
        assert half.dtype == jnp.float32
        assert np.abs(half - single).max() < 0.1 * np.abs(single).max()


def test_unknown_statistics(images):
    with pytest.raises(ValueError, match="'fixed' or 'instance'"):
        jax.eval_shape(MobileNetV2Small(statistics="batch").init, jax.random.key(0), images)


def test_network_names():
    assert NETWORKS["mobilenet_v2_small"].module is MobileNetV2Small
