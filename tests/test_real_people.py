"""Average precision and detections of the published pose networks on real images.

pytest -m slow tests/test_real_people.py -s prints the figures; minutes on two cores.
"""

import json
from functools import cache

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from jdance import skeleton
from jdance.data import images
from jdance.data.scenes import SceneRecord
from jdance.pose import PoseEstimator, evaluation
from jdance.pose.letterbox import letterbox, to_image
from jdance.recognize.recognizer import DECODE
from jdance.stagedance import backdrop

FILES = {
    "mobilenet_v2_small": "pose/mobilenet_v2_small.pb",
    "hpe0001": "pose/hpe0001/human-pose-estimation-0001.xml",
    "movenet_multipose": "pose/movenet_multipose/movenet-multipose.json",
}


def load(real_data, name, size=0, view_names=()):
    return PoseEstimator.load(real_data(FILES[name]), DECODE, size=size, view_names=view_names)


def coco(folder):
    """The images and annotated people of a COCO annotation file."""
    content = json.loads((folder / "person_keypoints.json").read_text())
    loaded, truth = [], []
    for image in content["images"]:
        own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        joints = np.array([a["keypoints"] for a in own], np.float32).reshape(-1, 17, 3)
        truth.append(
            SceneRecord(
                b"",
                skeleton.to_coco18(joints),
                np.array([a["bbox"] for a in own], np.float32).reshape(-1, 4),
                np.array([a["area"] for a in own], np.float32),
                np.array([a["iscrowd"] for a in own], bool),
                None,
                image["file_name"],
            )
        )
        loaded.append(images.read(folder / "images" / image["file_name"]))
    return loaded, truth


def detect(estimator, image):
    """The people [N, 18, 3] in pixels of an image, and their scores [N]."""
    found = estimator(letterbox(image, estimator.size)[0][None])
    valid = np.asarray(found.valid[0])
    people = np.asarray(found.keypoints[0])[valid]
    return to_image(people, *image.shape[:2], size=estimator.size), found.score[0][valid]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "view_names", "minimum"),
    [
        ("hpe0001", 368, (), 0.31),
        ("hpe0001", 512, (), 0.36),
        ("movenet_multipose", 384, (), 0.30),
        ("movenet_multipose", 384, ("flip",), 0.30),
        ("hpe0001", 512, ("flip",), 0.36),
    ],
)
def test_average_precision_on_coco(real_data, name, size, view_names, minimum):
    photos, truth = coco(real_data("photos/coco"))
    estimator = load(real_data, name, size, view_names)
    result = evaluation.coco_metrics(truth, [detect(estimator, image) for image in photos])
    print(f"{name}, {size}, {view_names}: {result}")
    assert result["AP"] >= minimum


@cache
def downdogs(folder):
    """The first 24 images without near duplicates."""
    rows = [line.split(",") for line in (folder / "manifest.csv").read_text().split()[1:]]
    chosen = [row[0] for row in rows if row[1] == "downdog" and row[3] == "0"]
    return [images.read(folder / name) for name in chosen[:24]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "view_names", "minimum"),
    [("movenet_multipose", 384, (), 22), ("hpe0001", 368, ("rot180",), 16)],
)
def test_inverted_people(real_data, name, size, view_names, minimum):
    estimator = load(real_data, name, size, view_names)
    counts = [len(detect(estimator, image)[0]) for image in downdogs(real_data("photos/yoga5"))]
    print(f"{name}, {size}, {view_names}: people {counts}")
    assert np.count_nonzero(counts) >= minimum


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hpe0001", "movenet_multipose"])
def test_images_without_people(real_data, name):
    """Empty stages, landscapes, flowers, noise and a gradient: hardly any false detections."""
    rng = np.random.default_rng(0)
    stages = [
        backdrop.random_stage(np.random.default_rng(seed), 3, (640, 480)) for seed in range(8)
    ]
    empty = [stage.backdrop for stage in stages if stage.kind != "arena"]  # it has an audience
    for photo in load_sample_images().images:
        height, width = photo.shape[0] // 2, photo.shape[1] // 2
        empty.append(photo)
        for y, x in np.ndindex(2, 2):
            empty.append(photo[y * height :, x * width :][:height, :width])
    empty.append(rng.integers(0, 256, (400, 500, 3), np.uint8))
    empty.append(np.broadcast_to(np.arange(500) // 2, (3, 400, 500)).transpose(1, 2, 0))
    estimator = load(real_data, name)
    counts = [len(estimator.people(np.ascontiguousarray(x, np.uint8))) for x in empty]
    print(f"{name}: false people {counts}")
    assert len(empty) >= 19 and sum(counts) <= 2
