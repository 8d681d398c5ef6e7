"""Building blocks of reports: tables, confusion matrices, curves, galleries of mistakes."""

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
from jdance.report.html import Figure, Gallery, Table

_SIDE = 160  # pixels, of the images in a gallery


def percent(fraction: float | None) -> str:
    """Formats a fraction as a percentage: "84.3"."""
    return "" if fraction is None else f"{100 * fraction:.1f}"


def percent_interval(fraction: float | None, interval: Sequence[float] | None) -> str:
    """Formats a fraction with its interval as percentages: "84.3 (76.1 to 90.0)"."""
    if fraction is None or interval is None:
        return percent(fraction)
    return f"{percent(fraction)} ({percent(interval[0])} to {percent(interval[1])})"


def percent_brackets(fraction: float, interval: Sequence[float]) -> str:
    """Formats a fraction with its interval for use within parentheses: "84.3 % [76.1, 90.0]"."""
    return f"{percent(fraction)} % [{percent(interval[0])}, {percent(interval[1])}]"


def counts_table(dataset: records.Dataset, caption: str) -> Table:
    """Tabulates the number of examples by class and split."""
    splits = {name: split for name, split in dataset.info["splits"].items() if split["count"]}
    rows = [
        [name, *(str(split["per_class"].get(name, 0)) for split in splits.values())]
        for name in dataset.classes
    ]
    rows.append(["all", *(str(split["count"]) for split in splits.values())])
    rows.append(["person detected", *(str(split["people_found"]) for split in splits.values())])
    return Table(caption, ["class", *splits], rows)


def confusion_blocks(counts: np.ndarray, classes: Sequence[str], name: str) -> list:
    """Shows a confusion matrix [M, M] as a chart and as a table."""
    worst = [
        f"{classes[a]} taken for {classes[b]} {counts[a, b]} times"
        for a, b in sorted(np.argwhere(~np.eye(len(classes), dtype=bool)).tolist(),
                           key=lambda pair: -counts[pair[0], pair[1]])[:3]
        if counts[a, b]
    ]  # fmt: skip
    correct = int(counts.diagonal().sum())
    alt = f"Confusion matrix of {name}: {correct} of {int(counts.sum())} correct"
    alt += f"; {', '.join(worst)}" if worst else ""
    rows = [
        [
            classes[i],
            *(str(int(n)) for n in row),
            percent(row[i] / row.sum() if row.sum() else None),
        ]
        for i, row in enumerate(counts)
    ]
    caption = f"Confusion matrix of {name}: true classes in rows, predictions in columns"
    return [
        Figure(caption, alt, confusion(counts, classes)),
        Table(f"{caption}; the last column is the accuracy in %", ["", *classes, "accuracy"], rows),
    ]


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """Reads the rows of a run's metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); train the run again") from error


def curve(rows: Sequence[Mapping[str, float]], key: str) -> list[tuple[float, float]]:
    """Returns the points (epoch, value) of the rows with this key."""
    steps = max((row["step"] for row in rows), default=1)
    last = max((row.get("epoch", 0.0) for row in rows), default=1.0)
    return [(row["step"] / steps * last, row[key]) for row in rows if key in row]


def mistake_gallery(
    mistakes: Sequence[Mapping[str, Any]], source: Any, caption: str, limit: int = 12
) -> Gallery:
    """Shows misclassified examples as images, with their skeletons.

    Args:
        mistakes: result of `evaluation.mistakes`.
        source: packed examples of the split.
        caption: caption of the gallery.
        limit: maximum number of images.
    """
    figures = []
    for mistake in mistakes[:limit]:
        example = records.unpack(source[mistake["index"]])
        keypoints = example.keypoints
        if keypoints.ndim == 3:  # the middle frame of a sequence
            keypoints = keypoints[len(keypoints) // 2]
        side = 256
        if example.image is None and len(keypoints) != skeleton.NUM_JOINTS:
            continue  # neither an image nor a skeleton that can be drawn
        image = np.full((side, side, 3), 90, np.uint8)
        if example.image is not None:
            image = records.decode_image(example.image)
        if len(keypoints) == skeleton.NUM_JOINTS:
            image = draw.pose(image, keypoints)
        small = np.asarray(cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA))
        label = f"{mistake['true']}, taken for {mistake['guess']} ({mistake['probability']:.2f})"
        alt = f"A person with the motion {label}; from {example.source}"
        figures.append(Figure(label, alt, images.encode_jpeg(small)))
    return Gallery(caption, figures)
