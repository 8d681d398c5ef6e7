"""The attention modules against a NumPy implementation of the paper's equations (1) to (7)."""

import jax
import numpy as np
import pytest

from jdance.models import attention
from jdance.models.attention import CBAM, ChannelAttention, SpatialAttention


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def channel_gate(params, x):
    """Equation (2): Mc(F) = sigmoid(W1 relu(W0 avg) + W1 relu(W0 max)), a vector per example."""
    flat = x.reshape(len(x), -1, x.shape[-1])
    gate = 0
    for summary in (flat.mean(1), flat.max(1)):
        hidden = summary @ params["squeeze"]["kernel"] + params["squeeze"]["bias"]
        gate = gate + np.maximum(hidden, 0) @ params["expand"]["kernel"] + params["expand"]["bias"]
    return sigmoid(gate).reshape(len(x), *[1] * (x.ndim - 2), x.shape[-1])


def spatial_gate(params, x, norm=lambda y: y):
    """Equation (3): Mh(F) = sigmoid(f([avg; max])), the convolution as explicit loops."""
    kernel, bias = params["conv"]["kernel"], params["conv"].get("bias", 0)
    summary = np.stack([x.mean(-1), x.max(-1)], -1)
    space = x.shape[1:-1]
    half = kernel.shape[0] // 2
    padded = np.pad(summary, [(0, 0), *[(half, half)] * len(space), (0, 0)])
    result = np.zeros((*x.shape[:-1], 1))
    for position in np.ndindex(space):
        window = tuple(slice(p, p + kernel.shape[0]) for p in position)
        patch = padded[(slice(None), *window)]
        result[(slice(None), *position, 0)] = (patch * kernel[..., 0]).reshape(len(x), -1).sum(1)
    return sigmoid(norm(result + bias))


def run(module, x):
    variables = module.init(jax.random.key(1), x)
    # Biases start at 0: fill them, so that they are tested, too.
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(2)
    leaves = [leaf + rng.normal(0, 0.3, leaf.shape).astype(np.float32) for leaf in leaves]
    variables = jax.tree.unflatten(tree, leaves)
    return jax.tree.map(np.asarray, variables["params"]), np.asarray(module.apply(variables, x))


@pytest.fixture(params=[(9,), (6, 8)], ids=["one axis", "two axes"])
def x(request):
    return np.random.default_rng(0).normal(size=(3, *request.param, 32)).astype(np.float32)


def test_channel_attention(x):
    params, gate = run(ChannelAttention(reduction=8), x)
    assert params["squeeze"]["kernel"].shape == (32, 4)
    np.testing.assert_allclose(gate, channel_gate(params, x), atol=1e-6)


def test_spatial_attention(x):
    params, gate = run(SpatialAttention(kernel=5), x)
    np.testing.assert_allclose(gate, spatial_gate(params, x), atol=1e-6)


@pytest.mark.parametrize("train", [False, True])
def test_batch_norm_in_the_spatial_gate(x, train):
    module = CBAM(1, reduction=4, kernel=3, gate_norm=True)
    variables = jax.device_get(module.init(jax.random.key(1), x))
    assert "bias" not in variables["params"]["spatial"]["conv"]
    old = {"mean": np.float32([0.2]), "var": np.float32([1.7])}
    variables["batch_stats"]["spatial"]["norm"] = old
    scale, bias = np.float32([0.8]), np.float32([-0.3])
    variables["params"]["spatial"]["norm"] = {"scale": scale, "bias": bias}
    y, updated = module.apply(variables, x, train, mutable=["batch_stats"])

    seen = {}

    def norm(y):
        seen.update({"mean": y.mean(), "var": y.var()})
        used = seen if train else old
        return (y - used["mean"]) / np.sqrt(used["var"] + 1e-5) * scale + bias

    inner = spatial_gate(variables["params"]["spatial"], x, norm) * x
    np.testing.assert_allclose(
        y, channel_gate(variables["params"]["channel"], inner) * inner, atol=1e-5
    )
    for name, value in updated["batch_stats"]["spatial"]["norm"].items():
        expected = 0.99 * old[name] + 0.01 * seen[name] if train else old[name]
        np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_orders(x, order):
    params, y = run(CBAM(order, reduction=4), x)
    channel, spatial = params["channel"], params["spatial"]
    if order == 0:
        inner = channel_gate(channel, x) * x
        expected = spatial_gate(spatial, inner) * inner
    elif order == 1:
        inner = spatial_gate(spatial, x) * x
        expected = channel_gate(channel, inner) * inner
    else:
        expected = channel_gate(channel, x) * spatial_gate(spatial, x) * x
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_unknown_order(x):
    with pytest.raises(ValueError, match="CBAM order 3"):
        CBAM(3).init(jax.random.key(0), x)


def test_first_maximum_gets_the_gradient():
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    x[0, [1, 4], 2] = 9
    weight = np.arange(6, dtype=np.float32).reshape(2, 1, 3)
    gradient = jax.grad(lambda x: (attention._max(x) * weight).sum())(x)
    expected = np.zeros_like(x)
    for b, c in np.ndindex(2, 3):
        expected[b, x[b, :, c].argmax(), c] = weight[b, 0, c]
    np.testing.assert_array_equal(gradient, expected)
