"""How well a pose network finds people: COCO's average precision, by COCO's own program.

Precision is averaged over ten thresholds of the object key-point similarity (OKS) between a found
person and a true one, from 0.50 to 0.95. https://cocodataset.org/#keypoints-eval
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

_BATCH = 8  # images per device of an accelerator; on a CPU, of all its devices together
# Where COCOeval.summarize puts them.
_NAMES = {"AP": 0, "AP50": 1, "AP75": 2, "AR": 5}


def average_precision(
    estimator: Callable[[np.ndarray], People],
    source: Shards,
    process: int = 0,
    processes: int = 1,
    interleave: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
    input_size: int = INPUT_SIZE,
) -> dict[str, Any]:
    """AP, AP50, AP75 and AR of a pose network on packed records of `people`; n is their number.

    Images are read in batches, each once; only annotations and detections are kept.

    Args:
        estimator: the network, such as `PoseEstimator.on_all_devices` returns it.
        source: the records.
        process, processes: which shard of the images this process evaluates.
        interleave: from the rows [N, ...] of a shard those of all shards in the images' order;
            the shards are padded to one length.
        input_size: side of the squares that the estimator is given.
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
    found = [
        (to_image(keypoints[valid], int(shape[0]), int(shape[1]), input_size), score[valid])
        for shape, keypoints, valid, score in islice(zip(*rows, strict=True), len(source))
    ]
    deque(own, maxlen=0)  # the annotations of the last images, which are of other shards
    return coco_metrics(truth, found)


def _batch_size() -> int:
    devices = jax.local_device_count()
    return devices * (max(1, _BATCH // devices) if jax.default_backend() == "cpu" else _BATCH)


def _own_images(
    source: Shards, process: int, processes: int, truth: list[scenes.SceneRecord]
) -> Iterator[np.ndarray]:
    """The images of this process, uint8 RGB; appends the annotations of all records to `truth`."""
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
    truth: Sequence[scenes.SceneRecord], found: Iterable[tuple[np.ndarray, np.ndarray]]
) -> dict[str, Any]:
    """AP, AP50, AP75 and AR, and n, the number of images.

    Args:
        truth: the true people of each image.
        found: for each image the found people, float [N, 18, 3] in its pixels, and their
            scores [N].
    """
    with contextlib.redirect_stdout(io.StringIO()):  # it reports every move it makes
        dataset = COCO()
        dataset.dataset = to_coco(truth)
        dataset.createIndex()
        results = [
            {
                "image_id": number,
                "category_id": 1,
                "keypoints": skeleton.to_coco17(person).ravel().tolist(),
                "score": float(score),
            }
            for number, (keypoints, scores) in enumerate(found)
            for person, score in zip(keypoints, scores, strict=True)
        ]
        if not results:
            return {**dict.fromkeys(_NAMES, 0.0), "n": len(truth)}
        evaluation = COCOeval(dataset, dataset.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {**{name: float(evaluation.stats[i]) for name, i in _NAMES.items()}, "n": len(truth)}


def to_coco(records: Sequence[scenes.SceneRecord]) -> dict[str, Any]:
    """The content of a COCO key-point annotation file; images are numbered from 0."""
    annotations: list[dict[str, Any]] = []
    for number, record in enumerate(records):
        for person, box, area, crowd in zip(
            record.people, record.boxes, record.areas, record.crowd, strict=True
        ):
            joints = skeleton.to_coco17(person) * [1, 1, 2]  # 2: labelled and in sight
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "keypoints": joints.ravel().tolist(),
                    "num_keypoints": int((joints[:, 2] > 0).sum()),
                    "bbox": box.tolist(),
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
            )
    return {
        "info": {},  # which pycocotools before 2.0.11 want to see
        "images": [{"id": i, "file_name": record.name} for i, record in enumerate(records)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": annotations,
    }
