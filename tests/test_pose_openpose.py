"""OpenPose's network against a PyTorch implementation, and the import of its weights."""

import functools
import math

import jax
import numpy as np
import pytest
from protobuf_writer import field, varint

from jdance.errors import UserError
from jdance.pose import PoseEstimator, importers, weights
from jdance.weights import caffemodel, pth


@functools.cache
def published(stages):
    """Random tensors with the published names and shapes."""
    rng = np.random.default_rng(0)
    tensors = {}
    config = {"network": "openpose_vgg19", "stages": stages}
    for path, leaf in weights.abstract_variables(weights.build(config)).items():
        shape = leaf.shape
        if path[-1] == "kernel":
            shape = (1, 1, *shape) if len(shape) == 2 else shape
            shape = (shape[3], shape[2], *shape[:2])
        scale = math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.1
        values = rng.standard_normal(shape, np.float32) * np.float32(scale)
        tensors[importers._openpose_name(path)] = values
    return tensors


def torch_network(tensors, images):
    """PyTorch's maps of all stages from images [B, H, W, 3] in BGR."""
    torch = pytest.importorskip("torch")
    relu = torch.nn.functional.relu

    def conv(x, name):
        weight = torch.tensor(tensors[f"{name}.weight"])
        bias = torch.tensor(tensors[f"{name}.bias"])
        return torch.nn.functional.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    x = (torch.tensor(images).permute(0, 3, 1, 2) - 128) / 256
    groups = ("conv1_1 conv1_2", "conv2_1 conv2_2", "conv3_1 conv3_2 conv3_3 conv3_4",
              "conv4_1 conv4_2 conv4_3_CPM conv4_4_CPM")  # fmt: skip
    for i, group in enumerate(groups):
        x = torch.nn.functional.max_pool2d(x, 2, 2) if i else x
        for name in group.split():
            x = relu(conv(x, name))
    features, stages = x, []
    while True:
        stage, maps = len(stages) + 1, []
        for side in (1, 2):
            names = [f"conv5_{i}_CPM_L{side}" for i in range(1, 6)]
            if stage > 1:
                names = [f"Mconv{i}_stage{stage}_L{side}" for i in range(1, 8)]
            if f"{names[0]}.weight" not in tensors:
                return stages
            y = x
            for name in names[:-1]:
                y = relu(conv(y, name))
            maps.append(conv(y, names[-1]))
        paf, heat = maps
        stages.append(tuple(m.permute(0, 2, 3, 1).numpy() for m in (heat, paf)))
        x = torch.cat([paf, heat, features], 1)


def test_full_size():
    net = weights.build({"network": "openpose_vgg19"})
    shapes = weights.abstract_variables(net)
    assert sum(math.prod(leaf.shape) for leaf in shapes.values()) == 52_311_446
    image = jax.ShapeDtypeStruct((1, 368, 368, 3), np.float32)
    stages, _ = jax.eval_shape(
        lambda x: net.init_with_output(jax.random.key(0), x, all_stages=True), image
    )
    assert len(stages) == 6
    assert all((h.shape, p.shape) == ((1, 46, 46, 19), (1, 46, 46, 38)) for h, p in stages)


def test_equals_pytorch():
    tensors = published(2)
    images = np.random.default_rng(1).uniform(0, 255, (2, 32, 48, 3)).astype(np.float32)
    expected = torch_network(tensors, images)
    variables = imported(tensors)[1]
    net = weights.build({"network": "openpose_vgg19", "stages": 2})
    found = jax.jit(lambda v, x: net.apply(v, x, all_stages=True))(variables, images)
    assert len(found) == len(expected) == 2
    for actual, reference in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert reference.std() > 1e-3
        np.testing.assert_allclose(actual, reference, atol=2e-4 * np.abs(reference).max())


def imported(tensors, prefix=""):
    """Configuration and variables imported from a PyTorch file with these tensors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pth, "read", lambda path: {prefix + k: v for k, v in tensors.items()})
        return importers.import_openpose_vgg19("weights.pth")


@pytest.mark.parametrize("prefix", ["", "model0.", "module.model1_1."])
def test_import_with_any_module_prefix(prefix):
    tensors = {name: np.broadcast_to(0, t.shape) for name, t in published(6).items()}
    config, variables = imported(tensors, prefix)
    assert config == {"network": "openpose_vgg19", "stages": 6}
    weights.check(weights.build(config), variables, "imported")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop("conv4_3_CPM.bias"), "conv4_3_CPM.bias is missing"),
        (lambda t: t.update({"conv2_1.weight": np.zeros((128, 64, 5, 5))}),
         r"conv2_1.weight is float32 \(128, 64, 5, 5\) and does not fit"),
        (lambda t: t.update({"fc6.weight": np.zeros(3)}), "fc6.weight is not in this network"),
        (lambda t: t.update({"other.conv1_1.bias": np.zeros(64)}), "two tensors are called"),
    ],
)  # fmt: skip
def test_import_names_the_first_difference(change, reason):
    tensors = dict(published(1))
    change(tensors)
    with pytest.raises(UserError, match=reason) as error:
        imported(tensors)
    assert str(error.value).startswith("weights.pth: ") and "\n" not in str(error.value)


def test_import_of_a_file_written_by_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "body_pose_model.pth"
    torch.save({name: torch.tensor(tensor) for name, tensor in published(1).items()}, path)
    config, variables = importers.import_file(path)
    assert config["stages"] == 1
    np.testing.assert_array_equal(
        variables["params"]["conv3_2"]["kernel"],
        published(1)["conv3_2.weight"].transpose(2, 3, 1, 0),
    )
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"body_pose_model\.pth"):
        importers.import_file(path)


# Caffe --------------------------------------------------------------------------------------------


def caffe_blob(array, old):
    if old:
        sizes = (1,) * (4 - array.ndim) + array.shape
        shape = b"".join(field(i, size) for i, size in enumerate(sizes, start=1))
    else:
        shape = field(7, field(1, b"".join(varint(size) for size in array.shape)))
    return shape + field(5, array.astype("<f4").tobytes())


def caffe_model(tensors, old):
    """A NetParameter with these tensors, in the format of V1LayerParameter if `old`."""
    net = field(1, b"pose")
    for layer in dict.fromkeys(name.rsplit(".", 1)[0] for name in tensors):
        blobs = [caffe_blob(tensors[f"{layer}.{leaf}"], old) for leaf in ("weight", "bias")]
        if old:
            message = field(2, b"data") + field(4, layer.encode()) + field(5, 4)
            net += field(2, message + b"".join(field(6, blob) for blob in blobs))
        else:
            message = field(1, layer.encode()) + field(2, b"Convolution")
            net += field(100, message + b"".join(field(7, blob) for blob in blobs))
    return net + field(100, field(1, b"concat") + field(2, b"Concat"))


@pytest.mark.parametrize("old", [False, True])
def test_both_formats_of_caffe(tmp_path, old):
    path = tmp_path / "pose.caffemodel"
    path.write_bytes(caffe_model(published(1), old))
    config, variables = importers.import_file(path)
    _, expected = imported(published(1))
    assert config["stages"] == 1
    jax.tree.map(np.testing.assert_array_equal, variables, expected)


def test_damaged_caffe_models(tmp_path):
    tensors = {"conv1_1.weight": np.ones((2, 3, 1, 1)), "conv1_1.bias": np.ones(2)}
    model = caffe_model(tensors, old=False)
    path = tmp_path / "pose.caffemodel"
    for data, reason in (
        (b"", "no parameters"),
        (model[:40], "middle of a field"),
        (model * 2, "two layers are called 'conv1_1'"),
        (model.replace(b"\x0a\x04\x02\x03\x01\x01", b"\x0a\x04\x02\x03\x01\x02"),
         r"layer 'conv1_1': parameters of shape \(2, 3, 1, 2\) have 6 values"),
        (b"no model at all", "Caffe model"),
    ):  # fmt: skip
        path.write_bytes(data)
        with pytest.raises(UserError, match=reason) as error:
            caffemodel.read(path)
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    path.write_bytes(model)
    with pytest.raises(UserError, match=r"conv1_1\.(bias|weight) is float32"):
        PoseEstimator.load(path)
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(model[: rng.integers(1, len(model) + 1)])
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            caffemodel.read(path)
        except UserError as error:
            assert "\n" not in str(error)
