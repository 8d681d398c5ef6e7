"""Crops and augmentation: image and key points stay aligned."""

import cv2
import numpy as np
import pytest

from jdance import config as defaults
from jdance import skeleton
from jdance.data import augment, crop
from jdance.data.randomness import BatchRandom


def person(*xy):
    keypoints = np.zeros((18, 3), np.float32)
    keypoints[: len(xy), :2] = xy
    keypoints[: len(xy), 2] = 1
    return keypoints


def batch_rng(count):
    return BatchRandom([np.random.default_rng(row) for row in range(count)])


def dotted(keypoints, size=crop.SIZE):
    """One image per joint, with a soft white spot at the joint."""
    y, x = np.mgrid[:size, :size]
    spots = [np.exp(-((x - kx) ** 2 + (y - ky) ** 2) / 18) for kx, ky, _ in keypoints]
    return [np.repeat((255 * spot)[..., None], 3, 2).astype(np.uint8) for spot in spots]


def center_of_mass(image):
    weight = image[..., 0].astype(float)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


def test_person_square_has_a_margin_of_a_quarter():
    square = crop.person_square(person((100, 50), (180, 250)))
    assert square == (140 - 125, 150 - 125, 250)
    assert crop.person_square(person((100, 50))) == (84, 34, 32)  # not smaller than 32


def test_cut_pads_with_zeros():
    image = np.full((40, 60, 3), 200, np.uint8)
    out = crop.cut(image, crop.Square(-30, -20, 60), size=60)
    assert (out[20:, 30:] == 200).all() and not out[:20].any() and not out[:, :30].any()
    assert not crop.cut(image, crop.Square(500, 500, 50)).any()


@pytest.mark.parametrize("side", [64, 256, 700])
def test_cut_and_to_crop_agree(side):
    y, x = np.mgrid[:480, :640]
    joint = person((300.25, 200.5))
    image = 255 * np.exp(-((x - 300.25) ** 2 + (y - 200.5) ** 2) / (2 * (side / 30) ** 2))
    image = np.repeat(image[..., None], 3, 2).astype(np.uint8)
    square = crop.Square(300 - side // 3, 200 - side // 2, side)
    expected = crop.to_crop(joint, square)[0, :2]
    np.testing.assert_allclose(center_of_mass(crop.cut(image, square)), expected, atol=0.3)


def test_missing_joints_stay_missing():
    moved = crop.to_crop(person((5, 5)), crop.Square(100, 100, 50))
    assert moved[0, 2] == 1 and not moved[1:].any()


@pytest.mark.parametrize("size", [224, 112, 56])
@pytest.mark.parametrize("seed", range(4))
def test_image_and_keypoints_are_warped_together(size, seed):
    config = defaults.augment()
    config.update(rotation=30.0, scale=0.2, shift=0.05, stretch=0.2)
    rng = np.random.default_rng(seed)
    joints = person(*rng.uniform(90, 165, (3, 2)))
    affine, mirrored = augment.draw_affines(size, BatchRandom([rng]), config)
    (warped,) = augment.warp_keypoints(joints[None], affine, mirrored)
    affine_ = augment.reduce_affine(affine[0], augment.reduction(size))
    for before, image in enumerate(dotted(joints[:3])):
        if augment.reduction(size) > 1:
            small = crop.SIZE // augment.reduction(size)
            image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        after = skeleton.COCO18.flip[before] if mirrored[0] else before
        actual = center_of_mass(augment.warp_image(image, affine_, size))
        np.testing.assert_allclose(actual, warped[after, :2], atol=0.35)


def test_about_half_of_the_views_are_mirrored():
    config = defaults.augment()
    _, mirrored = augment.draw_affines(224, batch_rng(40), config)
    assert 8 < mirrored.sum() < 32


def test_affines_are_products_of_elementary_maps():
    config = defaults.augment()
    config.update(rotation=30.0, scale=0.2, shift=0.05, stretch=0.3, shear=0.1)
    maps, mirrored = augment.draw_affines(224, batch_rng(5), config)
    for seed, (found, mirror) in enumerate(zip(maps, mirrored, strict=True)):
        drawn = np.random.default_rng(seed).random(7)
        turn, _, scale, stretch, shear, *shift = 2 * drawn - 1
        assert mirror == (drawn[1] < 0.5)
        c, s = np.cos(np.deg2rad(30 * turn)), np.sin(np.deg2rad(30 * turn))
        stretch = np.exp(0.15 * stretch)
        expected = np.array([[c, -s], [s, c]]) @ np.diag([stretch, 1 / stretch])
        expected = expected @ np.diag([-1 if mirror else 1, 1]) @ [[1, 0.1 * shear], [0, 1]]
        np.testing.assert_allclose(found[:, :2], expected * np.exp(0.2 * scale))
        middle = found[:, :2] @ [127.5, 127.5] + found[:, 2]
        np.testing.assert_allclose(middle, 111.5 + 224 * 0.05 * np.array(shift))


def test_center_view_is_the_center_crop():
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    np.testing.assert_array_equal(augment.center_view(image, 224), image[16:240, 16:240])
    (moved,) = augment.warp_keypoints(person((100, 120))[None], augment.center_affine(224)[None])
    np.testing.assert_allclose(moved[0], [84, 104, 1], atol=1e-4)


def test_distortions():
    config = defaults.augment()
    config.update(color=0.5, erase=1.0, joint_noise=0.01, joint_dropout=0.5)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3), np.uint8)
    drawn = augment.draw_distortions(64, batch_rng(2), config)
    for row in range(2):
        changed = image.copy()
        augment.distort_image(changed, drawn, row)
        top, bottom, left, right = drawn.erased[row]
        assert 6 <= bottom - top <= 26 and 6 <= right - left <= 26
        assert top >= 0 and bottom <= 64 and left >= 0 and right <= 64
        assert (changed[top:bottom, left:right] == drawn.fills[row]).all()
        outside = np.ones((64, 64), bool)
        outside[top:bottom, left:right] = False
        ones = np.concatenate([image[outside], np.ones((outside.sum(), 1))], 1)
        expected = np.clip(ones @ drawn.colors[row].T, 0, 255)
        assert abs(changed[outside] - expected).max() < 1  # OpenCV rounds the factors
        assert abs(changed[outside] - image[outside].astype(float)).mean() > 2
    assert not np.array_equal(drawn.colors[0], drawn.colors[1])
    joints = person(*rng.uniform(10, 50, (10, 2)))
    for frames in ((), (3,)):
        group = np.broadcast_to(joints, (2, *frames, 18, 3))
        noisy = augment.distort_keypoints(group, 64, batch_rng(2), config)
        for one in noisy.reshape(-1, 18, 3):
            kept = one[:, 2] > 0
            assert 1 <= kept.sum() < 10 and not kept[10:].any() and not one[~kept].any()
            assert 0 < np.abs(one[kept] - joints[kept])[:, :2].max() < 6
        if frames:  # joints are dropped in all frames
            assert (noisy[..., 2] == noisy[:, :1, :, 2]).all()


def test_random_numbers_depend_on_the_example_only():
    config = defaults.augment()
    config.update(color=0.5, erase=0.5, joint_noise=0.01, scale=0.1)
    joints = np.broadcast_to(person((20, 30), (40, 50)), (6, 18, 3))

    def draw(rows):
        rng = BatchRandom([np.random.default_rng(row) for row in rows])
        affines = augment.draw_affines(64, rng, config)
        distortions = augment.draw_distortions(64, rng, config)
        return *affines, *distortions, augment.distort_keypoints(joints[rows], 64, rng, config)

    for whole, part in zip(draw([0, 1, 2, 3, 4, 5]), draw([4, 2]), strict=True):
        np.testing.assert_array_equal(whole[[4, 2]], part)


def test_color_changes_keep_mid_gray_neutral():
    config = defaults.augment()
    image = np.full((4, 4, 3), 77, np.uint8)
    augment.distort_image(image, augment.draw_distortions(4, batch_rng(1), config), 0)
    assert (image == 77).all()
    config.update(color=0.5)
    for matrix in augment.draw_distortions(4, batch_rng(9), config).colors:
        # Contrast keeps 128, which gain (0.5 to 1.5) and tint scale.
        factors = matrix @ [128, 128, 128, 1] / 128
        assert factors.min() >= 0.5 * 0.77 and factors.max() <= 1.5 * 1.23
        assert factors.max() / factors.min() < 1.6
