"""Verifies all checksums and records of a data set."""

from pathlib import Path

import numpy as np

from jdance.data import images, records, scenes
from jdance.errors import UserError


def verify(folder: str | Path) -> tuple[int, list[str]]:
    """Reads a whole data set.

    Returns:
        The number of valid examples, and a message per damaged shard or example.

    Raises:
        UserError: the folder has no data set.
    """
    dataset = records.Dataset(folder, kind="")
    damaged = dict(dataset.find_damage(trust_marks=False))
    problems = list(damaged.values())
    check = _check_scene if dataset.info["kind"] == "people" else _check_crop
    good = 0
    for split, part in dataset.info["splits"].items():
        if not part["count"] or damaged.keys() & {*part["shards"], *part.get("index", [])}:
            continue
        source = dataset.source(split)
        for i in range(len(source)):
            try:
                check(source[i])
                good += 1
            except UserError as error:
                problems.append(f"{folder}: example {i} of {split}: {error}")
    return good, problems


def _check_crop(data: bytes) -> None:
    example = records.unpack(data)
    if example.image is not None:
        records.decode_image(example.image)


def _check_scene(data: bytes) -> None:
    scene = scenes.unpack(data)
    image = images.decode(scene.image)
    if image is None:
        raise UserError("a damaged image")
    if scene.mask is not None and np.shape(scene.mask) != image.shape[:2]:
        raise UserError("a mask of another size than its image")
