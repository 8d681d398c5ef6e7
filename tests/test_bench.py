"""Comparisons with PyTorch: equivalent networks, and ratios checked against records."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config

from jdance import config as defaults
from jdance import models
from jdance.bench import inputs, ratios
from jdance.bench.timing import Times
from jdance.errors import UserError
from jdance.models.attention import CBAM
from jdance.train import tasks


def comparison(seconds, baselines):
    times = {name: Times(values, values) for name, values in baselines.items()}
    return ratios.Comparison("training step", ("jdance", Times(seconds, seconds)), times, 10)


def test_the_fastest_baseline_counts():
    result = comparison([2.0, 3.0], {"slow": [8.0, 9.0], "quick": [5.0, 4.0]})
    assert result.fastest("wall") == "quick" and result.ratio("wall") == 2
    table = ratios.table([result], "caption")
    assert [row[0].split(": ")[1] for row in table.rows] == ["jdance", "slow", "quick"]
    assert all(len(row) == len(table.head) for row in table.rows)
    assert table.rows[0][1:] == ["250.00", "25.00", "200.00", "200.00", "2.00", "2.00"]


@pytest.mark.parametrize("clock", ["wall", "cpu"])
def test_ratios_are_checked_against_a_record(tmp_path, clock):
    path = tmp_path / "bench.json"
    ratios.write(path, [comparison([1.0], {"other": [1.0]})], {"about": "here"})
    ratios.check(path, [comparison([1.0], {"other": [0.81]})], clock)
    with pytest.raises(UserError, match=r"fallen from 1\.00 to 0\.79"):
        ratios.check(path, [comparison([1.0], {"other": [0.79]})], clock)


def test_steps_of_the_benchmark_run(tiny_data):
    task = tasks.make(tiny_config(tiny_data), list("abc"))
    train, evaluate = inputs.runnable_steps(task)
    for _ in range(2):  # the training step donates its state
        train()
        evaluate()


def test_invalid_records(tmp_path):
    path = tmp_path / "bench.json"
    with pytest.raises(UserError, match=r"bench\.json"):
        ratios.check(path, [], "wall")
    for text, message in (("{", "not a record"), ('{"tasks": []}', "not a record"),
                       ('{"tasks": {}}', "has no task")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            ratios.check(path, [comparison([1.0], {"other": [1.0]})], "wall")


def test_pytorch_network_matches_jdance():
    torch = pytest.importorskip("torch", reason="PyTorch, the reference, is not installed")
    from jdance.bench.torch_networks import FusedNet, SpatialThenChannel

    config = defaults.base()
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.uint8)
    features = jax.ShapeDtypeStruct((1, 18), jnp.float32)
    shapes = jax.eval_shape(models.build(config.model).init, jax.random.key(0), image, features)
    torch_net = FusedNet()
    assert sum(p.numel() for p in torch_net.parameters()) == models.count_parameters(shapes)
    assert torch_net(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.zeros(2, 18)).shape == (
        2,
        6,
    )

    # `test_resnet_reference` covers the other parts.
    net = SpatialThenChannel(32)
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 32)).astype(np.float32)
    dense = net.channel.mlp
    params = {
        "spatial": {"conv": {
            "kernel": net.conv.weight.detach().numpy().transpose(2, 3, 1, 0),
            "bias": net.conv.bias.detach().numpy(),
        }},
        "channel": {
            name: {"kernel": layer.weight.detach().numpy().T, "bias": layer.bias.detach().numpy()}
            for name, layer in (("squeeze", dense[1]), ("expand", dense[3]))
        },
    }  # fmt: skip
    expected = net(torch.tensor(x.transpose(0, 3, 1, 2))).detach().numpy().transpose(0, 2, 3, 1)
    actual = CBAM(order=1).apply({"params": params}, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
