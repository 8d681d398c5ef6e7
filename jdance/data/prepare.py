"""Prepares data sets: detects people, crops them, and writes examples."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from jdance import files, skeleton
from jdance.data import crop, images, openpose_json, record_writer, records, shards, splits
from jdance.data.items import Given, Item, LabeledPerson, Loaded, ReadsFiles, Source
from jdance.data.videos import DamagedVideo
from jdance.data.workers import load_all
from jdance.errors import UserError
from jdance.progress import Progress, counted

MIN_OVERLAP = 0.1  # of a person and the box of a label
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
    settings: str = "",
    partition: shards.Partition = shards.Partition(),  # noqa: B008 (immutable)
) -> dict[str, Any]:
    """Writes a data set (see `records`) and returns its description, as in dataset.json.

    Images without detected people are kept: the crop is the whole image (or the labeled box) and
    all key points are missing. Unusable images are listed under "skipped". Labels with a box are
    listed under "unmatched" if no detected person overlaps it by more than 0.1.

    Args:
        source: what to prepare.
        output: a new or empty folder, or that of an interrupted run with the same arguments.
        estimator: detects people; None if the source has key points.
        pose: name of the estimator, for the description.
        fractions: size of each split, for items without one; by default 80, 10 and 10 %.
        seed: of the splits.
        workers: number of processes that read or render images; 0 uses this process.
        also_whole: adds a copy of each training image with people as if none were detected. For
            images of one person.
        min_joints: minimum number of joints of people in key-point files.
        split_by: "video" draws splits for whole groups, "frame" for single images (as the paper
            does, which leaks frames of one video into all splits).
        settings: of source and estimator, such as the size of its images. An interrupted run with
            the same items, unchanged files, arguments and settings is continued after its last
            finished shard.
        partition: the part of the items to process; splits are drawn from all of them.

    Returns:
        The description of the data set, or of this partition if others are not finished.

    Raises:
        UserError: the folder is in use, or no image could be used.
    """
    with shards.output_folder(output, partition) as finished:
        if finished is not None:
            return finished
        skipped = [(images.printable(name), reason) for name, reason in source.skipped]
        items = _drop_single_examples(source.items, skipped)
        items = _assign_splits(items, fractions or _FRACTIONS, seed, split_by)
        labels = {person.label for item in items for person in item.people}
        classes = [name for name in source.classes if name in labels]
        names = {item.split for item in items if item.split}
        ordered = [name for name in splits.SPLITS if name in names]
        ordered += sorted(names - set(splits.SPLITS))
        arguments = pose, settings, seed, also_whole, min_joints, classes, source.name
        plan = _digest(items, arguments)
        items = items[partition.process :: partition.processes]

        journaled = f"{plan} {_versions(items)}"
        with record_writer.open_writers(output, ordered, partition.prefix, journaled) as writers:
            todo = [
                (number, item)
                for number, item in enumerate(items)
                if number >= writers[item.split or ""].first_item
            ]
            progress = Progress("preparing", len(todo))
            results = load_all([item.load for _, item in todo], workers)
            pairs = zip(todo, results, strict=True)
            for done, ((number, item), loaded) in enumerate(pairs, start=1):
                assert item.split is not None
                note: dict[str, Any] = {}
                try:
                    if isinstance(loaded, UserError):
                        raise loaded
                    found = list(make_examples(item, loaded, estimator, classes, min_joints))
                    detected = any(example.keypoints.any() for example in found)
                    if not detected:
                        boxes = [",".join(f"{n:g}" for n in p.box) for p in item.people if p.box]
                        if boxes:
                            named = [images.printable(f"{item.name}, box {b}") for b in boxes]
                            note["unmatched"] = named
                    elif also_whole and item.split == "train" and loaded.image is not None:
                        undetected = loaded._replace(detected=None)
                        found += make_examples(item, undetected, _detect_nothing, classes)
                        note["copies"] = len(item.people)
                except UserError as error:
                    # Damage of a video is listed once for all of its frames.
                    is_video = isinstance(error, DamagedVideo)
                    name = item.name.rpartition(" at ")[0] if is_video else item.name
                    note = {"skipped": [images.printable(name), images.printable(str(error))]}
                    found = []
                writers[item.split].start_item(number, note or None)
                for example in found:
                    writers[item.split].add(example)
                if done == 1 < len(todo) and estimator is not None:
                    progress.resume(done)  # the pose network was compiled for the first image
                else:
                    progress.update(done)
        notes = [pair for writer in writers.values() for pair in writer.notes.items()]
        notes.sort(key=itemgetter(0))  # in the order of the items
        failures = [tuple(note["skipped"]) for _, note in notes if "skipped" in note]
        listed = set(skipped)
        skipped += dict.fromkeys(entry for entry in failures if entry not in listed)
        info = {
            "version": records.VERSION,
            "kind": "persons",
            "source": images.printable(source.name),
            "classes": classes,
            "layout": source.layout,
            "sequences": source.sequences,
            "pose": pose,
            "seed": seed,
            "splits": {
                name: writer.summary(classes)
                | {"whole_copies": sum(n.get("copies", 0) for n in writer.notes.values())}
                for name, writer in writers.items()
            },
            "skipped": [{"file": name, "reason": reason} for name, reason in skipped],
            "unmatched": [name for _, note in notes for name in note.get("unmatched", [])],
        }
        return shards.write_info(output, partition, info, plan)


def _digest(items: list[Item], arguments: Any) -> str:
    """Identifies the items and arguments of a preparation."""
    digest = hashlib.sha256(repr((records.VERSION, arguments)).encode("utf-8", "replace"))
    for item in items:
        text = repr((item.name, item.split, item.group, item.people))
        digest.update(text.encode("utf-8", "replace"))
        if isinstance(item.load, Given):
            digest.update(item.load.keypoints.tobytes())
    return digest.hexdigest()


def _versions(items: list[Item]) -> str:
    """Identifies the content of the items' files, by their sizes and modification times."""
    digest, last = hashlib.sha256(), None
    for item in items:
        paths: tuple[Path, ...] = item.load.files() if isinstance(item.load, ReadsFiles) else ()
        if paths != last:  # once for the frames of a video
            digest.update(repr([files.version(path) for path in paths]).encode())
        last = paths
    return digest.hexdigest()


def summary(info: Mapping[str, Any], complete: bool = True) -> list[str]:
    """Lines that summarize a prepared data set, or a partition of one, for the user."""
    lines = []
    for name, split in info["splits"].items():
        copies = split.get("whole_copies", 0)
        examples = counted(split["count"] - copies, "example")
        line = f"{name}: {examples}, people detected in {split['people_found']}"
        lines.append(line + f"; {copies} more as whole images without people" * bool(copies))
    for name in splits.SPLITS:
        if name not in info["splits"]:
            lines.append(f"note: no split {name!r} (there are {', '.join(info['splits'])})")
    for name in ("train", "test") if complete else ():
        counts = info["splits"].get(name, {"per_class": {}})["per_class"]
        lines += [f"note: no example of class {c!r} in {name}" for c, n in counts.items() if not n]
    if unmatched := info.get("unmatched", []):
        lines.append(
            f"note: no person detected in the box of {counted(len(unmatched), 'label')} "
            "(no overlap above 0.1), kept without key points:"
        )
        lines += [f"note: no person in {name}" for name in unmatched]
    return lines


def _drop_single_examples(items: list[Item], skipped: list[tuple[str, str]]) -> list[Item]:
    """Drops classes with one example, which cannot be both trained and evaluated."""
    counts = Counter(person.label for item in items for person in item.people)
    single = {label for label, count in counts.items() if count < 2}
    for item in items:
        for person in item.people:
            if person.label in single:
                reason = f"the only example of class {person.label!r}; add more or remove it"
                skipped.append((item.name, reason))
    return [item for item in items if not single & {person.label for person in item.people}]


def _assign_splits(
    items: list[Item], fractions: Mapping[str, float], seed: int, by: str
) -> list[Item]:
    """Draws a split for every item whose group has none."""
    if by == "frame":
        # The people of an image stay together.
        ungrouped = [replace(item, group=item.name) for item in items]
        drawn = _assign_splits(ungrouped, fractions, seed, "video")
        return [replace(item, split=d.split) for item, d in zip(items, drawn, strict=True)]
    known: dict[str, str] = {}
    for item in items:
        if item.split and known.setdefault(item.group, item.split) != item.split:
            raise UserError(
                f"{item.name}: its group {item.group!r} is in the splits "
                f"{known[item.group]!r} and {item.split!r}; a group cannot be divided"
            )
    items = [replace(item, split=known.get(item.group)) for item in items]
    pending = [item for item in items if item.split is None]
    labels, groups = [p.people[0].label for p in pending], [p.group for p in pending]
    names = iter(splits.draw(labels, groups, fractions, seed))
    return [replace(p, split=next(names)) if p.split is None else p for p in items]


def _detect_nothing(image: np.ndarray) -> np.ndarray:
    """An estimator without detections."""
    return np.zeros((0, skeleton.NUM_JOINTS, 3), np.float32)


def make_examples(
    item: Item,
    loaded: Loaded,
    estimator: Estimator | None,
    classes: list[str],
    min_joints: int = 4,
) -> Iterator[records.Example]:
    """Yields the examples of one item, one per labeled person.

    Raises:
        UserError: the key points are unknown, or the label's person is not in the image.
    """
    image, known, detected = loaded
    if detected is not None:
        detected = crop.from_left(openpose_json.with_joints(detected, min_joints))
    elif estimator is not None and image is not None:
        detected = estimator(image)
    elif known is None:
        raise UserError("key points are not known; choose a pose network with --pose")
    if image is None and detected is not None and not len(detected):
        raise UserError(f"has no person with at least {min_joints} joints")
    for i, person in enumerate(item.people):
        example = partial(
            records.Example,
            label=classes.index(person.label),
            group=images.printable(item.group),
            source=images.printable(item.name),
        )
        if image is None and known is not None:  # a skeleton in any unit
            yield example(crop.fit_keypoints(known[i]))
            continue
        size = image.shape[:2] if image is not None else (0, 0)
        target = None if known is None else known[i]
        for number, keypoints, square in _select(person, target, detected, *size):
            if image is None:
                yield example(crop.fit_keypoints(keypoints), person=number)
                continue
            square = square or crop.image_square(*image.shape[:2])
            jpeg = images.encode_jpeg(crop.cut(image, square))
            yield example(crop.to_crop(keypoints, square), image=jpeg, person=number)


def _select(
    person: LabeledPerson,
    known: np.ndarray | None,
    detected: np.ndarray | None,
    height: int,
    width: int,
) -> list[tuple[int, np.ndarray, crop.Square | None]]:
    """Selects the people that a label belongs to.

    Args:
        person: the label.
        known: exact key points [18, 3] of the person, if known.
        detected: key points [N, 18, 3] of everyone in the image, if detected.
        height, width: of the image in pixels.

    Returns:
        One or more (index from the left, key points, crop); without a detection the key points are
        zeros and the crop is that of the label, or None.

    Raises:
        UserError: the label's box or index is outside the image's people.
    """
    missing = (0, np.zeros((skeleton.NUM_JOINTS, 3), np.float32), None)
    if detected is None:
        assert known is not None
        return [(0, known, crop.person_square(known) if known.any() else None)]
    people = [(i, keypoints, crop.person_square(keypoints)) for i, keypoints in enumerate(detected)]
    box = person.box
    if known is not None:
        if not known.any():
            return [missing]
        x, y, across, down = crop.tight_box(known)
        box = (x, y, max(across, 1.0), max(down, 1.0))  # the box of a single joint is empty
    if person.all_people:
        return list(people) or [missing]
    if box is not None:
        if box[2] * box[3] <= 0 or not overlap(box, (0.0, 0.0, float(width), float(height))):
            raise UserError(f"the box {box} lies outside the image, {width} x {height} pixels")
        overlaps = [overlap(box, crop.tight_box(keypoints)) for keypoints in detected]
        if overlaps and max(overlaps) > MIN_OVERLAP:
            return [people[int(np.argmax(overlaps))]]
        corners = np.array([[*box[:2], 1], [box[0] + box[2], box[1] + box[3], 1]], np.float32)
        return [(0, missing[1], crop.person_square(corners))]
    if not people:
        return [missing]
    if person.index is None:
        return [people[crop.largest_person(detected)]]
    if person.index >= len(people):
        raise UserError(
            f"the label is for person {person.index}, counted from 0, but {len(people)} "
            "were found; correct the number or name a box"
        )
    return [people[person.index]]


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes x, y, width, height."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / max(a[2] * a[3] + b[2] * b[3] - shared, 1e-9)
