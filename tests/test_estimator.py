import cv2
import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from programs import program

from jdance.errors import UserError
from jdance.pose import PoseEstimator, weights, zoo
from jdance.pose.decode import People
from jdance.pose.letterbox import letterbox

FIXED = {"network": "mobilenet_v2_small", "statistics": "fixed"}
NAMES = ("p1", "apink3", "handsup1")  # of the images in the reference


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(0)
    shapes = weights.abstract_variables(weights.build(FIXED))
    return unflatten_dict(
        {path: rng.uniform(0.1, 0.2, s.shape).astype(np.float32) for path, s in shapes.items()}
    )


@pytest.fixture(scope="module")
def estimator(real_data):
    """`load("mobilenet_v2_small")`, shared by the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "find", lambda name: real_data(f"pose/{name}.pb"))
        return PoseEstimator.load("mobilenet_v2_small")


def photo(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


# Equality with TensorFlow on real images --------------------------------------------------------


def assert_equals_reference(maps, reference, prefix=""):
    for i, name in enumerate(NAMES):
        for actual, kind in zip(maps, ("heat", "paf"), strict=True):
            assert actual.dtype == np.float32
            # The reference is stored in half precision, which alone costs 5e-4.
            np.testing.assert_allclose(
                actual[i], reference[f"{name}/{prefix}{kind}"].astype(np.float32), atol=1e-3, rtol=0
            )


def reference_images(reference, key):
    return np.stack([reference[f"{name}/{key}"][..., ::-1] for name in NAMES])


def test_published_graph_equals_tensorflow(real_data):
    """Each image normalized by itself: the reference was made one image at a time."""
    published = PoseEstimator.load(real_data("pose/mobilenet_v2_small.pb"))
    assert published.config["statistics"] == "instance"
    with np.load(real_data("pose/mobilenet_v2_small_reference.npz")) as reference:
        images = reference_images(reference, "input_bgr")
        together = published.maps(images)
        assert_equals_reference(together, reference)
    for i in range(3):
        for a, b in zip(published.maps(images[i : i + 1]), together, strict=True):
            np.testing.assert_allclose(a[0], b[i], atol=1e-4)


def test_fixed_statistics_equal_the_reference(real_data, estimator):
    assert estimator.config["statistics"] == "fixed"
    with (
        np.load(real_data("pose/mobilenet_v2_small_reference_calibrated.npz")) as reference,
        np.load(real_data("pose/mobilenet_v2_small_calibration.npz")) as calibration,
    ):
        letterboxed = reference_images(reference, "lb_input_bgr")
        assert_equals_reference(estimator.maps(letterboxed), reference, "lb_")

        # the same weights with statistics of squashed images
        squash = {}
        for name in calibration.files:
            kind, *scopes, layer, leaf = name.split("/")
            if kind == "squash":
                squash[(*scopes, f"{layer}_bn", leaf)] = calibration[name]
        squashed = PoseEstimator(
            FIXED, weights.with_statistics(estimator.variables, unflatten_dict(squash))
        )
        images = reference_images(reference, "input_bgr")
        assert_equals_reference(squashed.maps(images), reference)


# People -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "people", "joints"), [("p1.jpg", 1, 18), ("p2.jpg", 2, 18), ("apink3.jpg", 6, 14)]
)
def test_real_photos(real_data, estimator, name, people, joints):
    image = photo(real_data(f"photos/{name}"))
    keypoints = estimator.people(image)
    assert keypoints.shape == (people, 18, 3) and keypoints.dtype == np.float32
    present = keypoints[..., 2] > 0
    assert present.sum(axis=-1).min() >= joints
    height, width = image.shape[:2]
    assert (keypoints[present][:, :2] < [width, height]).all()
    necks = keypoints[:, 1]
    assert (np.diff(necks[:, 0]) > 0).all()  # from left to right
    assert (keypoints[:, 10, 1] > necks[:, 1]).all()  # all people are upright


def test_empty_image(estimator):
    assert estimator.people(np.full((300, 200, 3), 128, np.uint8)).shape == (0, 18, 3)


def test_call_equals_people(real_data, estimator):
    """The batched call on a letterboxed image equals `people`, mapped to its pixels."""
    image = photo(real_data("photos/p1.jpg"))
    square, scale = letterbox(image)
    found = jax.device_get(estimator(square[None]))
    assert found.keypoints.shape[0] == 1 and found.valid[0].sum() == 1
    mapped = estimator.people(image)
    expected = (found.keypoints[0][found.valid[0]][..., :2] + 0.5) / scale - 0.5
    np.testing.assert_allclose(mapped[..., :2], expected, atol=0.5)


def test_people_are_sorted_and_mapped_back(variables):
    keypoints = np.zeros((1, 4, 18, 3), np.float32)
    keypoints[0, 0, [1, 2]] = [[200, 10, 0.5], [220, 10, 0.6]]
    keypoints[0, 1, [1, 2]] = [[100, 20, 0.7], [120, 20, 0.8]]
    keypoints[0, 2, [1, 2]] = [[50, 50, 1], [50, 50, 1]]  # not valid
    keypoints[0, 3, 5] = [50, 300, 0.9]  # below the image
    valid = np.array([[True, True, False, True]])

    class Seeing(PoseEstimator):
        def __call__(self, images):
            return People(keypoints, valid, np.ones((1, 4), np.float32))

    found = Seeing(FIXED, variables).people(np.zeros((368, 736, 3), np.uint8))
    assert found.shape == (2, 18, 3)
    np.testing.assert_allclose(found[0, 1], [200.5, 40.5, 0.7])
    np.testing.assert_allclose(found[1, 2], [440.5, 20.5, 0.6])
    assert (found[:, 3:] == 0).all()


# Loading ------------------------------------------------------------------------------------------


def test_loads_a_pose_checkpoint(tmp_path, variables):
    weights.save(tmp_path / "pose", FIXED, variables)
    loaded = PoseEstimator.load(tmp_path / "pose")
    assert loaded.config == FIXED
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)


@pytest.mark.parametrize(
    ("pose", "reason"),
    [
        ("openpose", "known networks: stage, mobilenet_v2_small, hpe0001, movenet"),
        ("absent/graph.pb", "no such"),
    ],
)
def test_unknown_pose(pose, reason):
    with pytest.raises(UserError, match=reason) as error:
        PoseEstimator.load(pose)
    assert str(error.value).startswith(pose) and "\n" not in str(error.value)


def test_other_folders_and_files(tmp_path):
    with pytest.raises(UserError, match="not a pose checkpoint"):
        PoseEstimator.load(tmp_path)
    (tmp_path / "notes.txt").write_text("neither a graph nor a checkpoint")
    with pytest.raises(UserError, match="not a frozen TensorFlow graph"):
        PoseEstimator.load(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((368, 368, 3), np.uint8),
        np.zeros((1, 368, 368, 3), np.float32),
        np.zeros((1, 368, 360, 3), np.uint8),
        np.zeros((1, 368, 368, 1), np.uint8),
    ],
)
def test_rejects_other_inputs(variables, images):
    with pytest.raises(ValueError, match="multiples of 16"):
        PoseEstimator(FIXED, variables).maps(images)


# The program --------------------------------------------------------------------------------------


def test_import_weights_with_calibration(real_data, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("p1.jpg", "p2.jpg", "golf.jpg"):
        (photos / name).symlink_to(real_data(f"photos/{name}"))
    program(
        *("import_weights", "--network=mobilenet_v2_small"),
        f"--input={real_data('pose/mobilenet_v2_small.pb')}",
        f"--output={tmp_path / 'pose'}",
        f"--calibrate={photos}",
    )
    loaded = PoseEstimator.load(tmp_path / "pose")
    assert loaded.config == FIXED
    # Other images, other statistics, but of the same kind.
    actual = np.asarray(loaded.variables["batch_stats"]["backbone"]["stem_bn"]["var"])
    shipped = weights.default_statistics()["stem_bn"]["var"]
    assert 0.3 < np.median(actual / shipped) < 3


def test_import_weights_of_another_file(tmp_path):
    (tmp_path / "graph.pb").write_bytes(b"no graph")
    _, error = program(
        *("import_weights", "--network=mobilenet_v2_small"),
        *(f"--input={tmp_path / 'graph.pb'}", f"--output={tmp_path / 'pose'}"),
        status=1,
    )
    assert error.startswith(f"error: {tmp_path / 'graph.pb'}: ")
    assert not (tmp_path / "pose").exists()
