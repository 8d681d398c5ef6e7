"""The fused network: size, branches, dropout, and examples without key points."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdance import config as defaults
from jdance import models
from jdance.models.fused import MEAN, STD, FusedNet
from jdance.models.layers import BranchDropout, Dropout
from jdance.models.resnet import BLOCKS, Bottleneck, ResNet
from jdance.weights import resnet


def tiny(**changes):
    config = defaults.model()
    config.update(
        classes=4, width=4, stage_sizes=(1, 1, 1, 1), image_widths=(8,), keypoint_widths=(8, 8),
        fusion_widths=(8,),
    )  # fmt: skip
    config.update(changes)
    return config


def inputs(size=32, features=18):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, size, size, 3), np.uint8)
    return image, rng.normal(size=(2, features)).astype(np.float32)


def shapes(config, size=224):
    net = models.build(config)
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    features = jax.ShapeDtypeStruct((1, 18), jnp.float32)
    return jax.eval_shape(partial(net.init, train=False), jax.random.key(0), image, features)


def test_size_of_the_papers_network():
    config = defaults.base().model
    config.classes = 6
    variables = shapes(config)
    assert models.count_parameters(variables) == 26_994_217
    # Without attention, heads and fusion: ResNet-50 less its classifier.
    assert models.count_parameters({"params": variables["params"]["backbone"]}) == (
        25_557_032 - 2_049_000 + 526_464 + 99
    )


def test_two_dense_layers():
    config = defaults.base().model
    config.update(classes=6, image_widths=(2048, 512))
    assert round(models.count_parameters(shapes(config)) / 1e6, 2) == 31.19


@pytest.mark.parametrize(
    ("kind", "changes", "count"),
    [
        ("resnet18", {}, 11_689_512),
        ("resnet34", {}, 21_797_672),
        ("resnet50", {}, 25_557_032),
        ("resnet101", {}, 44_549_160),
        ("resnet50", dict(attention=0, attention_place="blocks", gate_norm=True), 28_089_624),
    ],
)
def test_sizes_of_plain_classifiers(kind, changes, count):
    config = defaults.model()
    config.update(
        resnet.KINDS[kind], branches="image", image_widths=(), fusion_widths=(), classes=1000,
        attention=-1,
    )  # fmt: skip
    config.update(changes)
    assert models.count_parameters(shapes(config)) == count


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_zero_gamma_blocks_equal_their_shortcut(block):
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 8)).astype(np.float32)
    net = BLOCKS[block](features=8, zero_gamma=True)
    variables = net.init(jax.random.key(0), x, False)
    np.testing.assert_array_equal(net.apply(variables, x, False), np.maximum(x, 0))
    plain = BLOCKS[block](features=8)
    assert not np.allclose(plain.apply(plain.init(jax.random.key(0), x, False), x, False), x)


def test_basic_blocks_of_one_axis():
    x = np.zeros((2, 9, 8), np.float32)
    y, _ = BLOCKS["basic"](16, stride=2).init_with_output(jax.random.key(0), x, False)
    assert y.shape == (2, 5, 16)


def test_frozen_backbone():
    """Running statistics, no dropout, no gradient; the head trains."""
    image, features = inputs()
    config = tiny(
        dropout=0.0, stage_sizes=(1,), gate_norm=True, attention_place="blocks"
    )  # fmt: skip
    net = models.build(config, freeze_backbone=True)
    variables = net.init(jax.random.key(0), image, features)

    def loss(params):
        logits, updated = net.apply(
            {**variables, "params": params}, image, features, train=True,
            rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"],
        )  # fmt: skip
        return logits.sum(), (logits, updated)

    gradients, (logits, updated) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    np.testing.assert_allclose(logits, net.apply(variables, image, features), rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])
    for part, tree in gradients.items():
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))
        assert (largest == 0) == (part == "backbone")


def test_the_summary_counts_parameters_and_flops():
    config = tiny(stage_sizes=(1, 1))
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
    features = jax.ShapeDtypeStruct((1, *models.inputs(config).shape), jnp.float32)
    table = models.summary(models.build(config), image, features)
    lines = table.splitlines()
    total = models.count_parameters(shapes(config, 32))
    assert f"{total:,}" in table and "stage2_block1" in table and "float32[1,4]" in table
    stem = next(line for line in lines if "backbone/stem_norm" in line)
    # 16x16 positions, 7x7x3 inputs, 4 outputs, two FLOPs each; fewer at the border, and more as
    # space-to-depth computes 7x7 as 8x8.
    assert 0.85 * 2 * 256 * 147 * 4 < int(stem.split("│")[5]) < 1.01 * 2 * 256 * 192 * 4


def test_last_stage_of_the_backbone_is_7x7x2048():
    net = ResNet()
    image = jnp.zeros((1, 224, 224, 3))
    out, _ = jax.eval_shape(
        lambda key: net.init_with_output(key, image, jnp.zeros(1, int), False), jax.random.key(0)
    )
    assert out.shape == (1, 7, 7, 2048)


@pytest.mark.parametrize("branches", ["fused", "image", "keypoints"])
@pytest.mark.parametrize("attention_place", ["end", "blocks"])
def test_inputs_of_the_branches(branches, attention_place):
    net = models.build(tiny(branches=branches, attention_place=attention_place))
    image, features = inputs()
    variables = net.init(jax.random.key(0), image, features, train=False)
    logits = net.apply(variables, image, features)
    assert logits.shape == (2, 4) and logits.dtype == jnp.float32
    blind = net.apply(variables, image // 2, features)
    deaf = net.apply(variables, image, features + 1)
    assert np.allclose(blind, logits) == (branches == "keypoints")
    assert np.allclose(deaf, logits) == (branches == "image")


def test_invalid_key_points_mask_the_keypoint_branch():
    net = models.build(tiny())
    image, features = inputs()
    variables = net.init(jax.random.key(0), image, features)
    silent = net.apply(variables, image, features, jnp.array([False, True]))
    other = net.apply(variables, image, features * 3, jnp.array([False, True]))
    assert np.allclose(silent[0], other[0]) and not np.allclose(silent[1], other[1])
    # Without `valid`, all-zero features are invalid.
    zeros = np.zeros_like(features)
    np.testing.assert_allclose(net.apply(variables, image, zeros)[0], silent[0], atol=1e-6)


@pytest.mark.parametrize("version", ["v1", "v1.5"])
@pytest.mark.parametrize("space", [(8,), (8, 6)])
def test_bottleneck_strides_along_all_axes(version, space):
    x = np.random.default_rng(0).normal(size=(2, *space, 8)).astype(np.float32)
    block = Bottleneck(features=16, stride=2, version=version)
    y, _ = block.init_with_output(jax.random.key(0), x, False)
    assert y.shape == (2, *[-(-n // 2) for n in space], 16)


def test_version_v1_strides_in_the_first_convolution():
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype(np.float32)
    block = Bottleneck(features=16, stride=2, version="v1")
    variables = block.init(jax.random.key(0), x, False)
    # Pixels at odd positions never reach a 1x1 convolution of stride 2, nor the shortcut's.
    changed = x.copy()
    changed[:, 1::2] += 1
    np.testing.assert_array_equal(
        block.apply(variables, x, False), block.apply(variables, changed, False)
    )
    later = Bottleneck(features=16, stride=2, version="v1.5")
    assert not np.allclose(later.apply(variables, x, False), later.apply(variables, changed, False))


def test_dropout_depends_on_the_example_index():
    x = jnp.ones((6, 1000))
    index = jnp.array([5, 9, 2, 7, 40, 41])
    layer = Dropout(0.3)
    run = partial(layer.apply, {}, rngs={"dropout": jax.random.key(0)})
    whole = run(x, index, True)
    parts = jnp.concatenate([run(x[:2], index[:2], True), run(x[2:], index[2:], True)])
    np.testing.assert_array_equal(whole, parts)
    assert not np.array_equal(whole[0], whole[1])
    assert float((whole == 0).mean()) == pytest.approx(0.3, abs=0.03)
    assert float(whole.mean()) == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(run(x, index, False), x)


def test_branch_dropout_drops_at_most_one_branch():
    index = jnp.arange(4000)
    first, second = BranchDropout(0.2, 0.3).apply(
        {}, index, True, rngs={"dropout": jax.random.key(0)}
    )
    assert not (~first & ~second).any()
    assert float((~first).mean()) == pytest.approx(0.2, abs=0.03)
    assert float((~second).mean()) == pytest.approx(0.3, abs=0.03)
    kept, _ = BranchDropout(0.2, 0.3).apply({}, index, False)
    assert kept.all()


def test_dropped_branches_have_no_effect():
    image, features = inputs()
    for silent in ("keypoint_dropout", "image_dropout"):
        net = models.build(tiny(**{silent: 1.0}, dropout=0.0, stage_dropout=0.0))
        variables = net.init(jax.random.key(0), image, features)

        def run(image, features, valid, net=net, variables=variables):
            logits, _ = net.apply(
                variables, image, features, jnp.array([valid, True]), train=True,
                rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"],
            )  # fmt: skip
            return np.asarray(logits)

        plain = run(image, features, True)
        deaf, blind = run(image, features + 1, True), run(image // 3, features, True)
        assert np.allclose(plain, deaf) == (silent == "keypoint_dropout")
        assert np.allclose(plain, blind) == (silent == "image_dropout")
        # Without key points, the image branch is never dropped.
        assert not np.allclose(run(image, features, False)[0], run(image // 3, features, False)[0])


@pytest.mark.parametrize("key", ["branches", "block"])
def test_unknown_values(key):
    with pytest.raises(ValueError, match=f"{key}='both'"):
        models.build(tiny(**{key: "both"}))


class Probe(nn.Module):
    """A backbone that records its input."""

    @nn.compact
    def __call__(self, x, index, train):
        self.sow("intermediates", "x", x)
        return x


def test_images_are_normalized_in_float32():
    net = FusedNet(2, Probe(), (), (), (), dtype=jnp.bfloat16)
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    inputs = image, np.zeros((1, 18), np.float32)
    variables = net.init(jax.random.key(0), *inputs)
    _, kept = net.apply(variables, *inputs, mutable=["intermediates"])
    (x,) = jax.tree.leaves(kept)
    expected = (image - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(np.asarray(x, np.float32), expected, rtol=2**-8, atol=1e-6)
