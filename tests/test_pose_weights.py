"""Import of the published graph, calibration, pose checkpoints and downloads."""

import functools
import hashlib
import http.server
import json
import struct
import threading
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from protobuf_writer import field, varint

from jdance.errors import UserError
from jdance.models.pose_mobilenet import MobileNetV2Small
from jdance.pose import importers, weights, zoo
from jdance.weights import graphdef

FIXED = {"network": "mobilenet_v2_small", "statistics": "fixed"}
INSTANCE = {"network": "mobilenet_v2_small", "statistics": "instance"}


# A graph writer -----------------------------------------------------------------------------------


def shape_message(shape):
    return b"".join(field(2, field(1, size)) for size in shape)


def constant(name, tensor, op="Const"):
    attributes = field(5, field(1, b"dtype") + field(2, field(6, 1)))
    attributes += field(5, field(1, b"value") + field(2, field(8, tensor)))
    return field(1, field(1, name.encode()) + field(2, op.encode()) + attributes)


def float_constant(name, array):
    content = np.asarray(array, "<f4").tobytes()
    return constant(
        name, field(1, 1) + field(2, shape_message(np.shape(array))) + field(4, content)
    )


@functools.cache
def random_graph():
    """Random variables of the network, and the same as nodes of a frozen graph."""
    rng = np.random.default_rng(0)
    variables, nodes = {}, {}
    for path, leaf in weights.abstract_variables(MobileNetV2Small(statistics="instance")).items():
        low = 0.5 if path[-1] in ("scale", "var") else -0.3
        value = rng.uniform(low, low + 0.6, leaf.shape).astype(np.float32)
        variables[path] = value
        name, shape = importers._tensorflow_name(path), leaf.shape
        if path[-1] == "kernel" and len(shape) == 2:
            shape = (1, 1, *shape)
        elif path[-2].endswith("depthwise"):
            shape = (*shape[:2], shape[3], 1)
        nodes[name] = float_constant(f"{name}/read/_{len(nodes)}__cf__7", value.reshape(shape))
    return unflatten_dict(variables), nodes


def small(shape):
    """Random images uint8 [*shape, 3]."""
    return np.random.default_rng(3).integers(0, 256, (*shape, 3), np.uint8)


# The graph reader ---------------------------------------------------------------------------------


def test_constant_encodings():
    row = struct.pack("<3f", 1, 2, 3)
    graph = b"".join(
        [
            float_constant("content", [[1.5, -2]]),
            constant("scalar", field(1, 1) + varint(5 << 3 | 5) + struct.pack("<f", 0.5)),
            constant("packed", field(1, 1) + field(2, shape_message([3])) + field(5, row)),
            constant("repeated", field(1, 1) + field(2, shape_message([2, 3])) + field(5, row)),
            constant(
                "int", field(1, 3) + field(2, shape_message([2])) + field(7, 5) + field(7, -1)
            ),
            constant("int64", field(1, 9) + field(2, shape_message([2])) + field(10, b"\x07\x08")),
            constant("empty", field(1, 1) + field(2, shape_message([0]))),
            constant("text", field(1, 7) + field(8, b"hello")),
            constant("not_a_constant", field(1, 1) + field(5, row), op="Other"),
            field(4, field(1, 27)),  # the graph's version
        ]
    )
    found = graphdef.parse_constants(graph)
    expected = {
        "content": np.float32([[1.5, -2]]),
        "scalar": np.float32(0.5),
        "packed": np.float32([1, 2, 3]),
        "repeated": np.float32([[1, 2, 3], [3, 3, 3]]),
        "int": np.int32([5, -1]),
        "int64": np.int64([7, 8]),
        "empty": np.zeros(0, np.float32),
    }
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (b"", "no constants"),
        (float_constant("a", [1, 2])[:-1], "middle of a field"),
        (b"\xff" * 20, "ten bytes"),
        (b"\x0a\x85", "middle of a number"),
        (b"\x02\x01\x00", "without a number"),
        (b"\x0b", "wire type 3"),
        (field(1, 7), "in place of a message"),
        (float_constant("a", 1) * 2, "two nodes"),
        (field(1, field(1, b"\xff\xfe")), "UTF-8"),
        (constant("a", field(1, 1) + field(2, shape_message([3])) + field(4, b"1234")), "4 bytes"),
        (constant("a", field(1, 1) + field(2, shape_message([3]))), "0 values"),
        (
            constant("a", field(1, 1) + field(2, shape_message([1])) + field(5, b"12345678")),
            "2 val",
        ),
        (constant("a", field(1, 1) + field(2, shape_message([-1]))), "unknown size"),
        (
            constant("a", field(1, 1) + field(2, shape_message([2**40])) + field(5, b"1234")),
            "claims",
        ),
        (constant("a", field(1, 1) + field(2, shape_message([0, 2**40]))), "claims"),
        (constant("a", field(1, 1) + field(2, shape_message([1] * 40))), "40 axes"),
        (constant("a", field(1, 3) + field(7, 2**40)), "range"),
    ],
)
def test_damaged_graphs(tmp_path, graph, reason):
    path = tmp_path / "graph.pb"
    path.write_bytes(graph)
    with pytest.raises(UserError, match=reason) as error:
        graphdef.read_constants(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_random_damage(tmp_path):
    """Any damage gives either constants or a UserError."""
    graph = float_constant("a", np.ones((3, 4))) + constant(
        "b", field(1, 3) + field(2, shape_message([2])) + field(7, 5) + field(7, -1)
    )
    path = tmp_path / "graph.pb"
    rng = np.random.default_rng(0)
    for _ in range(500):
        damaged = bytearray(graph[: rng.integers(1, len(graph) + 1)])
        for _ in range(rng.integers(0, 3)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            graphdef.read_constants(path)
        except UserError as error:
            assert "\n" not in str(error)


def test_unreadable_files(tmp_path):
    for path in (tmp_path / "absent.pb", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            graphdef.read_constants(path)


# The importer -------------------------------------------------------------------------------------


def write_graph(path, nodes):
    path.write_bytes(b"".join(nodes.values()))
    return path


def test_import(tmp_path):
    expected, nodes = random_graph()
    path = write_graph(tmp_path / "graph.pb", nodes)
    config, imported = importers.import_mobilenet_v2_small(path)
    assert config == INSTANCE
    assert jax.tree.structure(imported) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, imported, expected)
    weights.check(weights.build(INSTANCE), imported, "imported")


def test_import_names_the_first_difference(tmp_path):
    _, nodes = random_graph()
    scope = "Openpose/MConv_Stage3_L2_4_depthwise/depthwise_weights"
    missing = {name: node for name, node in nodes.items() if name != scope}
    with pytest.raises(UserError, match=f"{scope} is missing"):
        importers.import_mobilenet_v2_small(write_graph(tmp_path / "graph.pb", missing))
    wrong = nodes | {scope: float_constant(scope, np.ones((1, 1, 1, 64)))}
    with pytest.raises(UserError, match=rf"{scope} is float32 \(1, 1, 1, 64\)"):
        importers.import_mobilenet_v2_small(write_graph(tmp_path / "graph.pb", wrong))


def test_imported_tensors_equal_those_of_the_published_graph(real_data):
    _, imported = importers.import_mobilenet_v2_small(real_data("pose/mobilenet_v2_small.pb"))
    flat = flatten_dict(imported)
    with np.load(real_data("pose/mobilenet_v2_small.npz")) as expected:
        assert len(flat) == len(expected.files) == 417
        for name in expected.files:
            actual = flat.pop(_flax_path(name))
            np.testing.assert_array_equal(actual.ravel(), expected[name].ravel(), err_msg=name)
    assert not flat


def _flax_path(name):
    """stage1/paf/sep1/pointwise/bn/beta is (params, stage1_paf, sep1_bn, bias), for example."""
    *scopes, leaf = name.split("/")
    if scopes[0].startswith("stage"):
        stage, branch, unit, kind, *bn = scopes
        scopes = [f"{stage}_{branch}", f"{unit}_bn" if bn else f"{unit}_{kind}"]
    else:
        bn = scopes[-1] == "bn"
        scopes = ["backbone", *scopes[:-2], f"{scopes[-2]}_bn"] if bn else ["backbone", *scopes]
    leaf = {"gamma": "scale", "beta": "bias"}.get(leaf, leaf)
    return ("batch_stats" if leaf in ("mean", "var") else "params", *scopes, leaf)


def test_shipped_statistics_fit_the_network():
    variables, _ = random_graph()
    fixed = weights.with_statistics(variables, weights.default_statistics())
    weights.check(weights.build(FIXED), fixed, "shipped")


def test_shipped_statistics_are_the_letterboxed_ones(real_data):
    actual = flatten_dict(weights.default_statistics(), sep="/")
    with np.load(real_data("pose/mobilenet_v2_small_calibration.npz")) as expected:
        names = [name for name in expected.files if name.startswith("letterbox/")]
        assert len(actual) == len(names)
        for name in names:
            scope, leaf = name.removeprefix("letterbox/").rsplit("/", 1)
            np.testing.assert_array_equal(actual[f"{scope}_bn/{leaf}"], expected[name])


# Networks from configurations ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "unknown pose network None; known: mobilenet_v2_small"),
        ({"network": "cmu"}, "unknown pose network 'cmu'"),
        ({"network": "mobilenet_v2_small", "statistics": "batch"}, "'fixed' or 'instance'"),
        ({"network": "mobilenet_v2_small", "width": 2}, "width"),
    ],
)
def test_build_rejects_bad_configurations(config, reason):
    with pytest.raises(UserError, match=reason):
        weights.build(config)


# Calibration --------------------------------------------------------------------------------------


def test_calibration_pools_all_pixels():
    variables, _ = random_graph()
    images = small((3, 48, 64)) // np.array([1, 2, 4], np.uint8)[:, None, None, None]
    statistics = weights.calibrate(variables, images)

    bgr = images[..., ::-1].astype(np.float32)
    stem = nn.Conv(16, (3, 3), strides=2, use_bias=False)
    first = stem.apply({"params": variables["params"]["backbone"]["stem"]}, bgr)
    for name, expected in (("mean", first.mean((0, 1, 2))), ("var", first.var((0, 1, 2)))):
        np.testing.assert_allclose(statistics["stem_bn"][name], expected, rtol=1e-4)


def test_calibration_on_one_image_equals_instance_norm():
    """In every layer, after the normalization of the preceding ones."""
    variables, _ = random_graph()
    image = small((1, 48, 64))
    fixed = weights.with_statistics(variables, weights.calibrate(variables, image))
    weights.check(weights.build(FIXED), fixed, "calibrated")

    def features(config, variables):
        _, state = weights.build(config).apply(
            variables,
            image[..., ::-1].astype(np.float32),
            capture_intermediates=lambda module, _: module.name == "backbone",
        )
        return state["intermediates"]["backbone"]["__call__"][0]

    actual, expected = jax.jit(lambda a, b: (features(FIXED, a), features(INSTANCE, b)))(
        fixed, variables
    )
    assert expected.std() > 0.1
    np.testing.assert_allclose(actual, expected, atol=1e-3)


def test_calibrate_folder_takes_an_evenly_spaced_subset(tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    for i in range(10):
        image = np.full((20, 10, 3), [0, 0, 20 * i], np.uint8)  # BGR; red identifies them
        cv2.imwrite(str(tmp_path / ("below" if i > 4 else "") / f"{i}.png"), image)
    (tmp_path / "notes.txt").write_text("no image")
    monkeypatch.setattr(weights, "calibrate", lambda variables, images: images)
    images = weights.calibrate_folder({}, tmp_path, max_images=5)
    assert images.shape == (5, 368, 368, 3) and images.dtype == np.uint8
    assert (images[:, :, 184:] == 0).all()  # letterboxed
    assert images[:, 0, 0, 0].tolist() == [0, 40, 80, 120, 160]
    assert len(weights.calibrate_folder({}, tmp_path)) == 10


def test_calibrate_folder_errors(tmp_path):
    with pytest.raises(UserError, match="no images"):
        weights.calibrate_folder({}, tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no jpeg")
    with pytest.raises(UserError, match=r"broken\.jpg: not a readable image"):
        weights.calibrate_folder({}, tmp_path)


# Checkpoints --------------------------------------------------------------------------------------


def test_checkpoint_round_trip(tmp_path):
    variables, _ = random_graph()
    weights.save(tmp_path / "pose", INSTANCE, variables)
    config, loaded = weights.load(tmp_path / "pose")
    assert config == INSTANCE
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)

    doubled = jax.tree.map(lambda x: 2 * x, variables)
    weights.save(tmp_path / "pose", INSTANCE, doubled)  # replaces it
    _, loaded = weights.load(tmp_path / "pose")
    jax.tree.map(np.testing.assert_array_equal, loaded, doubled)


def test_save_never_overwrites_other_files(tmp_path):
    variables, _ = random_graph()
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds something else"):
        weights.save(tmp_path, INSTANCE, variables)
    with pytest.raises(UserError, match=r"thesis\.tex"):
        weights.save(tmp_path / "thesis.tex", INSTANCE, variables)
    with pytest.raises(UserError, match="backbone/block00/depthwise_bn/mean is missing"):
        weights.save(tmp_path / "new", FIXED, variables)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_load_errors(tmp_path):
    with pytest.raises(UserError, match=r"not a pose checkpoint, it has no pose\.json"):
        weights.load(tmp_path)
    for text, reason in (
        ("{", "not valid JSON"),
        ("[]", "'network'"),
        ('{"network": "cmu"}', r"pose\.json: unknown pose network 'cmu'"),
        (json.dumps(INSTANCE), "damaged pose checkpoint"),
    ):
        (tmp_path / "pose.json").write_text(text)
        with pytest.raises(UserError, match=reason) as error:
            weights.load(tmp_path)
        assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda leaf: leaf[:-1], r"is float32 \(15,\), but the network has float32 \(16,\)"),
        (lambda leaf: leaf.astype(np.float16), r"is float16 \(16,\)"),
        (lambda leaf: None, "is missing"),
    ],
)
def test_load_names_the_first_difference(tmp_path, monkeypatch, change, reason):
    variables, _ = random_graph()
    flat = flatten_dict(variables)
    path = ("params", "backbone", "stem_bn", "scale")
    changed = change(flat[path])
    flat = flat | {path: changed}
    if changed is None:
        del flat[path]
    with monkeypatch.context() as patch:  # a checkpoint written for another network
        patch.setattr(weights, "check", lambda *args, **kwargs: None)
        weights.save(tmp_path / "pose", INSTANCE, unflatten_dict(flat))
    with pytest.raises(UserError, match=f"params/backbone/stem_bn/scale {reason}"):
        weights.load(tmp_path / "pose")


# Downloads ----------------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A function that publishes content as the network "net" on a local server."""
    folder = tmp_path / "published"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=folder)
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("JDANCE_CACHE", str(tmp_path / "cache"))

    def publish(content, sha256_of=None, file="net.pb"):
        (folder / "net.pb").write_bytes(content)
        source = zoo.Download(
            url=f"http://127.0.0.1:{server.server_port}/{file}",
            sha256=hashlib.sha256(sha256_of or content).hexdigest(),
            size=len(sha256_of or content),
            file="net.pb",
        )
        monkeypatch.setitem(zoo.DOWNLOADS, "net", (source,))

    yield publish
    server.shutdown()
    server.server_close()
    thread.join()


def test_downloads_once(published, tmp_path, monkeypatch):
    published(b"weights")
    path = zoo.find("net")
    assert path == tmp_path / "cache" / "net.pb" and path.read_bytes() == b"weights"
    assert list(path.parent.iterdir()) == [path]

    def no_network(*args, **kwargs):
        raise AssertionError("a cached file needs no network")

    monkeypatch.setattr(zoo.urllib.request, "urlopen", no_network)
    assert zoo.find("net") == path


def test_downloads_all_files_of_a_network(published, tmp_path, monkeypatch):
    published(b"weights")
    (source,) = zoo.DOWNLOADS["net"]
    beside = source._replace(file="net.bin")
    monkeypatch.setitem(zoo.DOWNLOADS, "net", (source, beside))
    assert zoo.find("net") == tmp_path / "cache" / "net.pb"
    assert (tmp_path / "cache" / "net.bin").read_bytes() == b"weights"


def test_discards_downloads_with_another_checksum(published, tmp_path):
    published(b"weights, altered and longer", sha256_of=b"weights")
    with pytest.raises(UserError, match="not the published file") as error:
        zoo.find("net")
    assert str(tmp_path / "cache" / "net.pb") in str(error.value)
    assert not list((tmp_path / "cache").iterdir())


def test_altered_cached_file(published, tmp_path):
    published(b"weights")
    zoo.find("net").write_bytes(b"altered")
    with pytest.raises(UserError, match="delete it"):
        zoo.find("net")


def test_missing_download(published, tmp_path):
    published(b"weights", file="moved.pb")
    with pytest.raises(UserError, match="404") as error:
        zoo.find("net")
    assert f"put it at {tmp_path / 'cache' / 'net.pb'}" in str(error.value)


def test_refused_connection(published, monkeypatch):
    published(b"weights")
    source = zoo.DOWNLOADS["net"][0]._replace(url="http://127.0.0.1:9/net.pb")
    monkeypatch.setitem(zoo.DOWNLOADS, "net", (source,))
    with pytest.raises(UserError, match=r"cannot download http://127\.0\.0\.1:9/net\.pb") as error:
        zoo.find("net")
    assert "\n" not in str(error.value)


def test_the_default_is_the_best_that_can_be_had(published, tmp_path, monkeypatch):
    published(b"weights")
    lost = zoo.DOWNLOADS["net"][0]._replace(url="http://127.0.0.1:9/x", file="best.xml")
    monkeypatch.setitem(zoo.DOWNLOADS, "best", (lost,))
    monkeypatch.setattr(zoo, "_PREFERRED", ("best", "net"))
    assert zoo.choose() == "net"
    monkeypatch.setattr(zoo, "_PREFERRED", ("best",))
    with pytest.raises(UserError, match=r"get http://127\.0\.0\.1:9/x, put .* as best\.xml"):
        zoo.choose()


def test_the_default_does_not_pass_over_a_damaged_file(published, tmp_path, monkeypatch):
    published(b"weights")
    monkeypatch.setitem(zoo.DOWNLOADS, "best", (zoo.DOWNLOADS["net"][0]._replace(file="best.pb"),))
    monkeypatch.setattr(zoo, "_PREFERRED", ("best", "net"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "best.pb").write_bytes(b"weighty")
    with pytest.raises(UserError, match=r"best\.pb: not the published file"):
        zoo.choose()


def test_unwritable_cache_and_unknown_name(published, tmp_path, monkeypatch):
    published(b"weights")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JDANCE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="JDANCE_CACHE"):
        zoo.find("net")
    with pytest.raises(UserError, match=r"known: mobilenet_v2_small, .*net"):
        zoo.find("nonsense")
    monkeypatch.setattr(zoo, "_PREFERRED", ("net",))
    with pytest.raises(UserError, match=r"cannot be read or written .* set JDANCE_CACHE"):
        zoo.choose()


def test_a_folder_with_a_frozen_graph(tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "graph_opt.pb").touch()
    assert importers.find(tmp_path) == tmp_path / "graph_opt.pb"
    (tmp_path / "other.xml").touch()
    with pytest.raises(UserError, match=r"several published files .*; name one of them"):
        importers.find(tmp_path)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mobilenet_v2_small", ["mobilenet_v2_small.pb"]),
        (
            "movenet_multipose",
            [f"movenet_multipose/movenet-multipose.{kind}" for kind in ("json", "bin")],
        ),
        ("hpe0001", [f"hpe0001/human-pose-estimation-0001.{kind}" for kind in ("xml", "bin")]),
    ],
)
def test_checksums_of_the_published_files(real_data, name, files):
    for source, file in zip(zoo.DOWNLOADS[name], files, strict=True):
        data = real_data(f"pose/{file}").read_bytes()
        assert hashlib.sha256(data).hexdigest() == source.sha256 and len(data) == source.size
        assert Path(source.url).suffix == Path(source.file).suffix == Path(file).suffix
