import cv2
import numpy as np
import pytest

from jdance.pose.letterbox import fitted_size, letterbox, to_image


def test_keeps_the_aspect_ratio_at_the_top_left():
    image = np.full((100, 200, 3), 255, np.uint8)
    square, scale = letterbox(image, 64)
    assert square.shape == (64, 64, 3) and square.dtype == np.uint8
    assert scale == pytest.approx(0.32)
    assert (square[:32] == 255).all() and (square[32:] == 0).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1000), (1000, 1), (368, 368), (7, 5)])
def test_any_shape_fits(height, width):
    square, _ = letterbox(np.full((height, width, 3), 9, np.uint8))
    assert square.shape == (368, 368, 3)
    fitted_height, fitted_width = fitted_size(height, width)
    assert (square[:fitted_height, :fitted_width] == 9).all()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.float32),
    ],
)
def test_rejects_other_arrays(image):
    with pytest.raises(ValueError, match="uint8"):
        letterbox(image)


@pytest.mark.parametrize(("height", "width"), [(90, 217), (733, 401)])
def test_to_image_inverts_letterbox(height, width):
    """The center of mass of a smooth blob survives the resize and is mapped back."""
    x, y = 0.6 * width, 0.4 * height
    rows, columns = np.mgrid[:height, :width]
    spread = 0.05 * max(height, width)
    blob = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * spread**2))
    square, _ = letterbox(np.repeat(blob[..., None], 3, axis=-1).round().astype(np.uint8))

    mass = square[..., 0].astype(np.float64)
    rows, columns = np.mgrid[:368, :368]
    seen = [(mass * columns).sum() / mass.sum(), (mass * rows).sum() / mass.sum(), 0.5]
    found = to_image(np.array([seen], np.float32), height, width)
    np.testing.assert_allclose(found[0], [x, y, 0.5], atol=0.06)  # of rounding to uint8


def test_maps_back_with_the_rounded_size_of_each_axis():
    assert fitted_size(3, 1000, 368) == (1, 368)  # 1.104 rows, rounded
    found = to_image(np.array([[0, 0, 1], [367, 0, 1]], np.float32), 3, 1000)
    np.testing.assert_allclose(found[:, 1], 1.0)  # the one row is the middle of three
    np.testing.assert_allclose(found[:, 0], [1000 / 736 - 0.5, 999.5 - 1000 / 736], rtol=1e-5)


def test_missing_joints_and_joints_outside_the_image_are_zero():
    keypoints = np.array([[0, 0, 0], [10, 10, 0.7], [10, 300, 0.7]], np.float32)
    found = to_image(keypoints, 100, 368)
    np.testing.assert_array_equal(found, [[0, 0, 0], [10, 10, np.float32(0.7)], [0, 0, 0]])
    assert found.dtype == np.float32
    assert keypoints[2, 2] > 0  # the input is left alone


@pytest.mark.parametrize("name", ["p1", "apink3", "handsup1"])
def test_equals_the_input_of_the_reference(real_data, name):
    image = cv2.imread(str(real_data(f"photos/{name}.jpg")))
    with np.load(real_data("pose/mobilenet_v2_small_reference_calibrated.npz")) as reference:
        expected = reference[f"{name}/lb_input_bgr"]
    # Decoders of JPEG may differ by a step or two from one library version to the next.
    difference = letterbox(image)[0].astype(int) - expected
    assert np.abs(difference).max() <= 3
