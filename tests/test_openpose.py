import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jdance.models.openpose import (
    NETWORKS,
    DepthwiseConv,
    MobileNetV2Small,
    upsample2,
)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0, 255, (3, 64, 48, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def variables(images):
    return jax.jit(MobileNetV2Small().init)(jax.random.key(0), images[:1])


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
    np.testing.assert_allclose(
        depthwise.apply(variables, x), grouped.apply(variables, x), rtol=1e-4, atol=1e-5
    )


def test_upsample2_is_linear_from_the_corner():
    x = jnp.array([[0.0, 4.0], [8.0, 0.0]]).reshape(1, 2, 2, 1)
    expected = [[0, 2, 4, 4], [4, 3, 2, 2], [8, 4, 0, 0], [8, 4, 0, 0]]
    np.testing.assert_array_equal(upsample2(x)[0, :, :, 0], expected)


@pytest.mark.parametrize("statistics", ["fixed", "picture"])
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


def test_all_stages_end_with_the_answer(variables, images):
    net = MobileNetV2Small()
    stages = net.apply(variables, images, all_stages=True)
    assert len(stages) == 6
    assert all(h.shape == (3, 8, 6, 19) and p.shape == (3, 8, 6, 38) for h, p in stages)
    for ours, expected in zip(stages[-1], net.apply(variables, images), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("statistics", ["fixed", "picture"])
def test_a_picture_does_not_depend_on_its_batch(variables, images, statistics):
    apply = jax.jit(MobileNetV2Small(statistics=statistics).apply)
    together = apply(variables, images)
    for i in range(3):
        alone = apply(variables, images[i : i + 1])
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a[i : i + 1], b, rtol=1e-4, atol=1e-4)


def test_statistics_of_a_picture_ignore_its_contrast(variables, images):
    """What sets "picture" apart: a darker picture gives nearly the same maps."""
    differences = {}
    for statistics in ("fixed", "picture"):
        apply = jax.jit(MobileNetV2Small(statistics=statistics).apply)
        bright, dark = apply(variables, images)[0], apply(variables, images / 4)[0]
        differences[statistics] = np.abs(bright - dark).max() / np.abs(bright).max()
    assert differences["picture"] < 1e-2 < differences["fixed"]


def test_training_uses_and_updates_the_batch_statistics(variables, images):
    net = MobileNetV2Small(momentum=0.5)
    (heat, _), updated = jax.jit(lambda v, x: net.apply(v, x, train=True, mutable=["batch_stats"]))(
        variables, images
    )
    before, after = variables["batch_stats"], updated["batch_stats"]
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert not np.allclose(
        before["backbone"]["stem_bn"]["mean"], after["backbone"]["stem_bn"]["mean"]
    )
    assert not np.allclose(
        before["stage6_heat"]["sep5_bn"]["var"], after["stage6_heat"]["sep5_bn"]["var"]
    )
    assert not np.allclose(heat, net.apply(variables, images)[0])


def test_every_parameter_gets_a_gradient(variables, images):
    net = MobileNetV2Small()

    @jax.jit
    def gradients(params):
        def loss(params):
            stages, _ = net.apply(
                {**variables, "params": params},
                images,
                train=True,
                all_stages=True,
                mutable=["batch_stats"],
            )
            return sum(jnp.square(maps).mean() for stage in stages for maps in stage)

        return jax.grad(loss)(params)

    for path, gradient in jax.tree.leaves_with_path(gradients(variables["params"])):
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, path


def test_half_precision_is_close_and_keeps_float32_outside(variables, images):
    maps = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        net = MobileNetV2Small(dtype=dtype)
        fresh = jax.eval_shape(net.init, jax.random.key(0), images)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(fresh))
        with jax.numpy_dtype_promotion("strict"):
            maps[dtype] = net.apply(variables, images)
        assert all(m.dtype == jnp.float32 for m in maps[dtype])
    scale = np.abs(maps[jnp.float32][0]).max()
    assert np.abs(maps[jnp.float32][0] - maps[jnp.bfloat16][0]).max() < 0.1 * scale


def test_unknown_statistics_are_an_error(images):
    with pytest.raises(ValueError, match="'fixed' or 'picture'"):
        MobileNetV2Small(statistics="batch").init(jax.random.key(0), images)


def test_networks_are_known_by_name():
    assert NETWORKS["mobilenet_v2_small"] is MobileNetV2Small
