"""ResNets with imported weights against PyTorch: logits, gradients, statistics, sizes."""

import functools
import tempfile

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jdance import models
from jdance.models.fused import MEAN, STD
from jdance.train.steps import cross_entropy
from jdance.weights import pth, resnet

torch = pytest.importorskip("torch", reason="PyTorch, the reference, is not installed")
from jdance.bench import torch_networks  # noqa: E402

PARAMETERS = {"resnet18": 11_689_512, "resnet50": 25_557_032, "cbam_resnet50": 28_089_624}
LABELS = np.array([7, 999, 0, 512])
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)


@functools.cache
def reference(name):
    """The network in double precision, so that it adds no rounding errors."""
    return torch_networks.build(name).double()


@functools.cache
def imported(name):
    """Configuration and variables imported from a file."""
    state = {
        f"module.{key}": tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in reference(name).state_dict().items()
    }
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"state_dict": state, "epoch": 90}, f"{folder}/net.pth")
        config, variables = resnet.import_file(name.removeprefix("cbam_"), f"{folder}/net.pth")
    config.stage_dropout = 0.0
    return config, variables


def jdance_step(name, train, dtype):
    """Logits, gradients and new batch-norm statistics of one step."""
    config, variables = imported(name)
    config.dtype = dtype
    net = models.build(config)
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)

    def loss(params):
        logits, updated = net.apply(
            variables | {"params": params}, IMAGES, np.zeros((4, 18)), train=train,
            mutable=["batch_stats"],
        )  # fmt: skip
        return cross_entropy(logits, LABELS).mean(), (logits, updated)

    gradients, (logits, updated) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    return jax.device_get((logits, {"params": gradients}, updated))


def reference_step(name, train):
    """The same in PyTorch, with PyTorch's names."""
    net = torch_networks.build(name).double().train(train)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    counts = {}  # values that each batch norm averages over
    for path, layer in net.named_modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.register_forward_pre_hook(
                lambda _, x, path=path: counts.update({path: x[0][:, 0].numel()})
            )
    x = (IMAGES - np.float64(MEAN)) / np.float64(STD)
    logits = net(torch.tensor(x.transpose(0, 3, 1, 2)))
    torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS)).backward()
    statistics = {}
    for path, count in counts.items():
        momentum = net.get_submodule(path).momentum
        for key, factor in (("mean", 1), ("var", (count - 1) / count)):
            # PyTorch keeps the variance over n - 1 values, Flax that over n.
            old, new = (
                state[f"{path}.running_{key}"].numpy() for state in (before, net.state_dict())
            )
            kept = (1 - momentum) * old
            statistics[f"{path}.running_{key}"] = kept + (new - kept) * factor
    gradients = {key: value.grad.numpy() for key, value in net.named_parameters()}
    return logits.detach().numpy(), gradients, statistics


def error(actual, expected):
    """The maximum difference relative to the maximum value."""
    return np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()


def errors(actual, expected):
    """`error` of each variable, largest first; `expected` has PyTorch's names."""
    actual = flatten_dict(actual)
    expected = resnet.convert(expected, actual, "reference")
    assert expected.keys() == actual.keys()
    pairs = [(error(actual[path], expected[path]), "/".join(path)) for path in actual]
    return sorted(pairs, reverse=True)


@pytest.mark.parametrize("zip_format", [True, False])
def test_reads_files_written_by_pytorch(tmp_path, zip_format):
    tensors = {
        "transposed": torch.arange(12.0).reshape(3, 4).t(),
        "part": torch.arange(5)[2:],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "scalar": torch.tensor(3, dtype=torch.int8),
        "half": torch.tensor([0.5, -2]).half(),
        "brain": torch.tensor([0.5, -2]).bfloat16(),
        "empty": torch.zeros(0, 3),
    }
    path = tmp_path / "net.pth"
    torch.save(tensors | {"epoch": 3}, path, _use_new_zipfile_serialization=zip_format)
    found = pth.read(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert str(tensor.dtype) == f"torch.{found[name].dtype}"
        np.testing.assert_array_equal(
            found[name].astype(np.float64), tensor.detach().double().numpy()
        )


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    _, variables = imported(name)
    count = sum(p.numel() for p in reference(name).parameters())
    assert models.count_parameters(variables) == count == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_logits_and_gradients(name):
    """In double precision, as rounding can switch a ReLU and change gradients by a percent."""
    expected_logits, expected_gradients, _ = reference_step(name, False)
    config, variables = imported(name)
    config.dtype = "float32"
    forward = jax.jit(functools.partial(models.build(config).apply, train=False))
    single = error(forward(variables, IMAGES, np.zeros((4, 18))), expected_logits)
    with jax.enable_x64(True):
        logits, gradients, _ = jdance_step(name, False, "float64")
    worst = errors(gradients, expected_gradients)[0]
    print(f"{name}: logits {single:.1e}, {error(logits, expected_logits):.1e}; gradient {worst}")
    assert single < 1e-5
    assert error(logits, expected_logits) < 1e-6  # a few constants are in single precision
    assert worst[0] < 1e-5


def test_a_training_step():
    """In double precision, as batch statistics of few pixels amplify rounding errors."""
    name = "cbam_resnet50"
    with jax.enable_x64(True):
        _, gradients, statistics = jdance_step(name, True, "float64")
    _, expected_gradients, expected_statistics = reference_step(name, True)
    worst = errors(gradients, expected_gradients)[0], errors(statistics, expected_statistics)[0]
    print(f"{name}: gradient {worst[0]}, statistics {worst[1]}")
    assert worst[0][0] < 1e-4 and worst[1][0] < 1e-6
