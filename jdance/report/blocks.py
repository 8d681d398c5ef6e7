"""The parts that reports of one run and of a whole comparison share."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from jdance import skeleton
from jdance.data import images, records
from jdance.errors import UserError
from jdance.report import draw
from jdance.report.charts import confusion
from jdance.report.html import Gallery, Figure, Table

_SIDE = 160  # pixels of small images


def interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share among `count` examples (Wilson, 1927)."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count)
    half *= float(np.sqrt(share * (1 - share) / count + z * z / (4 * count * count)))
    return max(0.0, middle - half), min(1.0, middle + half)


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def percent_interval(share: float | None, count: int) -> str:
    """ "84.3 (76.1 to 90.0)"."""
    if share is None or not count:
        return ""
    low, high = interval(share, count)
    return f"{100 * share:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def counts_table(dataset: records.Dataset, caption: str) -> Table:
    """How many examples of each class each split has."""
    splits = {name: part for name, part in dataset.info["splits"].items() if part["count"]}
    rows = [
        [name, *(str(part["per_class"].get(name, 0)) for part in splits.values())]
        for name in dataset.classes
    ]
    rows.append(["all", *(str(part["count"]) for part in splits.values())])
    rows.append(["somebody found in", *(str(part["people_found"]) for part in splits.values())])
    return Table(caption, ["class", *splits], rows)


def confusion_blocks(counts: np.ndarray, classes: Sequence[str], name: str) -> list:
    """A confusion matrix [M, M] as an image and as numbers."""
    worst = [
        f"{classes[a]} taken for {classes[b]} {counts[a, b]} times"
        for a, b in sorted(np.argwhere(~np.eye(len(classes), dtype=bool)).tolist(),
                           key=lambda pair: -counts[pair[0], pair[1]])[:3]
        if counts[a, b]
    ]  # fmt: skip
    right = int(counts.diagonal().sum())
    alt = f"Confusion matrix of {name}: {right} of {int(counts.sum())} right"
    alt += f"; {', '.join(worst)}" if worst else ""
    rows = [
        [
            classes[i],
            *(str(int(n)) for n in row),
            percent(row[i] / row.sum() if row.sum() else None),
        ]
        for i, row in enumerate(counts)
    ]
    caption = f"Confusion of {name}: true class down, guess across"
    return [
        Figure(caption, alt, confusion(counts, classes)),
        Table(f"{caption}; the last column is the accuracy in %", ["", *classes, "right"], rows),
    ]


def metrics(workdir: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); train the run again") from error


def curve(rows: Sequence[Mapping[str, float]], key: str) -> list[tuple[float, float]]:
    """Points (epoch, value) of the rows that have the value."""
    steps = max((row["step"] for row in rows), default=1)
    last = max((row.get("epoch", 0.0) for row in rows), default=1.0)
    return [(row["step"] / steps * last, row[key]) for row in rows if key in row]


def mistakes(
    found: Sequence[Mapping[str, Any]], source: Any, caption: str, limit: int = 12
) -> Gallery:
    """Misclassified examples as images, with their skeletons.

    Args:
        found: the `mistakes` of an evaluation, see `evaluation.mistakes`.
        source: packed examples of the split.
        caption: of all.
        limit: how many to show.
    """
    figures = []
    for mistake in found[:limit]:
        example = records.unpack(source[mistake["index"]])
        keypoints = example.keypoints
        if keypoints.ndim == 3:  # of a sequence the middle
            keypoints = keypoints[len(keypoints) // 2]
        side = 256
        if example.image is None and len(keypoints) != skeleton.NUM_JOINTS:
            continue  # there is nothing to draw
        image = np.full((side, side, 3), 90, np.uint8)
        if example.image is not None:
            image = records.decode_image(example.image)
        if len(keypoints) == skeleton.NUM_JOINTS:
            image = draw.skeleton_of(image, keypoints)
        small = np.asarray(cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA))
        said = f"{mistake['true']}, taken for {mistake['guess']} ({mistake['probability']:.2f})"
        alt = f"A person whose motion is {said}; from {example.source}"
        figures.append(Figure(said, alt, images.encode_jpeg(small)))
    return Gallery(caption, figures)
