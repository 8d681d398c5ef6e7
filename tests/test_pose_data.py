"""Data for pose networks: COCO annotations, masks, and warps of image, people and mask."""

import json
from dataclasses import replace

import cv2
import jax
import numpy as np
import pytest

from jdance import config as defaults
from jdance import skeleton
from jdance.data import (
    augment,
    images,
    pose_loader,
    prepare_scenes,
    record_writer,
    records,
    scenes,
    shards,
)
from jdance.data.verify import verify
from jdance.errors import UserError
from jdance.pose import evaluation, targets


def disc_image(rng, count=3, height=240, width=320):
    """A dark image with a bright disc at each joint of its people: [H, W, 3], [M, 18, 3]."""
    image = rng.integers(0, 40, (height, width, 3), np.uint8)
    keypoints = np.ones((count, skeleton.NUM_JOINTS, 3), np.float32)
    keypoints[..., 0] = rng.uniform(10, width - 10, keypoints.shape[:2])
    keypoints[..., 1] = rng.uniform(10, height - 10, keypoints.shape[:2])
    for x, y, _ in keypoints.reshape(-1, 3):
        cv2.circle(image, (round(float(x)), round(float(y))), 5, (250, 250, 250), -1)
    return image, keypoints


def record_of(image, keypoints, mask=None):
    return scenes.SceneRecord(
        image=cv2.imencode(".png", image)[1].tobytes(),
        people=keypoints,
        boxes=np.zeros((len(keypoints), 4), np.float32),
        areas=np.ones(len(keypoints), np.float32),
        crowd=np.zeros(len(keypoints), bool),
        mask=mask,
    )


@pytest.fixture
def config():
    config = defaults.pose()
    config.data.update(image_size=128, max_people=4)
    config.augment.update(person_height=(90.0, 400.0), jitter=20.0)
    return config


def test_record_round_trip():
    rng = np.random.default_rng(0)
    image, keypoints = disc_image(rng)
    mask = rng.integers(0, 2, image.shape[:2]).astype(np.uint8) * 255
    before = record_of(image, keypoints, mask)
    after = scenes.unpack(scenes.pack(before))
    for name in ("people", "boxes", "areas", "crowd", "mask"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert after.image == before.image


@pytest.mark.parametrize("seed", range(8))
def test_warp_of_image_people_and_mask(config, seed):
    rng = np.random.default_rng(seed)
    image, keypoints = disc_image(rng)
    # The left half is unannotated and blue.
    mask = np.full(image.shape[:2], 255, np.uint8)
    mask[:, :160] = 0
    image[:, :160, :2] = 0
    data = scenes.pack(record_of(image[..., ::-1], keypoints, mask))
    batch = pose_loader.make_example((5, data), np.random.default_rng(seed), config=config)
    assert batch["image"].shape == (128, 128, 3) and batch["image"].dtype == np.uint8
    assert batch["keypoints"].shape == (4, 18, 3) and batch["mask"].shape == (16, 16)
    assert batch["index"] == 5 and not batch["keypoints"][3].any()
    inside = batch["keypoints"][..., 2] > 0
    inside &= ((batch["keypoints"][..., :2] > 3) & (batch["keypoints"][..., :2] < 124)).all(-1)
    assert inside.any()
    for x, y, _ in batch["keypoints"][inside]:
        assert batch["image"][round(float(y)), round(float(x)), 2] > 150

    def cells(values):
        return values.reshape(16, 8, 16, 8).mean((1, 3))

    # A cell without red and green lies in the unknown half, or outside the image.
    seen = batch["image"].astype(float)
    known, outside = cells(seen[..., 1] > 0) > 0.5, cells(seen.sum(-1) == 0) > 0.5
    sure = (batch["mask"] < 0.05) | (batch["mask"] > 0.95)
    agree = known == (batch["mask"] > 0.5)
    assert agree[sure & ~outside].mean() > 0.97 and (batch["mask"][outside] > 0.3).all()


@pytest.mark.parametrize("seed", range(4))
def test_people_beyond_the_maximum_are_masked(config, seed):
    """The loss is 0 at these people, as at crowds; the mask is unchanged elsewhere."""
    rng = np.random.default_rng(seed)
    image = np.zeros((240, 320, 3), np.uint8)
    keypoints = np.zeros((6, 18, 3), np.float32)
    keypoints[..., 2] = 1
    for i in range(6):
        keypoints[i, :, :2] = rng.uniform(0, 24, (18, 2)) + [10 + 50 * i, 100]
    data = scenes.pack(record_of(image, keypoints))
    config.augment.update(person_height=(24.0, 24.0), jitter=20.0)
    batch, complete = (
        pose_loader.make_example((0, data), np.random.default_rng(seed), config=config)
        for config.data.max_people in (1, 6)
    )
    assert complete["mask"].min() == 1 and batch["keypoints"].shape == (1, 18, 3)
    kept = {tuple(person[0]) for person in batch["keypoints"]}
    heat, _ = jax.device_get(targets.encode(complete["keypoints"][None], (16, 16)))
    near, _ = jax.device_get(targets.encode(batch["keypoints"][None], (16, 16)))
    wrong = np.abs(heat - near)[0].max(-1) > 0.01  # cells with a wrong target
    assert wrong.any() and batch["mask"][wrong].max() < 0.5
    assert batch["mask"].mean() > 0.3
    for person in complete["keypoints"]:
        inside = ((person[:, :2] >= 0) & (person[:, :2] < 128)).all(-1)
        cells = (person[inside, 1::-1] // 8).astype(int)
        if tuple(person[0]) not in kept:
            assert (batch["mask"][tuple(cells.T)] == 0).all()


def test_mirroring_swaps_left_and_right(config):
    config.augment.update(flip=1.0, rotation=0.0, jitter=0.0)
    person = np.zeros((1, 18, 3), np.float32)
    person[0, [skeleton.R_WRIST, skeleton.L_WRIST]] = [[50, 40, 1], [90, 140, 1]]
    view = (240, 320), 128, np.random.default_rng(0), config.augment
    _, affine, mirrored = pose_loader.draw_view(person, *view)
    moved = augment.warp_keypoints(person, affine[None], np.array([mirrored]))
    right, left = moved[0, [skeleton.R_WRIST, skeleton.L_WRIST]]
    assert mirrored and right[1] > left[1] and right[0] < left[0]
    np.testing.assert_allclose((right + left)[:2] / 2, 63.5, atol=1e-3)  # centered


def test_shrinking_matches_the_letterbox(config):
    """A view without rotation is the shifted letterboxed image."""
    rng = np.random.default_rng(3)
    image = cv2.GaussianBlur(rng.integers(0, 256, (240, 320, 3), np.uint8), (0, 0), 3)
    affine = np.array([[0.5, 0, 0.5 * 0.5 - 0.5], [0, 0.5, 0.5 * 0.5 - 0.5]])
    small = pose_loader.warp_view(image, 0.5, affine, 128, outside=0)
    expected = cv2.resize(image, (160, 120), interpolation=cv2.INTER_AREA)[:120, :128]
    np.testing.assert_allclose(small[:120], expected, atol=1)
    assert not small[120:].any()


# COCO ---------------------------------------------------------------------------------------------


def annotation(number, image, keypoints=None, box=(5, 6, 30, 40), crowd=0, segmentation=None):
    joints = np.zeros((17, 3)) if keypoints is None else np.array(keypoints)
    x, y, w, h = box
    polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return {
        "id": number, "image_id": image, "category_id": 1, "iscrowd": crowd, "bbox": list(box),
        "area": w * h * 0.7, "keypoints": joints.ravel().tolist(),
        "num_keypoints": int((joints[:, 2] > 0).sum()), "segmentation": segmentation or polygon,
    }  # fmt: skip


@pytest.fixture
def coco(tmp_path):
    """A folder in COCO's layout with two training images and one validation image."""
    rng = np.random.default_rng(0)
    joints = rng.uniform(5, 95, (17, 3)).round()
    joints[:, 2] = rng.integers(0, 3, 17)
    joints[joints[:, 2] == 0] = 0
    run_lengths = {"counts": [100, 50, 120 * 100 - 150], "size": [120, 100]}
    content = {
        "train": [annotation(1, 0, joints), annotation(2, 0, box=(60, 70, 20, 30)),
                  annotation(3, 0, crowd=1, segmentation=run_lengths)],
        "val": [annotation(4, 0, joints)],
    }  # fmt: skip
    for split, annotations in content.items():
        folder = tmp_path / "coco" / f"{split}2017"
        folder.mkdir(parents=True)
        coco_images = [
            {"id": i, "file_name": f"{i}.jpg"} for i in range(2 if split == "train" else 1)
        ]
        for image in coco_images:
            images.write(folder / image["file_name"], np.full((120, 100, 3), 99, np.uint8))
        file = tmp_path / "coco" / "annotations" / f"person_keypoints_{split}2017.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"images": coco_images, "annotations": annotations}))
    return tmp_path / "coco"


def test_coco_round_trip(coco, tmp_path):
    info = prepare_scenes.prepare(str(coco), tmp_path / "data")
    assert {name: split["count"] for name, split in info["splits"].items()} == {
        "train": 1, "val": 1,
    }  # fmt: skip
    source = records.Dataset(tmp_path / "data", "people").source("train")
    record = scenes.unpack(source[0])  # the other image has no labeled person
    assert len(record.people) == 3 and record.crowd.tolist() == [False, False, True]
    # Masked are the person without a labeled joint and the crowd, run length 50 in column 0.
    expected = np.full((120, 100), 255, np.uint8)
    expected[70:101, 60:81] = 0
    expected[100:120, 0] = expected[0:30, 1] = 0
    np.testing.assert_array_equal(record.mask, expected)
    # The fields that COCO's evaluation uses are unchanged.
    original = json.loads((coco / "annotations/person_keypoints_train2017.json").read_text())
    for actual, expected in zip(
        evaluation.to_coco([record])["annotations"], original["annotations"], strict=True
    ):
        for name in ("image_id", "num_keypoints", "iscrowd", "bbox"):
            assert actual[name] == expected[name]
        assert actual["area"] == pytest.approx(expected["area"])
        before, after = (np.reshape(a["keypoints"], (17, 3)) for a in (expected, actual))
        np.testing.assert_array_equal(before[:, 2] > 0, after[:, 2] > 0)
        np.testing.assert_allclose(before[:, :2], after[:, :2])


def rewrite(coco, change):
    """Changes the annotation file of the training images."""
    file = coco / "annotations" / "person_keypoints_train2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("segmentation", [[], [[]], None])
def test_unlabeled_people_without_a_segmentation_are_masked_by_their_box(
    coco, tmp_path, segmentation
):
    def change(content):
        for entry in content["annotations"][1:]:
            entry["segmentation"] = segmentation
            if segmentation is None:
                del entry["segmentation"]

    rewrite(coco, change)
    prepare_scenes.prepare(str(coco), tmp_path / "data")
    record = scenes.unpack(records.Dataset(tmp_path / "data", "people").source("train")[0])
    expected = np.full((120, 100), 255, np.uint8)
    expected[70:101, 60:81] = 0
    expected[6:47, 5:36] = 0  # the crowd
    np.testing.assert_array_equal(record.mask, expected)


def test_images_of_another_size_than_stated_are_listed(coco, tmp_path):
    rewrite(coco, lambda content: content["images"][0].update(width=200, height=240))
    info = prepare_scenes.prepare(str(coco), tmp_path / "data")
    assert info["splits"]["train"]["count"] == 0
    assert "its size is not that of its annotations" in info["skipped"][0]["reason"]
    rewrite(coco, lambda content: content["images"][0].update(width=100, height=120))
    info = prepare_scenes.prepare(str(coco), tmp_path / "again")
    assert info["splits"]["train"]["count"] == 1 and not info["skipped"]


def test_annotations_of_other_categories_are_left_out(coco, tmp_path):
    dog = {"id": 9, "image_id": 0, "category_id": 18, "bbox": [1, 2, 3, 4]}

    def change(content):
        content["categories"] = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
        content["annotations"].append(dog)

    rewrite(coco, change)
    prepare_scenes.prepare(str(coco), tmp_path / "data")
    record = scenes.unpack(records.Dataset(tmp_path / "data", "people").source("train")[0])
    assert len(record.people) == 3


def test_changed_annotations_start_again(coco, tmp_path):
    """An interrupted preparation must not mix old and new key points."""
    before = prepare_scenes.prepare(str(coco), tmp_path / "a")
    rewrite(coco, lambda content: content["annotations"][0]["keypoints"].__setitem__(0, 50))
    after = prepare_scenes.prepare(str(coco), tmp_path / "b")
    assert before["annotations"] != after["annotations"]
    prepare_scenes.prepare(str(coco), tmp_path / "c", partition=shards.Partition(0, 2))
    rewrite(coco, lambda content: content["annotations"][0]["keypoints"].__setitem__(0, 60))
    with pytest.raises(UserError, match="the parts differ: annotations is"):
        prepare_scenes.prepare(str(coco), tmp_path / "c", partition=shards.Partition(1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: rewrite(f, lambda c: c["images"][1].update(id=0)),
         "several images with the id 0"),
        (lambda f: rewrite(f, lambda c: [a.update(image_id="0") for a in c["annotations"]]),
         "no image has the image_id '0'"),
        (lambda f: (f / "annotations/person_keypoints_val2017.json").write_text("{"), "not COCO"),
        (lambda f: (f / "annotations/person_keypoints_val2017.json").write_text("{}"), "not COCO"),
        (lambda f: (f / "annotations/person_keypoints_val2017.json").rename(
            f / "annotations/person_keypoints_minival.json"), "must go on with one of"),
        (lambda f: [p.unlink() for p in (f / "annotations").iterdir()], "no annotations/"),
    ],
)  # fmt: skip
def test_broken_coco_folders(coco, tmp_path, change, message):
    change(coco)
    with pytest.raises(UserError, match=message) as error:
        prepare_scenes.prepare(str(coco), tmp_path / "data")
    assert "\n" not in str(error.value)


def test_unreadable_images_are_listed(coco, tmp_path):
    (coco / "train2017" / "0.jpg").write_text("no image")
    info = prepare_scenes.prepare(str(coco), tmp_path / "data")
    assert {name: split["count"] for name, split in info["splits"].items()} == {
        "train": 0, "val": 1,
    }  # fmt: skip
    assert "0.jpg: not a readable image" in info["skipped"][0]["reason"]


def test_kinds_of_data_sets_are_distinguished(coco, tiny_data, tmp_path):
    prepare_scenes.prepare(str(coco), tmp_path / "data")
    with pytest.raises(UserError, match="holds people, not persons"):
        records.Dataset(tmp_path / "data")
    with pytest.raises(UserError, match="holds persons, not people"):
        records.Dataset(tiny_data, "people")


def test_verify_pose_data(coco, tmp_path):
    prepare_scenes.prepare(str(coco), tmp_path / "data")
    assert verify(tmp_path / "data") == (2, [])
    image, keypoints = disc_image(np.random.default_rng(0))
    good = record_of(image, keypoints)
    bad = [replace(good, image=b"no image"), replace(good, mask=np.zeros((3, 4), np.uint8))]
    writer = record_writer.RecordWriter(tmp_path / "data", "train")
    for record in (good, *bad):
        writer.add_packed(scenes.pack(record), 0, True)
    writer.close()
    path = tmp_path / "data" / "dataset.json"
    info = json.loads(path.read_text())
    info["splits"]["train"] = writer.summary(["person"])
    path.write_text(json.dumps(info))
    number, problems = verify(tmp_path / "data")
    assert number == 2 and [line.partition("train: ")[2] for line in problems] == [
        "a damaged image", "a mask of another size than its image",
    ]  # fmt: skip
