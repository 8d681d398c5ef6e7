"""`fast_ops` against plain Flax: values, gradients, variable names and dtypes."""

import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jdance import config as defaults
from jdance import models
from jdance.models import fast_ops, layers
from jdance.models.layers import BatchNorm, batch_norm
from jdance.models.resnet import Conv
from jdance.train.steps import cross_entropy


@pytest.fixture(autouse=True)
def in_double_precision():
    """Rounding errors stay far below the tolerances."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, params=["cpu", "gpu"])
def platform(request, monkeypatch):
    """Runs every test with the CPU's and with the GPU's formulations, on the CPU."""
    if request.param == "gpu":
        monkeypatch.setattr(
            jax.lax, "platform_dependent", lambda *values, cpu, default: default(*values)
        )
    return request.param


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def assert_same(actual, plain, *arguments):
    """Compares values, and gradients of a random weighted sum, for all arguments."""
    shape = jax.eval_shape(plain, *arguments).shape
    weights = draw(*shape, seed=9)
    results = [
        jax.jit(jax.value_and_grad(lambda *a, f=f: (f(*a) * weights).sum(), range(len(arguments))))(
            *arguments
        )
        for f in (actual, plain)
    ]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), *results)
    np.testing.assert_allclose(actual(*arguments), plain(*arguments), rtol=1e-9, atol=1e-9)


def plain_convolution(x, kernel, stride, padding):
    space = x.ndim - 2
    layer = nn.Conv(
        kernel.shape[-1], kernel.shape[:-2], (stride,) * space, [(padding, padding)] * space,
        use_bias=False,
    )  # fmt: skip
    return layer.apply({"params": {"kernel": kernel}}, x)


def test_matmul():
    assert_same(fast_ops.matmul, lambda x, w: nn.Dense(5, use_bias=False).apply(
        {"params": {"kernel": w}}, x), draw(2, 4, 6, 3), draw(3, 5, seed=1))  # fmt: skip


@pytest.mark.parametrize("shape", [(2, 7, 6, 3), (2, 7, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution(shape, stride):
    kernel = draw(*(3,) * (len(shape) - 2), 3, 5, seed=1)
    assert_same(
        partial(fast_ops.convolution, stride=stride),
        partial(plain_convolution, stride=stride, padding=1), draw(*shape), kernel,
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(2, 7, 8, 3), (2, 8, 3), (2, 2, 1, 3), (2, 2, 3)])
@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_nn_conv(shape, size, stride, dilation, monkeypatch):
    monkeypatch.setattr(fast_ops, "_WIDE", 0)  # so that small maps count
    space = len(shape) - 2
    actual, plain = (
        layer(5, (size,) * space, stride, kernel_dilation=dilation, use_bias=False)
        for layer in (layers.Conv, nn.Conv)
    )
    call = lambda layer: lambda x, kernel: layer.apply({"params": {"kernel": kernel}}, x)  # noqa: E731
    kernel = draw(*(size,) * space, 3, 5, seed=1)
    assert_same(call(actual), call(plain), draw(*shape), kernel)


@pytest.mark.parametrize("padding", [0, 1])
def test_convolution_with_dilation_and_padding(padding):
    actual = partial(fast_ops.convolution, stride=2, padding=padding, dilation=2)
    plain = partial(
        jax.lax.conv_general_dilated, window_strides=(2, 2), padding=[(padding, padding)] * 2,
        rhs_dilation=(2, 2), dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    assert_same(actual, plain, draw(2, 9, 8, 3), draw(3, 3, 3, 5, seed=1))


@pytest.mark.parametrize("shape", [(2, 7, 6, 3), (2, 7, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_of_size_1(shape, stride):
    kernel = draw(*(1,) * (len(shape) - 2), 3, 5, seed=1)
    assert_same(
        partial(fast_ops.convolution, stride=stride),
        partial(plain_convolution, stride=stride, padding=0), draw(*shape), kernel,
    )  # fmt: skip


def test_relu():
    assert_same(fast_ops.relu, jax.nn.relu, draw(4, 5))


@pytest.mark.parametrize("size", [(16, 12), (15, 12)])
def test_space_to_depth_conv(size):
    assert_same(
        partial(fast_ops.convolution, stride=2), partial(plain_convolution, stride=2, padding=3),
        draw(2, *size, 3), draw(7, 7, 3, 4, seed=1),
    )  # fmt: skip


def plain_pool(x):
    return nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])


@pytest.mark.parametrize("size", [(12, 8), (7, 8), (2, 2)])
def test_max_pool(size):
    assert_same(fast_ops.max_pool, plain_pool, draw(2, *size, 3))


def test_first_of_equal_maxima_gets_the_gradient():
    x = jnp.round(draw(4, 12, 12, 3))  # few different values
    assert_same(fast_ops.max_pool, plain_pool, x)


def test_max_pool_propagates_nan():
    assert np.isnan(fast_ops.max_pool(jnp.full((1, 4, 4, 1), jnp.nan))).all()


def norms(axis_name):
    actual = BatchNorm(use_running_average=False, axis_name=axis_name, dtype=jnp.float64)
    plain = nn.BatchNorm(
        use_running_average=False, momentum=0.9, epsilon=1e-5, axis_name=axis_name,
        dtype=jnp.float64,
    )  # fmt: skip
    return actual, plain


@pytest.mark.parametrize("shape", [(8, 4, 3, 5), (8, 6, 5), (8, 5)])
@pytest.mark.parametrize("shared", [False, True])
def test_batch_norm(shape, shared):
    """On one device, and on four with synchronized statistics."""
    x = draw(*shape) * 3 + 1
    variables = {
        "params": {"scale": draw(5, seed=1), "bias": draw(5, seed=2)},
        "batch_stats": {"mean": draw(5, seed=3), "var": draw(5, seed=4) ** 2},
    }
    weights = draw(*shape, seed=9)

    def step(net, variables, x, weights):
        def loss(params, x):
            y, updated = net.apply(variables | {"params": params}, x, mutable=["batch_stats"])
            return (y * weights).sum(), (y, updated)

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x)

    results = []
    for net in norms("batch" if shared else None):
        run = partial(step, net)
        if shared:
            cut = [a.reshape(4, -1, *shape[1:]) for a in (x, weights)]
            results.append(jax.pmap(run, axis_name="batch", in_axes=(None, 0, 0))(variables, *cut))
        else:
            results.append(jax.jit(run)(variables, x, weights))
    assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-8), *results)


class PlainBlock(nn.Module):
    """Convolution, batch norm, residual and ReLU in plain Flax."""

    size: int
    stride: int
    axis_name: str | None
    train: bool = True

    @nn.compact
    def __call__(self, x, residual):
        space = x.ndim - 2
        y = nn.Conv(
            8, (self.size,) * space, (self.stride,) * space, [(self.size // 2,) * 2] * space,
            use_bias=False, dtype=jnp.float64, name="conv",
        )(x)  # fmt: skip
        norm = nn.BatchNorm(
            not self.train, momentum=0.9, epsilon=1e-5, axis_name=self.axis_name,
            dtype=jnp.float64, name="norm",
        )  # fmt: skip
        return jax.nn.relu(norm(y) + residual)


class FastBlock(PlainBlock):
    """The same as in the networks; `fold` as on GPUs."""

    fold: bool = True

    @nn.compact
    def __call__(self, x, residual):
        conv = Conv(8, self.size, self.stride, jnp.float64, name="conv")(x)
        norm = batch_norm(self.train, self.axis_name, jnp.float64, fold=self.fold)(name="norm")
        return norm(conv, residual, act=True)


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 2)])
def test_convolution_with_norm_residual_and_relu(size, stride, shared, fold):
    """Values, statistics and all gradients, on one and four devices."""
    x, residual = draw(8, 12, 10, 4) + 1, draw(8, 12 // stride, 10 // stride, 8, seed=1)
    variables = {
        "params": {
            "conv": {"kernel": draw(size, size, 4, 8, seed=2)},
            "norm": {"scale": draw(8, seed=3), "bias": draw(8, seed=4)},
        },
        "batch_stats": {"norm": {"mean": draw(8, seed=5), "var": draw(8, seed=6) ** 2}},
    }
    weights = draw(*residual.shape, seed=9)

    def step(net, x, residual, weights):
        def loss(params, x, residual):
            y, updated = net.apply(
                variables | {"params": params}, x, residual, mutable=["batch_stats"]
            )
            return (y * weights).sum(), (y, updated)

        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(variables["params"], x, residual)

    axis_name = "batch" if shared else None
    results = []
    for net in (FastBlock(size, stride, axis_name, fold=fold), PlainBlock(size, stride, axis_name)):
        arguments = (x, residual, weights)
        if shared:
            cut = [a.reshape(4, -1, *a.shape[1:]) for a in arguments]
            results.append(jax.pmap(partial(step, net), axis_name="batch")(*cut))
        else:
            results.append(jax.jit(partial(step, net))(*arguments))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-7), *results)


@pytest.mark.parametrize(("size", "stride"), [(1, 2), (3, 1)])
def test_running_statistics_fold_into_any_convolution(size, stride):
    x, residual = draw(2, 12, 10, 4), draw(2, 12 // stride, 10 // stride, 8, seed=1)
    actual, plain = (block(size, stride, None, train=False) for block in (FastBlock, PlainBlock))
    variables = plain.init(jax.random.key(0), x, residual)
    variables["batch_stats"]["norm"] = {"mean": draw(8, seed=3), "var": draw(8, seed=4) ** 2}
    np.testing.assert_allclose(
        actual.apply(variables, x, residual), plain.apply(variables, x, residual), rtol=1e-6
    )


def test_batch_norm_with_running_statistics():
    actual, plain = (net.clone(use_running_average=True) for net in norms(None))
    x = draw(8, 4, 5)
    variables = actual.init(jax.random.key(0), x)
    variables["batch_stats"] = {"mean": draw(5, seed=3), "var": draw(5, seed=4) ** 2}
    np.testing.assert_allclose(actual.apply(variables, x), plain.apply(variables, x), rtol=1e-8)
    shapes = [
        jax.eval_shape(net.init, jax.random.key(0), x) for net in (actual, plain)
    ]  # the same variables, too
    assert flatten_dict(shapes[0]) == flatten_dict(shapes[1])


def in_half_precision():
    """The paper's network, smaller, in bfloat16, as a function of its parameters; its batch is 6.

    Six is the size of nothing else.
    """
    config = defaults.model()
    config.update(
        width=8, stage_sizes=(1, 1, 1, 1), image_widths=(16,), keypoint_widths=(16,),
        fusion_widths=(16,), dtype="bfloat16", classes=4,
    )  # fmt: skip
    net = models.build(config)
    image, features = jnp.zeros((6, 64, 64, 3), jnp.uint8), jnp.ones((6, 18), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), image, features)
    variables = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), variables)

    def loss(params):
        logits, _ = net.apply(
            variables | {"params": params}, image, features, train=True, mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(1)},
        )  # fmt: skip
        return cross_entropy(logits, jnp.zeros(6, jnp.int32)).mean()

    return loss, variables["params"]


def test_matmuls_are_in_half_precision(platform):
    with jax.enable_x64(False):
        loss, params = in_half_precision()
        text = jax.jit(jax.grad(loss)).lower(params).as_text()
    wide = []
    for line in text.splitlines():
        if re.search(r"stablehlo\.(convolution|dot_general)", line):
            operands, _, result = line.rpartition("->")
            if platform == "gpu" and operands.count("xbf16>") == 2:
                continue  # kernel gradients, summed up in float32
            if "xf32>" in result:
                wide.append(result.strip())
    # Only the logits are float32: forwards, and the gradients of their kernel and their input.
    assert sorted(wide) == sorted(["tensor<6x4xf32>", "tensor<4x16xf32>", "tensor<6x16xf32>"])


def test_residuals_are_in_half_precision():
    with jax.enable_x64(False):
        loss, params = in_half_precision()
        kept = jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params)
    images = [leaf for leaf in jax.tree.leaves(kept) if leaf.ndim == 4 and leaf.shape[0] == 6]
    assert len(images) > 10
    assert not [leaf for leaf in images if leaf.dtype == jnp.float32]
