"""COCO's average precision of a pose network, computed by pycocotools.

Averaged over ten thresholds (0.50 to 0.95) of the object keypoint similarity (OKS) between detected
and annotated people. https://cocodataset.org/#keypoints-eval
"""

import contextlib
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import jax
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jdance import skeleton
from jdance.data import images, scenes
from jdance.data.records import Shards
from jdance.errors import UserError
from jdance.pose.decode import People
from jdance.pose.letterbox import INPUT_SIZE, letterbox, to_image

_BATCH = 8  # images per GPU or TPU; on the CPU, images of all devices together
# Indices in COCOeval.stats.
_STATS = {"AP": 0, "AP50": 1, "AP75": 2, "AR": 5}


def average_precision(
    estimator: Callable[[np.ndarray], People],
    source: Shards,
    process: int = 0,
    processes: int = 1,
    interleave: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
    input_size: int = INPUT_SIZE,
) -> dict[str, Any]:
    """Computes AP, AP50, AP75, AR and n, the number of images, on packed `SceneRecord`s.

    Images are read once, in batches; only annotations and detections are kept in memory.

    Args:
        estimator: for example `PoseEstimator.on_all_devices()`.
        source: the records.
        process, processes: this process evaluates the images process, process + processes, ...
        interleave: gathers the rows [N, ...] of all processes in the order of the images; shards
            are padded to equal length.
        input_size: side of the letterboxed images in pixels.
    """
    size, truth = _batch_size(), list[scenes.SceneRecord]()
    own = _own_images(source, process, processes, truth)
    columns: list[tuple[np.ndarray, ...]] = []
    for _ in range(0, -(-len(source) // processes), size):
        squares = np.zeros((size, input_size, input_size, 3), np.uint8)
        sizes = np.zeros((size, 2), np.int32)
        for row, image in enumerate(islice(own, size)):
            squares[row], sizes[row] = letterbox(image, input_size)[0], image.shape[:2]
        result = jax.device_get(estimator(squares))
        columns.append((sizes, result.keypoints, result.valid, result.score))
    rows = (interleave(np.concatenate(column)) for column in zip(*columns, strict=True))
    detected = [
        (to_image(keypoints[valid], int(shape[0]), int(shape[1]), input_size), score[valid])
        for shape, keypoints, valid, score in islice(zip(*rows, strict=True), len(source))
    ]
    deque(own, maxlen=0)  # reads the annotations after this shard's last image
    return coco_metrics(truth, detected)


def _batch_size() -> int:
    devices = jax.local_device_count()
    return devices * (max(1, _BATCH // devices) if jax.default_backend() == "cpu" else _BATCH)


def _own_images(
    source: Shards, process: int, processes: int, truth: list[scenes.SceneRecord]
) -> Iterator[np.ndarray]:
    """Yields this process's images, uint8 RGB; appends all records' annotations to `truth`."""
    for index in range(len(source)):
        record = scenes.unpack(source[index])
        truth.append(replace(record, image=b"", mask=None))
        if index % processes == process:
            yield _decode(record)


def _decode(record: scenes.SceneRecord) -> np.ndarray:
    image = images.decode(record.image)
    if image is None:
        raise UserError(f"{record.name}: a damaged image; prepare the data again")
    return image


def coco_metrics(
    truth: Sequence[scenes.SceneRecord], detected: Iterable[tuple[np.ndarray, np.ndarray]]
) -> dict[str, Any]:
    """Computes AP, AP50, AP75, AR and n, the number of images.

    Args:
        truth: annotations of each image.
        detected: for each image people float [N, 18, 3] in pixels, and their scores [N].
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        dataset = COCO()
        dataset.dataset = to_coco(truth)
        dataset.createIndex()
        results = [
            coco_result(image_id, person, float(score))
            for image_id, (keypoints, scores) in enumerate(detected)
            for person, score in zip(keypoints, scores, strict=True)
        ]
        if not results:
            return {**dict.fromkeys(_STATS, 0.0), "n": len(truth)}
        evaluation = COCOeval(dataset, dataset.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {**{name: float(evaluation.stats[i]) for name, i in _STATS.items()}, "n": len(truth)}


def coco_result(image_id: int, keypoints: np.ndarray, score: float) -> dict[str, Any]:
    """An entry of COCO's results for a person [18, 3] in pixels, with scores as third values."""
    return {
        "image_id": image_id,
        "category_id": 1,
        "keypoints": skeleton.to_coco17(keypoints).ravel().tolist(),
        "score": score,
    }


def to_coco(records: Sequence[scenes.SceneRecord]) -> dict[str, Any]:
    """The content of a COCO key-point annotation file, with image ids from 0."""
    annotations: list[dict[str, Any]] = []
    for image_id, record in enumerate(records):
        for person, box, area, crowd in zip(
            record.people, record.boxes, record.areas, record.crowd, strict=True
        ):
            joints = skeleton.to_coco17(person) * [1, 1, 2]  # 2: labeled and visible
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "keypoints": joints.ravel().tolist(),
                    "num_keypoints": int((joints[:, 2] > 0).sum()),
                    "bbox": box.tolist(),
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
            )
    return {
        "info": {},  # required by pycocotools before 2.0.11
        "images": [{"id": i, "file_name": record.name} for i, record in enumerate(records)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": annotations,
    }
