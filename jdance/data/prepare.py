"""From labelled images to a data set: people found, crops cut, examples written."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jdance import files, lock, skeleton
from jdance.data import crop, images, records, shards, splits
from jdance.data.sources import SPLITS, Loaded, LabeledPerson, Item, Source
from jdance.data.videos import DamagedVideo
from jdance.data.workers import load_all
from jdance.errors import UserError
from jdance.progress import Progress, counted

_FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}

# uint8 RGB [H, W, 3] -> people float32 [N, 18, 3], from left to right.
Estimator = Callable[[np.ndarray], np.ndarray]


def prepare(
    source: Source,
    output: Path,
    estimator: Estimator | None,
    *,
    pose: str = "",
    fractions: Mapping[str, float] | None = None,
    seed: int = 0,
    workers: int = 0,
    also_whole: bool = False,
    min_joints: int = 4,
    split_by: str = "video",
    partition: shards.Partition = shards.Partition(),  # noqa: B008 (immutable)
) -> dict[str, Any]:
    """Writes a data set (see `records`) and returns its description, as in dataset.json.

    One of several processes writes its share of the data set and describes that, unless it is the
    last to finish: then it completes the data set.

    An image in which nobody is found is kept: the whole image (or the labelled box) is the crop,
    and all key points are missing. Images that cannot be used are listed under "skipped", labels
    with a box that nobody who was found overlaps by more than 0.1 under "unmatched".

    Args:
        source: what to prepare.
        output: a new or empty folder, or one in which a run of this was interrupted.
        estimator: finds people; None where the source knows the key points itself.
        pose: the estimator's name, for the description.
        fractions: share of each split for images that come without one; 80, 10, 10 % by default.
        seed: of the splits.
        workers: processes that read or draw images; 0: this one.
        also_whole: every training image with people also becomes an example as if nobody had
            been found, so that the network learns what to do then. For images of one person.
        min_joints: that a person in key-point files must have to count as found.
        split_by: "video" draws whole groups, "frame" single images whatever their group (as the
            paper does: frames of one video are then in train and in test). Images that come with
            a split keep it.
        share: the part of the images that this process takes; splits are drawn from all.

    Raises:
        UserError: the folder is in use, or not one image could be used.
    """
    with claimed(output, partition) as place:
        if isinstance(place, dict):
            return place
        info = _write(
            source, output, estimator, pose, fractions or _FRACTIONS, seed, workers, also_whole,
            min_joints, split_by, partition,
        )  # fmt: skip
        return finish(place, info, partition)


def _write(
    source: Source,
    output: Path,
    estimator: Estimator | None,
    pose: str,
    fractions: Mapping[str, float],
    seed: int,
    workers: int,
    also_whole: bool,
    min_joints: int,
    split_by: str,
    partition: shards.Partition,
) -> dict[str, Any]:
    """Writes the shards of a share and returns their description; see `prepare`."""
    skipped = [(images.printable(name), reason) for name, reason in source.skipped]
    items = _with_enough(source.items, skipped)
    items = _with_splits(items, fractions, seed, split_by)
    labels = {person.label for item in items for person in item.people}
    classes = [name for name in source.classes if name in labels]
    names = [n for n in SPLITS if any(p.split == n for p in items)]
    names += sorted({p.split for p in items if p.split} - set(SPLITS))
    writers = {name: records.RecordWriter(output, name, partition.prefix) for name in names}
    items = items[partition.process :: partition.processes]

    unmatched: list[str] = []
    copies = Counter[str]()
    progress = Progress("preparing", len(items))
    everything = load_all([item.load for item in items], workers)
    for done, (item, loaded) in enumerate(zip(items, everything, strict=True), start=1):
        assert item.split is not None
        try:
            found = list(examples(item, loaded, estimator, classes, min_joints))
            seen = any(example.keypoints.any() for example in found)
            whole = also_whole and item.split == "train" and seen
            unmatched += [
                images.printable(f"{item.name}, box {','.join(f'{n:g}' for n in person.box)}")
                for person in item.people
                if person.box and not seen
            ]
            if whole and not isinstance(loaded, UserError) and loaded.image is not None:
                again = list(examples(item, loaded._replace(found=None), _nobody, classes))
                copies[item.split] += len(again)
                found += again
        except UserError as error:
            entry = (images.printable(item.name), images.printable(str(error)))
            if isinstance(error, DamagedVideo):  # once for all of a video's frames
                entry = (images.printable(item.group), entry[1])
            if entry not in skipped:
                skipped.append(entry)
            found = []
        for example in found:
            writers[item.split].add(example)
        progress.update(done)
    for writer in writers.values():
        writer.close()
    return {
        "version": records.VERSION,
        "kind": "persons",
        "source": images.printable(source.name),
        "classes": classes,
        "layout": source.layout,
        "sequences": source.sequences,
        "pose": pose,
        "seed": seed,
        "splits": {
            name: writer.summary(classes) | {"whole_copies": copies[name]}
            for name, writer in writers.items()
        },
        "skipped": [{"file": name, "reason": reason} for name, reason in skipped],
        "unmatched": unmatched,
    }


def summary(info: Mapping[str, Any], complete: bool = True) -> list[str]:
    """What a user should know of a prepared data set, or of a share of one, in lines."""
    lines = []
    for name, split in info["splits"].items():
        copies = split.get("whole_copies", 0)
        examples = counted(split["count"] - copies, "example")
        line = f"{name}: {examples}, people found in {split['people_found']}"
        lines.append(line + f"; {copies} again as if nobody had been found" * bool(copies))
    for name in SPLITS:
        if name not in info["splits"]:
            lines.append(f"note: no split {name!r} (there are {', '.join(info['splits'])})")
    for name in ("train", "test") if complete else ():
        counts = info["splits"].get(name, {"per_class": {}})["per_class"]
        lines += [f"note: no example of class {c!r} in {name}" for c, n in counts.items() if not n]
    if unmatched := info.get("unmatched", []):
        lines.append(
            f"note: nobody was found in the box of {counted(len(unmatched), 'label')} (no overlap "
            "above 0.1), kept without key points:"
        )
        lines += [f"note: nobody in {name}" for name in unmatched]
    return lines


@contextmanager
def claimed(output: Path, partition: shards.Partition) -> Iterator[Path | dict[str, Any]]:
    """Makes the folder ours while the block runs; another process cannot write to it then.

    Yields:
        What marks it as unfinished, for `finish`; or the description, where this process's share
        of the work is done already.

    Raises:
        UserError: the folder is in use.
    """
    with lock.held(output, name=f"{partition.prefix}{shards.LOCK}", flag="--output"):
        if partition.processes > 1:
            yield shards.claim(output, partition) or output
        else:
            yield _claim(output)


def _claim(output: Path) -> Path:
    """What marks the folder as unfinished, once it is certain that it is ours."""
    marker = output / "dataset.json.partial"
    try:
        output.mkdir(parents=True, exist_ok=True)
        if (output / "dataset.json").exists():
            raise UserError(
                f"{output}: holds a data set already; remove it or choose another --output"
            )
        if marker.exists():
            for leftover in output.glob("*.array_record"):
                leftover.unlink()
        elif any(path.name != shards.LOCK for path in output.iterdir()):
            raise UserError(f"{output}: is not empty; choose another --output")
        marker.touch()
    except OSError as error:
        raise UserError(f"{output}: cannot be written to ({error.strerror})") from error
    return marker


def finish(place: Path, info: dict[str, Any], partition: shards.Partition) -> dict[str, Any]:
    """Writes dataset.json, last and at once: a folder that has it is complete.

    Returns:
        The description of the data set, or of this share where others are not done yet.

    Raises:
        UserError: not one image could be used.
    """
    if partition.processes > 1:
        info = shards.finish(place, partition, info)
        complete = (place / "dataset.json").exists()
    else:
        complete = True
    if complete and not any(split["count"] for split in info["splits"].values()):
        reasons = [f"{entry['file']}: {entry['reason']}" for entry in info["skipped"][:1]]
        raise UserError(
            "not one image could be used; the first, "
            + (*reasons, "none has anybody to learn from")[0]
        )
    if partition.processes == 1:
        files.atomic_write(place.with_name("dataset.json"), json.dumps(info, indent=2) + "\n")
    return info


def _with_enough(items: list[Item], skipped: list[tuple[str, str]]) -> list[Item]:
    """Leaves out classes of a single example, which cannot be both learned and judged."""
    counts = Counter(person.label for item in items for person in item.people)
    lonely = {label for label, count in counts.items() if count < 2}
    for item in items:
        for person in item.people:
            if person.label in lonely:
                reason = f"the only example of class {person.label!r}; add more or remove it"
                skipped.append((item.name, reason))
    return [p for p in items if not lonely & {person.label for person in p.people}]


def _with_splits(
    items: list[Item], fractions: Mapping[str, float], seed: int, by: str
) -> list[Item]:
    if by == "frame":
        alone = [replace(p, group=str(i)) for i, p in enumerate(items)]
        drawn_alone = _with_splits(alone, fractions, seed, "video")
        return [replace(p, split=d.split) for p, d in zip(items, drawn_alone, strict=True)]
    # A group that has a split keeps it as a whole; only the others are drawn.
    known: dict[str, str] = {}
    for item in items:
        if item.split and known.setdefault(item.group, item.split) != item.split:
            raise UserError(
                f"{item.name}: its group {item.group!r} is in the splits "
                f"{known[item.group]!r} and {item.split!r}; a group cannot be divided"
            )
    items = [replace(item, split=known.get(item.group)) for item in items]
    open_ones = [item for item in items if item.split is None]
    drawn = iter(
        splits.draw(
            [p.people[0].label for p in open_ones], [p.group for p in open_ones], fractions, seed
        )
    )
    return [replace(p, split=next(drawn)) if p.split is None else p for p in items]


def _nobody(image: np.ndarray) -> np.ndarray:
    """The estimator that never finds anybody."""
    return np.zeros((0, skeleton.NUM_JOINTS, 3), np.float32)


def examples(
    item: Item,
    loaded: Loaded | UserError,
    estimator: Estimator | None,
    classes: list[str],
    min_joints: int = 4,
) -> Iterator[records.Example]:
    """The examples of one image, a person each.

    Raises:
        UserError: the image could not be read, or nothing can tell who is in it.
    """
    if isinstance(loaded, UserError):
        raise loaded
    image, known, found = loaded
    if found is not None:
        found = found[skeleton.is_present(found).sum(-1) >= min_joints]
    elif estimator is not None and image is not None:
        found = estimator(image)
    elif known is None:
        raise UserError("key points are not known; choose a pose network with --pose")
    if image is None and found is not None and not len(found):
        raise UserError(f"nobody with at least {min_joints} joints in it")
    for i, person in enumerate(item.people):
        example = partial(
            records.Example,
            label=classes.index(person.label),
            group=images.printable(item.group),
            source=images.printable(item.name),
        )
        if image is None and known is not None:  # a bare skeleton, in whatever unit
            yield example(crop.fit(known[i]))
            continue
        size = image.shape[:2] if image is not None else (0, 0)
        chosen = _choose(person, None if known is None else known[i], found, *size)
        for number, keypoints, square in chosen:
            if image is None:
                yield example(crop.fit(keypoints), person=number)
                continue
            square = square or crop.whole(*image.shape[:2])
            image_of_people = images.encode_jpeg(crop.cut(image, square))
            yield example(crop.into(keypoints, square), image=image_of_people, person=number)


_Choice = tuple[int, np.ndarray, crop.Square | None]


def _choose(
    person: LabeledPerson,
    known: np.ndarray | None,
    found: np.ndarray | None,
    height: int,
    width: int,
) -> list[_Choice]:
    """Whom in an image a label is for: (number, key points, square), one or several.

    Raises:
        UserError: the label is for somebody whom the image cannot show.
    """
    nobody = np.zeros((skeleton.NUM_JOINTS, 3), np.float32)
    if found is None:
        assert known is not None
        return [(0, known, crop.around(known) if known.any() else None)]
    people = [(i, keypoints, crop.around(keypoints)) for i, keypoints in enumerate(found)]
    box = person.box
    if known is not None:
        if not known.any():
            return [(0, nobody, None)]
        x, y, across, down = crop.tight_box(known)
        box = (x, y, max(across, 1.0), max(down, 1.0))  # a single joint is a place, too
    if person.everybody:
        return list(people) or [(0, nobody, None)]
    if box is not None:
        if box[2] * box[3] <= 0 or not _overlap(box, (0.0, 0.0, float(width), float(height))):
            raise UserError(f"the box {box} lies outside the image, {width} x {height} pixels")
        overlaps = [_overlap(box, crop.tight_box(keypoints)) for keypoints in found]
        if overlaps and max(overlaps) > 0.1:
            return [people[int(np.argmax(overlaps))]]
        corners = np.array([[*box[:2], 1], [box[0] + box[2], box[1] + box[3], 1]], np.float32)
        return [(0, nobody, crop.around(corners))]
    if person.index is not None:
        if found is not None and len(people) and person.index >= len(people):
            raise UserError(
                f"the label is for person {person.index}, counted from 0, but {len(people)} "
                "were found; correct the number or name a box"
            )
        return [people[person.index]] if people else [(0, nobody, None)]
    if not people:
        return [(0, nobody, None)]
    return [people[crop.largest(found)]]


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes x, y, width, height."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / max(a[2] * a[3] + b[2] * b[3] - shared, 1e-9)
