"""Writes the formats that put several images into one file, from the images' results."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from jdance.data import images
from jdance.errors import UserError
from jdance.recognize.formats import Several
from jdance.recognize.stream import TrackedPerson
from jdance.recognize.writers import Clip, MotionFrame


def write(
    names: Sequence[str],
    results: Iterable[tuple[Path, Path]],
    stem: Path,
    classes: Sequence[str],
    *,
    pixels: bool,
) -> None:
    """Writes STEM with the suffix of each format.

    Args:
        names: keys of `formats.FORMATS`.
        results: the image file and the result file (JSON) of each image, in order.
        stem: path of the files without their suffix.
        classes: names of the motions.
        pixels: whether a format needs the images themselves.

    Raises:
        UserError: a result or an image cannot be read, or a file cannot be written.
    """
    results = list(results)
    clip = Clip("", None, None, classes, images=[image.name for image, _ in results])
    with closing(Several(names, stem, clip)) as writer:
        for index, (image, result) in enumerate(results):
            shown = images.read(image) if pixels else None
            writer.add(MotionFrame(index, 0.0, shown, list(_people(result)), clip))
        writer.finish([])


def _people(result: Path) -> Iterator[TrackedPerson]:
    """Yields the people of an image's result; without a whole image, which has no key points."""
    try:
        people: list[dict[str, Any]] = json.loads(result.read_bytes())["frames"][0]["people"]
        for person in people:
            if person["keypoints"] is None:
                continue
            probabilities = np.array(person["probabilities"], np.float32)
            x, y, width, height = person["box"]
            yield TrackedPerson(
                person["track"],
                np.array(person["keypoints"], np.float32),
                (x, y, width, height),
                probabilities,
                motion=person["motion"],
                confidence=float(probabilities.max()),
            )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{result}: not a result of an image ({error})") from error


def stem_name(names: Iterable[str]) -> str:
    """A name for the shared files that no result has: "images", else with underscores."""
    taken, name = {name.casefold() for name in names}, "images"
    while name in taken:
        name += "_"
    return name
