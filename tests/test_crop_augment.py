"""Crops and augmentation: picture and key points must never come apart."""

import cv2
import numpy as np
import pytest

from jdance import config as defaults
from jdance import skeleton
from jdance.data import augment, crop


def person(*xy):
    keypoints = np.zeros((18, 3), np.float32)
    keypoints[: len(xy), :2] = xy
    keypoints[: len(xy), 2] = 1
    return keypoints


def dotted(keypoints, size=crop.SIZE):
    """A picture with a soft white spot exactly at every joint, each in a picture of its own."""
    y, x = np.mgrid[:size, :size]
    spots = [np.exp(-((x - kx) ** 2 + (y - ky) ** 2) / 18) for kx, ky, _ in keypoints]
    return [np.repeat((255 * spot)[..., None], 3, 2).astype(np.uint8) for spot in spots]


def centre(image):
    weight = image[..., 0].astype(float)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


def test_square_is_centred_and_a_quarter_larger_than_the_box():
    square = crop.around(person((100, 50), (180, 250)))
    assert square == (140 - 125, 150 - 125, 250)
    assert crop.around(person((100, 50))) == (84, 34, 32)  # not smaller than 32


def test_cut_fills_what_lies_outside_with_zeros():
    image = np.full((40, 60, 3), 200, np.uint8)
    out = crop.cut(image, crop.Square(-30, -20, 60), size=60)
    assert (out[20:, 30:] == 200).all() and not out[:20].any() and not out[:, :30].any()
    assert not crop.cut(image, crop.Square(500, 500, 50)).any()


@pytest.mark.parametrize("side", [64, 256, 700])
def test_cut_and_into_agree(side):
    y, x = np.mgrid[:480, :640]
    joint = person((300.25, 200.5))
    image = 255 * np.exp(-((x - 300.25) ** 2 + (y - 200.5) ** 2) / (2 * (side / 30) ** 2))
    image = np.repeat(image[..., None], 3, 2).astype(np.uint8)
    square = crop.Square(300 - side // 3, 200 - side // 2, side)
    expected = crop.into(joint, square)[0, :2]
    np.testing.assert_allclose(centre(crop.cut(image, square)), expected, atol=0.3)


def test_missing_joints_stay_missing():
    moved = crop.into(person((5, 5)), crop.Square(100, 100, 50))
    assert moved[0, 2] == 1 and not moved[1:].any()


@pytest.mark.parametrize("size", [224, 112, 56])
@pytest.mark.parametrize("seed", range(4))
def test_image_and_keypoints_are_warped_together(size, seed):
    config = defaults.augment()
    config.update(rotation=30.0, scale=0.2, shift=0.05, stretch=0.2)
    rng = np.random.default_rng(seed)
    joints = person(*rng.uniform(90, 165, (3, 2)))
    affine, mirrored = augment.matrix(size, rng, config)
    warped = augment.warp_keypoints(joints, affine, mirrored)
    for before, image in enumerate(dotted(joints[:3])):
        if augment.reduction(size) > 1:
            small = crop.SIZE // augment.reduction(size)
            image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        after = skeleton.COCO18.flip[before] if mirrored else before
        seen = centre(augment.warp_image(image, affine, size))
        np.testing.assert_allclose(seen, warped[after, :2], atol=0.35)


def test_both_mirrored_and_unmirrored_views_occur():
    config = defaults.augment()
    draws = [augment.matrix(224, np.random.default_rng(i), config)[1] for i in range(40)]
    assert 8 < sum(draws) < 32


def test_plain_view_is_the_centre_crop():
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    np.testing.assert_array_equal(augment.view(image, 224), image[16:240, 16:240])
    affine, mirrored = augment.matrix(224, None, defaults.augment())
    joints = person((100, 120))
    np.testing.assert_allclose(
        augment.warp_keypoints(joints, affine, mirrored)[0], [84, 104, 1], atol=1e-4
    )


def test_disturbances_change_what_they_should():
    config = defaults.augment()
    config.update(color=0.5, erase=1.0, joint_noise=0.01, joint_dropout=0.5)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3), np.uint8)
    changed = augment.disturb_image(image, rng, config)
    assert changed.dtype == np.uint8 and changed.shape == image.shape
    assert not np.array_equal(changed, image)
    joints = person(*rng.uniform(10, 50, (10, 2)))
    noisy = augment.disturb_keypoints(joints, 64, rng, config)
    kept = noisy[:, 2] > 0
    assert 1 <= kept.sum() < 10 and not kept[10:].any() and not noisy[~kept].any()
    assert 0 < np.abs(noisy[kept] - joints[kept])[:, :2].max() < 6


def test_saturation_contrast_and_gain_leave_grey_middle_in_place():
    config = defaults.augment()
    config.update(color=0.0)
    image = np.full((4, 4, 3), 77, np.uint8)
    np.testing.assert_array_equal(
        augment.disturb_image(image, np.random.default_rng(0), config), image
    )
