"""Writes the formats that put several images into one file, from the images' results."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jdance import files
from jdance.data import images
from jdance.errors import UserError
from jdance.recognize import archive
from jdance.recognize.formats import Several
from jdance.recognize.inputs import Job, kind
from jdance.recognize.ledger import Ledger, digest
from jdance.recognize.stream import TrackedPerson
from jdance.recognize.writers import Clip, MotionFrame


def write_if_changed(
    names: Sequence[str], classes: Sequence[str], dependencies: dict[str, Any],
    outcome: archive.Outcome, options: archive.Options, ledger: Ledger,
) -> archive.Outcome:  # fmt: skip
    """Writes the files that all images of an archive share, unless they are up to date.

    Args:
        names, classes: see `write`.
        dependencies, ledger: of the images' results.
        outcome: of the images.
        options: with which they were recognized.
    """
    found = outcome.results
    jobs = [j for j in outcome.jobs if j.name in found and kind(j.source) == "image"]
    records = digest([ledger.record_text(job) for job in jobs])
    results = [(j.source, files.with_suffix(ledger.output / j.name, ".json")) for j in jobs]

    def write_all(job: Job, stem: Path) -> str:
        write(names, results, stem, classes, pixels="rerun" in names)
        return ""

    shared = Job(ledger.output, stem_name(job.name for job in outcome.jobs))
    own = Ledger(ledger.output, dependencies, names, lambda job: records)
    options = replace(
        options, run=digest(options.run, names)[:16], overwrite=False, title="writing formats"
    )
    return archive.Archive([shared], own, write_all, lambda job: 0.0, options).run()


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
