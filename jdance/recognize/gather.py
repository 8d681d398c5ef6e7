"""Writes the formats that put several images into one file, from the images' results."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jdance.data import images
from jdance.errors import UserError
from jdance.recognize import archive
from jdance.recognize.formats import FORMATS, Several
from jdance.recognize.inputs import Job, listed_kind
from jdance.recognize.ledger import Ledger, digest
from jdance.recognize.recognizer import confidence
from jdance.recognize.storage import Storage
from jdance.recognize.stream import TrackedPerson
from jdance.recognize.writers import Clip, MotionFrame
from jdance.remote.spool import Spool


def write_if_changed(
    names: Sequence[str], classes: Sequence[str], outcome: archive.Outcome,
    options: archive.Options, ledger: Ledger,
) -> archive.Outcome:  # fmt: skip
    """Writes the files that all images of an archive share, unless they are up to date.

    Args:
        names, classes: see `write`.
        outcome: of the images.
        options: with which they were recognized.
        ledger: of their results.
    """
    # Failed ones keep their positions, which are ids.
    listed = [job for job in outcome.jobs if listed_kind(job) == "image"]
    found = outcome.results
    jobs = {index: job for index, job in enumerate(listed) if job.name in found}
    image_names = [job.file_name for job in listed]
    records = digest([ledger.record_text(job) for job in jobs.values()], image_names)

    def write_all(job: Job, stem: Path) -> str:
        found = results(jobs, ledger.output, pixels="rerun" in names)
        write(names, image_names, found, stem, classes)
        return ""

    shared = Job(Path(str(ledger.output)), stem_name(job.name for job in outcome.jobs))
    own = Ledger(ledger.output, {}, names, lambda job: records)
    options = replace(
        options, run=digest(options.run, names)[:16], overwrite=False, title="writing formats"
    )
    return archive.Archive([shared], own, write_all, lambda job: 0.0, options).run()


def write(
    names: Sequence[str],
    image_names: Sequence[str],
    results: Iterable[tuple[int, bytes, np.ndarray | None]],
    stem: Path,
    classes: Sequence[str],
) -> None:
    """Writes STEM with the suffix of each format.

    Args:
        names: keys of `formats.FORMATS`.
        image_names: names of the image files, also of those without a result.
        results: index of an image in `image_names`, its result (JSON), and uint8 RGB [H, W, 3], the
            image, if a format needs it.
        stem: path of the files without their suffix.
        classes: names of the motions.

    Raises:
        UserError: a result is damaged, or a file cannot be written.
    """
    clip = Clip("", None, None, classes, images=image_names)
    with closing(Several(names, stem, clip)) as writer:
        for index, result, image in results:
            people = list(_people(result, image_names[index], classes))
            writer.add(MotionFrame(index, 0.0, image, people, clip))
        writer.finish([])


def results(
    jobs: Mapping[int, Job], output: Storage, *, pixels: bool
) -> Iterator[tuple[int, bytes, np.ndarray | None]]:
    """Yields the results of images by index and, if `pixels`, the images, for `write`.

    Raises:
        UserError: an image cannot be read.
    """
    with closing(Spool()) if pixels else nullcontext() as spool:
        for index, job in jobs.items():
            result = output.read(f"{job.name}.json") or b""
            if spool and job.is_copied:
                with spool.take(job.address, job.entry) as path:
                    yield index, result, images.read(path)
            else:
                yield index, result, images.read(job.source) if pixels else None


def _people(result: bytes, name: str, classes: Sequence[str]) -> Iterator[TrackedPerson]:
    """Yields the people of an image's result; without a whole image, which has no key points."""
    try:
        people: list[dict[str, Any]] = json.loads(result)["frames"][0]["people"]
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
                confidence=confidence(probabilities, person["motion"], classes),
            )
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{name}: its JSON is not a result of an image ({error})") from error


def stem_name(names: Iterable[str]) -> str:
    """A name for the shared files that no result has: "images", else with underscores."""
    taken, name = {name.casefold() for name in names}, "images"
    while any(Path(f"{name}{f.suffix}").stem in taken for f in FORMATS.values()):
        name += "_"
    return name
