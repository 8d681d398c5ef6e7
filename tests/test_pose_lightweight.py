"""Lightweight OpenPose: OpenVINO files, the network, and its use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from openvino_writer import Writer, small_network

from jdance import config as defaults
from jdance.errors import UserError
from jdance.models.pose_layers import DepthwiseConv
from jdance.models.pose_lightweight import LightweightOpenPose
from jdance.pose import PoseEstimator, importers, weights, zoo
from jdance.train.pose import PoseTask
from jdance.weights import openvino

PUBLISHED = "pose/hpe0001/human-pose-estimation-0001.xml"
NAMES = ("p1", "p2", "apink3", "handsup1")


# Files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_reads_all_precisions(tmp_path, dtype):
    writer, expected = small_network(dtype)
    layers = openvino.read(writer.write(tmp_path / "net.xml"))
    assert list(layers) == list(expected)
    for name, (kernel, bias) in expected.items():
        assert layers[name].kernel.dtype == layers[name].bias.dtype == np.float32
        np.testing.assert_allclose(layers[name].kernel, kernel, atol=1e-6)
        np.testing.assert_array_equal(layers[name].bias, bias)


def test_missing_biases_are_zero(tmp_path):
    writer = Writer()
    kernel = writer.constant(np.ones((2, 3, 1, 1), np.float32))
    writer.convolution("a", writer.layer("Parameter"), kernel)
    layers = openvino.read(writer.write(tmp_path / "net.xml"))
    np.testing.assert_array_equal(layers["a"].bias, [0, 0])


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('shape="4,3,3,3"', 'shape="4,3,3,4"', "layer 'a': a constant .* does not fit the .bin"),
        ('offset="0"', 'offset="-8"', "does not fit"),
        ('shape="4,3,3,3"', 'shape="4,3,3,nine"', "in place of numbers"),
        ('type="Convolution"', 'type="MatMul"', "no convolutions|not|layer"),
        ('name="c/WithoutBiases"', 'name="a"', "two layers are called 'a'"),
        ('from-layer="0"', 'from-layer="77"', "an edge to a missing layer"),
        ("<?xml", "<!DOCTYPE n [<!ENTITY a 'aaaa'>]><?xml", "XML|document type"),
        ('<net name="n"', '<!DOCTYPE n [<!ENTITY a "aa">]><net name="n"', "a document type"),
        ("</net>", "", "not XML"),
    ],
)
def test_damaged_files(tmp_path, old, new, reason):
    writer, _ = small_network()
    path = writer.write(tmp_path / "net.xml")
    text = writer.xml.replace(old, new)
    if "MatMul" in new:
        text = text.replace("GroupConvolution", "MatMul")
    path.write_text(text)
    with pytest.raises(UserError, match=reason) as error:
        openvino.read(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_cyclic_weights(tmp_path):
    writer, _ = small_network(np.uint8)
    path = writer.write(tmp_path / "net.xml")
    convert = writer.xml.partition('type="Convert"')[0].rpartition('id="')[2].partition('"')[0]
    edge = f'<edge from-layer="{convert}" from-port="9" to-layer="{convert}" to-port="0"/></edges>'
    path.write_text(writer.xml.replace("</edges>", edge))
    with pytest.raises(UserError, match="Convert"):
        openvino.read(path)


def test_missing_files(tmp_path):
    writer, _ = small_network()
    path = writer.write(tmp_path / "net.xml")
    path.with_suffix(".bin").unlink()
    with pytest.raises(UserError, match=r"net\.bin: cannot be read"):
        openvino.read(path)
    with pytest.raises(UserError, match=r"give its \.xml"):
        openvino.read(path.with_suffix(".bin"))


def test_other_networks(tmp_path):
    writer, _ = small_network()
    path = writer.write(tmp_path / "net.xml")
    with pytest.raises(UserError, match=r"not the weights of light.* is missing"):
        PoseEstimator.load(path)


# The network --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_symmetric_padding_equals_pytorch(stride, dilation):
    x = np.random.default_rng(0).normal(size=(1, 8, 12, 5)).astype(np.float32)
    layer = DepthwiseConv(stride=stride, dilation=dilation, symmetric=True)
    variables = layer.init(jax.random.key(0), x)
    plain = nn.Conv(
        5, (3, 3), stride, padding=dilation, kernel_dilation=dilation, feature_group_count=5,
        use_bias=False,
    )  # fmt: skip
    np.testing.assert_allclose(
        layer.apply(variables, x), plain.apply(variables, x), atol=1e-5, rtol=0
    )


def test_stages_and_parameters():
    net = LightweightOpenPose(stages=3)
    image = jnp.zeros((1, 40, 24, 3))
    shapes = jax.eval_shape(net.init, jax.random.key(0), image)
    heat, paf = jax.eval_shape(net.apply, shapes, image)
    assert heat.shape == (1, 5, 3, 19) and paf.shape == (1, 5, 3, 38)
    stages = jax.eval_shape(lambda v: net.apply(v, image, train=True, all_stages=True), shapes)
    assert len(stages) == 3
    published = weights.abstract_variables(LightweightOpenPose())
    assert sum(leaf.size for leaf in published.values()) == 4_099_058


def test_batch_norm_replaces_biases():
    names = {path[1:] for path in weights.abstract_variables(LightweightOpenPose(batch_norm=True))}
    assert ("conv1", "bn", "scale") in names and ("conv1", "bias") not in names
    assert ("stage2_block3_conv2", "bn", "mean") in names
    assert ("context_align", "bias") in names and ("stage2_heat", "bias") in names


def test_every_parameter_is_trained():
    task = PoseTask(defaults.load(str(ROOT / "configs" / "pose_lightweight.py")))
    task.config.init_from = ""
    task.check()
    net = task.model()
    batch = {
        "image": np.zeros((2, 64, 64, 3), np.uint8),
        "keypoints": np.ones((2, 3, 18, 3), np.float32),
        "mask": np.ones((2, 8, 8), np.float32),
    }
    rng = np.random.default_rng(0)
    variables = unflatten_dict(
        {path: rng.normal(0, 0.2, leaf.shape).astype(np.float32)
         for path, leaf in weights.abstract_variables(net).items()}
    )  # fmt: skip

    def loss(params):
        return task.loss(net, {**variables, "params": params}, batch, jax.random.key(0))[0]

    gradients = flatten_dict(jax.device_get(jax.jit(jax.grad(loss))(variables["params"])))
    assert all(np.abs(gradient).max() > 0 for gradient in gradients.values())


# The published weights ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(real_data):
    return importers.import_file(real_data(PUBLISHED))


def test_equals_openvino_on_real_images(real_data, published):
    estimator = PoseEstimator(*published)
    with np.load(real_data("pose/hpe0001/reference_maps.npz")) as reference:
        for name in NAMES:
            maps = estimator.maps(reference[f"{name}/input_bgr"][None, ..., ::-1])
            for actual, kind in zip(maps, ("heat", "paf"), strict=True):
                expected = reference[f"{name}/{kind}"].astype(np.float32)
                np.testing.assert_allclose(actual[0], expected, atol=1e-3, rtol=0)


def test_name_and_checkpoint_give_the_same_network(real_data, published, monkeypatch):
    monkeypatch.setattr(zoo, "find", lambda name: real_data(PUBLISHED))
    named = PoseEstimator.load("hpe0001", size=256)
    assert named.config == published[0] and named.size == 256
    # fp16-structure-only.xml lies beside it, so that the folder alone is not enough.
    for path, leaf in flatten_dict(published[1]).items():
        np.testing.assert_array_equal(flatten_dict(named.variables)[path], leaf)


def test_folder_with_the_published_files(real_data, tmp_path):
    for suffix in (".xml", ".bin"):
        (tmp_path / f"net{suffix}").symlink_to(real_data(PUBLISHED).with_suffix(suffix))
    assert PoseEstimator.load(tmp_path).config["network"] == "lightweight_openpose"


def test_sizes_are_multiples_of_eight(published):
    with pytest.raises(UserError, match="--pose_size=500: must be a multiple of 8"):
        PoseEstimator(*published, size=500)
