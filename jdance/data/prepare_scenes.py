"""Prepares data sets for pose networks from StageDance or COCO key-point annotations."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from jdance import files, skeleton
from jdance.data import crop, images, record_writer, records, scenes, shards
from jdance.data.splits import SPLITS
from jdance.data.workers import load_all
from jdance.errors import UserError
from jdance.progress import Progress
from jdance.stagedance import stage


class SceneItem(NamedTuple):
    """An image of a split; `load` reads or renders its record and is picklable."""

    name: str
    split: str
    load: Callable[[], scenes.SceneRecord]


def prepare(
    source: str,
    output: Path,
    *,
    seed: int = 0,
    workers: int = 0,
    partition: shards.Partition = shards.Partition(),  # noqa: B008 (immutable)
) -> dict[str, Any]:
    """Writes a data set of whole images (see `scenes`) and returns its description.

    Args:
        source: "stage:PRESET", or a folder in COCO's layout: annotations/person_keypoints_X.json
            beside the image folders X, where X starts with the split's name.
        output: a new or empty folder, or that of an interrupted run with the same arguments.
        seed: of StageDance.
        workers: number of processes that read or render images; 0 uses this process.
        partition: the part of the images to process.

    Returns:
        The description of the data set, or of this partition if others are not finished.

    Raises:
        UserError: the source has no usable images, or the folder is in use.
    """
    is_stage = source.startswith("stage:")
    annotations = [] if is_stage else _annotation_files(Path(source))
    items = _stage_items(source, seed) if is_stage else _coco_items(Path(source), annotations)
    named = source if is_stage else Path(source).resolve().name
    with shards.output_folder(output, partition) as finished:
        if finished is not None:
            return finished
        splits = [name for name in SPLITS if any(item.split == name for item in items)]
        listed = [(item.name, item.split) for item in items]
        checksums = [files.checksum(file) for file in annotations]
        described = repr((records.VERSION, source, seed, listed, checksums))
        plan = hashlib.sha256(described.encode("utf-8", "replace")).hexdigest()
        items = items[partition.process :: partition.processes]
        with record_writer.open_writers(output, splits, partition.prefix, plan) as writers:
            todo = [
                (number, item)
                for number, item in enumerate(items)
                if number >= writers[item.split].first_item
            ]
            progress = Progress("preparing", len(todo))
            results = load_all([item.load for _, item in todo], workers)
            pairs = zip(todo, results, strict=True)
            for done, ((number, item), record) in enumerate(pairs, start=1):
                if isinstance(record, UserError):
                    problem = {"file": item.name, "reason": images.printable(str(record))}
                    writers[item.split].start_item(number, problem)
                else:
                    writers[item.split].start_item(number)
                    people_found = bool(record.people.any())
                    writers[item.split].add_packed(scenes.pack(record), 0, people_found)
                progress.update(done)
        notes = [pair for writer in writers.values() for pair in writer.notes.items()]
        notes.sort(key=itemgetter(0))
        info = {
            "version": records.VERSION,
            "kind": "people",
            "classes": ["person"],
            "seed": seed,
            "splits": {name: writer.summary(["person"]) for name, writer in writers.items()},
            "skipped": [note for _, note in notes],
            "source": images.printable(named),
            "annotations": checksums,
        }
        return shards.write_info(output, partition, info, plan)


def _stage_items(source: str, seed: int) -> list[SceneItem]:
    return [
        SceneItem(f"scene {item.group}/{item.index}", item.split, partial(_render, seed, item))
        for item in stage.plan_scenes(source.removeprefix("stage:"), seed)
    ]


def _render(seed: int, item: stage.PlannedScene) -> scenes.SceneRecord:
    scene = stage.render_scene(seed, item.group, item.index, motions=item.motions)
    return record_from_scene(scene, f"scene {item.group}/{item.index}")


def record_from_scene(scene: stage.Scene, name: str) -> scenes.SceneRecord:
    """Converts a rendered scene to a record."""
    keypoints = np.stack([dancer.keypoints for dancer in scene.dancers])
    boxes = [crop.tight_box(k) if k.any() else (0, 0, 0, 0) for k in keypoints]
    return scenes.SceneRecord(
        image=images.encode_jpeg(scene.image),
        people=keypoints,
        boxes=np.array(boxes, np.float32),
        areas=np.array([dancer.area for dancer in scene.dancers], np.float32),
        crowd=np.zeros(len(keypoints), bool),
        name=name,
    )


def _annotation_files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("annotations/person_keypoints_*.json"))
    if not found:
        raise UserError(
            f"{folder}: no annotations/person_keypoints_*.json in it; expected COCO's layout, or "
            "stage:PRESET"
        )
    return found


def _coco_items(folder: Path, annotation_files: list[Path]) -> list[SceneItem]:
    items = []
    for file in annotation_files:
        subset = file.stem.removeprefix("person_keypoints_")
        split = next((name for name in SPLITS if subset.startswith(name)), None)
        if split is None:
            raise UserError(f"{file}: its name must go on with one of {', '.join(SPLITS)}")
        for image, annotations in read_annotations(file):
            if split == "train" and not annotations:  # as in OpenPose's training
                continue
            path = folder / subset / image["file_name"]
            stated = image.get("height"), image.get("width")
            load = partial(_read, path, annotations, stated)
            items.append(SceneItem(images.printable(str(path)), split, load))
    return items


def read_annotations(file: Path) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Reads the images of a COCO key-point annotation file, each with its annotations.

    If one of the categories is called "person", annotations of others are left out.

    Raises:
        UserError: the file is not a COCO key-point annotation file.
    """
    try:
        content = json.loads(file.read_text())
        by_image = defaultdict(list)
        categories = content.get("categories", [])
        person = {c["id"] for c in categories if c["name"] == "person"}
        for annotation in content["annotations"]:
            if person and annotation.get("category_id", next(iter(person))) not in person:
                continue
            _check_segmentation(annotation.get("segmentation", []))
            checked = {
                "keypoints": np.reshape(np.asarray(annotation["keypoints"], float), (17, 3)),
                "bbox": np.reshape(np.asarray(annotation["bbox"], float), 4),
                "area": float(annotation["area"]),
                "iscrowd": bool(int(annotation["iscrowd"])),
                "segmentation": annotation.get("segmentation", []),
            }
            by_image[annotation["image_id"]].append(checked)
        for image in content["images"]:
            if not isinstance(image["file_name"], str):
                raise ValueError(f"the file name {image['file_name']!r}")
        ids = Counter(image["id"] for image in content["images"])
        if repeated := [number for number, count in ids.items() if count > 1]:
            raise ValueError(f"several images with the id {repeated[0]!r}")
        if by_image and not by_image.keys() & ids.keys():
            raise ValueError(f"no image has the image_id {next(iter(by_image))!r} of an annotation")
        return [(image, by_image[image["id"]]) for image in content["images"]]
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except _MALFORMED as error:
        raise UserError(f"{file}: not COCO key-point annotations ({error!r})") from error


_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError,
              RecursionError, MemoryError)  # fmt: skip
_MAX_COORDINATE = 1e5  # pixels; OpenCV's drawing overflows beyond


def _check_segmentation(segmentation: Any) -> None:
    """Raises ValueError, TypeError or KeyError if `_mask` cannot draw a segmentation."""
    if not isinstance(segmentation, dict):
        for polygon in segmentation:
            if not np.isfinite(np.reshape(np.asarray(polygon, float), (-1, 2))).all():
                raise ValueError("a polygon with a corner that is not finite")
    else:
        runs, (height, width) = segmentation["counts"], segmentation["size"]
        if any(type(n) is not int or n < 0 for n in (*runs, height, width)):
            raise ValueError("run lengths that are not whole numbers")
        if height * width != sum(runs):
            raise ValueError("run lengths that do not fill the image")


def _read(
    path: Path, annotations: list[dict[str, Any]], stated: tuple[int | None, int | None]
) -> scenes.SceneRecord:
    image, encoded = images.read(path), path.read_bytes()
    height, width = image.shape[:2]
    if None not in stated and stated != (height, width):
        raise UserError(f"{path}: its size is not that of its annotations")
    joints = [a["keypoints"] for a in annotations]
    keypoints = skeleton.to_coco18(np.array(joints, np.float32).reshape(-1, 17, 3))
    keypoints[..., 2] = keypoints[..., 2] > 0  # labeled, visible or not
    unlabeled = [
        a
        for a, person in zip(annotations, keypoints, strict=True)
        if a["iscrowd"] or not person.any()
    ]
    return scenes.SceneRecord(
        image=images.encode_jpeg(image) if images.is_heif(encoded) else encoded,
        people=keypoints,
        boxes=np.array([a["bbox"] for a in annotations], np.float32).reshape(-1, 4),
        areas=np.array([a["area"] for a in annotations], np.float32),
        crowd=np.array([a["iscrowd"] for a in annotations], bool),
        mask=_mask(unlabeled, height, width, path) if unlabeled else None,
        name=images.printable(str(path.name)),
    )


def _mask(annotations: list[dict[str, Any]], height: int, width: int, path: Path) -> np.ndarray:
    """Mask uint8 [H, W]: 0 inside of annotations, 255 elsewhere.

    The inside is the segmentation, polygons or run lengths, or the box if that is empty.
    """
    result = np.full((height, width), 255, np.uint8)
    for annotation in annotations:
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, dict):
            # Column-wise run lengths, alternating outside and inside.
            counts = segmentation["counts"]
            if segmentation["size"] != [height, width]:
                raise UserError(f"{path}: its size is not that of its annotations")
            inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
            result[inside.reshape(width, height).T] = 0
        else:
            corners = [np.reshape(np.asarray(p, float), (-1, 2)) for p in segmentation]
            polygons = [
                c.clip(-_MAX_COORDINATE, _MAX_COORDINATE).round().astype(np.int32) for c in corners
            ]
            polygons = [polygon for polygon in polygons if len(polygon)]
            if not polygons:
                x, y, across, down = annotation["bbox"]
                box = [(x, y), (x + across, y), (x + across, y + down), (x, y + down)]
                polygons = [
                    np.clip(box, -_MAX_COORDINATE, _MAX_COORDINATE).round().astype(np.int32)
                ]
            cv2.fillPoly(result, polygons, 0)
    return result
