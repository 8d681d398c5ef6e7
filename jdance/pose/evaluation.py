"""How well a pose network finds people: COCO's average precision, by COCO's own program.

Precision is averaged over ten thresholds of the object key-point similarity (OKS) between a found
person and a true one, from 0.50 to 0.95. https://cocodataset.org/#keypoints-eval
"""

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import jax
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jdance import skeleton
from jdance.data import images, people
from jdance.data.records import Shards
from jdance.errors import UserError
from jdance.pose.estimator import PoseEstimator
from jdance.pose.letterbox import letterbox, to_picture

_BATCH = 8
# Where COCOeval.summarize puts them.
_NAMES = {"AP": 0, "AP50": 1, "AP75": 2, "AR": 5}


def average_precision(
    estimator: PoseEstimator,
    source: Shards,
    process: int = 0,
    processes: int = 1,
    interleave: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
) -> dict[str, Any]:
    """AP, AP50, AP75 and AR of a pose network on packed records of `people`; n is their number.

    Args:
        estimator: the network.
        source: the records.
        process, processes: which share of the pictures this process looks at.
        interleave: from the rows [N, ...] of a share those of all shares in the pictures' order;
            the shares are filled up to one length.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    share = range(process, len(source), processes)
    for start in range(0, -(-len(source) // processes), _BATCH):
        records = [people.unpack(source[i]) for i in share[start : start + _BATCH]]
        pictures = [_decode(record) for record in records]
        squares = np.zeros((_BATCH, 368, 368, 3), np.uint8)
        sizes = np.zeros((_BATCH, 2), np.int32)
        if pictures:
            squares[: len(pictures)] = [letterbox(picture)[0] for picture in pictures]
            sizes[: len(pictures)] = [picture.shape[:2] for picture in pictures]
        result = jax.device_get(estimator(squares))
        parts.append((sizes, result.keypoints, result.valid, result.score))
    columns = (interleave(np.concatenate(column)) for column in zip(*parts, strict=True))
    found = [
        (to_picture(keypoints[valid], int(size[0]), int(size[1])), score[valid])
        for size, keypoints, valid, score in islice(zip(*columns, strict=True), len(source))
    ]
    return judge([people.unpack(source[i]) for i in range(len(source))], found)


def _decode(record: people.People) -> np.ndarray:
    image = images.decode(record.image)
    if image is None:
        raise UserError(f"{record.name}: a damaged picture; prepare the data again")
    return image


def judge(
    truth: Sequence[people.People], found: Iterable[tuple[np.ndarray, np.ndarray]]
) -> dict[str, Any]:
    """AP, AP50, AP75 and AR, and n, the number of pictures.

    Args:
        truth: the true people of each picture.
        found: for each picture the found people, float [N, 18, 3] in its pixels, and their
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


def to_coco(records: Sequence[people.People]) -> dict[str, Any]:
    """The content of a COCO key-point annotation file; pictures are numbered from 0."""
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
