"""Where labelled people come from: folders, manifests, skeleton files, StageDance.

Every source is turned into `Image`s: something to read, and whom in it the labels are for.
"""

import csv
import io
import math
import os
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jdance import files
from jdance.data import images, openpose_json, skeleton_npz, videos
from jdance.errors import UserError
from jdance.stagedance import skeletons, stage

SPLITS = ("train", "val", "test")
_TABLES = (".csv", ".tsv")
_OTHER_SPLITS = ("valid", "validation", "training", "testing")


@dataclass(frozen=True)
class LabeledPerson:
    """Whom in an image a label is for.

    Fields:
        label: the motion's name.
        box: x, y, width, height in pixels: the person with the largest overlap.
        index: the person counted from the left.
        everybody: the label is for all people. With none of these it is for the largest person.
    """

    label: str
    box: tuple[float, ...] | None = None
    index: int | None = None
    everybody: bool = False


class Loaded(NamedTuple):
    """What is known of an image.

    Fields:
        image: uint8 RGB [H, W, 3], or None.
        keypoints: float32 [N, J, 3] (of sequences [N, T, J, 3]) of the N people that are labelled,
            in their order, or None.
        found: float32 [N, 18, 3], everybody whom another pose estimator found, among whom the
            labels' people have still to be chosen; or None.
    """

    image: np.ndarray | None
    keypoints: np.ndarray | None = None
    found: np.ndarray | None = None


@dataclass(frozen=True)
class Item:
    """One image, or one bare skeleton.

    Fields:
        name: how messages and records call it.
        people: whom the labels are for.
        load: reads or draws it, or raises UserError; can be sent to another process.
        split: its split, or None to be drawn.
        group: images of a group are never divided between splits.
    """

    name: str
    people: tuple[LabeledPerson, ...]
    load: Callable[[], Loaded]
    split: str | None = None
    group: str = ""


@dataclass
class Source:
    """A list of images, the classes in their order, and what had to be left out.

    `layout` is the name of the skeleton's, `sequences` tells whether its key points are sequences
    of skeletons, `name` is stage:PRESET, or that of the folder or file, and `notes` are what a user
    should know, a line each.
    """

    items: list[Item]
    classes: list[str]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    layout: str = "coco18"
    sequences: bool = False
    name: str = ""
    notes: list[str] = field(default_factory=list)


def open_source(
    name: str,
    *,
    label_all: bool = False,
    where: str = "",
    split_column: str = "split",
    labels: Mapping[str, str] | None = None,
    keypoints: Path | None = None,
    frames_per_second: float = 2.0,
    seed: int = 0,
) -> Source:
    """Finds out what `name` is and lists what is in it, without reading images.

    Args:
        name: "stage:PRESET" for StageDance, a manifest .csv, a skeleton .npz, or a folder
            split/class/file or class/file, where a file is an image, a video, or OpenPose's JSON
            of an image, or split/class/clip/file or class/clip/file of JSON frames.
        label_all: an image's label is for everybody in it.
        where: "column=value": only those rows of a manifest, or entries of a skeleton file.
        split_column: which array of a skeleton file tells the splits.
        labels: {old name: new name} of the classes that are taken; None: all, as they are called.
        keypoints: folder with OpenPose's JSON for each image, laid out as the source is.
        frames_per_second: how many frames of videos become images.
        seed: of StageDance.

    Raises:
        UserError: there is nothing usable.
    """
    if keypoints and not keypoints.is_dir():
        raise UserError(f"--keypoints={keypoints}: no such folder")
    if keypoints and (name.lower().endswith(".npz") or name.partition(":")[0] == "stage"):
        raise UserError(f"--keypoints={keypoints}: {name} knows its key points itself")
    if where and not name.lower().endswith((*_TABLES, ".npz")):
        raise UserError(f"--where={where}: only a .csv or .npz file has columns to choose from")
    if name == "stage" or name.startswith("stage:"):
        source = _stage(name.partition(":")[2] or "paper", seed)
    else:
        path = Path(name)
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; check --source")
        if path.is_dir():
            source = _folder(path, label_all, keypoints, frames_per_second)
        elif path.suffix.lower() in _TABLES:
            source = _manifest(path, label_all, where, keypoints, frames_per_second)
        elif path.suffix.lower() == ".npz":
            source = _skeletons(path, where, split_column)
        else:
            raise UserError(
                f"{path}: not a source; expected a folder, a manifest .csv, a skeleton .npz or "
                "stage:PRESET"
            )
    source.name = source.name or Path(name).resolve().name
    if labels:
        source = _relabelled(source, labels)
    if not source.items:
        reasons = f" ({source.skipped[0][0]}: {source.skipped[0][1]})" if source.skipped else ""
        raise UserError(f"{name}: nothing to prepare in it{reasons}; check --source")
    return source


def _stage(preset: str, seed: int) -> Source:
    if preset == skeletons.PRESET:
        return _drawn_skeletons(seed)
    if preset not in stage.PRESETS:
        known = ", ".join((*stage.PRESETS, skeletons.PRESET))
        raise UserError(f"--source=stage:{preset}: no such preset; it has {known}")
    items = [
        Item(
            name=f"scene {planned.group}/{planned.index}",
            people=tuple(LabeledPerson(stage.MOTIONS[motion]) for motion in planned.motions),
            load=partial(_draw, seed, planned),
            split=planned.split,
            group=str(planned.group),
        )
        for planned in stage.plan_scenes(preset, seed)
    ]
    return Source(items, list(stage.MOTIONS), name=f"stage:{preset}")


def _draw(seed: int, planned: stage.PlannedScene) -> Loaded:
    scene = stage.render_scene(seed, planned.group, planned.index, motions=planned.motions)
    return Loaded(scene.image, np.stack([dancer.keypoints for dancer in scene.dancers]))


def _drawn_skeletons(seed: int) -> Source:
    items = [
        Item(
            name=f"skeleton {split}/{label}/{number}",
            people=(LabeledPerson(label),),
            load=partial(_draw_skeleton, seed, split, label, number),
            split=split,
            group=f"{split}/{label}/{number}",
        )
        for split, label, number in skeletons.plan()
    ]
    return Source(items, list(skeletons.CLASSES), name=f"stage:{skeletons.PRESET}")


def _draw_skeleton(seed: int, split: str, label: str, number: int) -> Loaded:
    return Loaded(None, skeletons.draw(seed, split, label, number)[None])


def class_name(text: str) -> str:
    """A class's name in one form of Unicode: a Mac writes accents as characters of their own."""
    return unicodedata.normalize("NFC", text)


def _visible(folder: Path) -> list[Path]:
    """All that lies in a folder, in natural order, but hidden files."""
    found = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(found, key=files.natural_key)


def _subfolders(path: Path) -> list[Path]:
    return [p for p in _visible(path) if p.is_dir()]


def find_media(folder: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The images and videos of a folder in natural order.

    Also what else is in it, but hidden files, each with the reason why it is left out.
    """
    entries = _visible(folder)
    usable = [p for p in entries if p.is_file() and (images.is_image(p) or videos.is_video(p))]
    return usable, [(path, left_out(path)) for path in entries if path not in usable]


def left_out(path: Path) -> str:
    """Why something is not read, which is no image or video by its name."""
    if os.path.islink(path) and not os.path.exists(path):
        return "a link to a file that is not there"
    if os.path.isdir(path):
        return "a folder, which is not looked into; move its files one level up"
    return "not a kind of image or video that can be read"


def _read(path: Path, keypoints: Path | None = None) -> Loaded:
    found = openpose_json.read(keypoints) if keypoints else None
    return Loaded(images.read(path), found=found)


def _folder(path: Path, label_all: bool, keypoints: Path | None, rate: float) -> Source:
    tops = _subfolders(path)
    if not tops and _find_seen(path):
        raise UserError(f"{path}: its files have no labels; put them into a folder for each class")
    classes: list[tuple[str | None, Path]]
    if tops and {top.name.lower() for top in tops} <= set(SPLITS):
        classes = [(top.name.lower(), folder) for top in tops for folder in _subfolders(top)]
    else:
        classes = [(None, folder) for folder in tops]
        splits = sorted(t.name for t in tops if t.name.lower() in {*SPLITS, *_OTHER_SPLITS})
        if splits:
            raise UserError(
                f"{path}: looks divided ({', '.join(splits)}); folders of splits must be called "
                "train, val and test, with no others beside them"
            )
    folders = [folder for _, folder in classes]
    kind = _kind(folders)
    if keypoints and kind is not _IMAGES:
        raise UserError(f"--keypoints={keypoints}: {path} holds key points itself")
    names = sorted({class_name(folder.name) for folder in folders})
    source = Source([], names, sequences=kind is _CLIPS)
    for place in sorted({path, *(folder.parent for folder in folders)}):
        source.skipped += [
            (str(p), "lies in no class's folder, so has no label") for p in _find_seen(place)
        ]
    for split, folder in classes:
        person = LabeledPerson(class_name(folder.name), everybody=label_all)
        entries = kind.find(folder)
        beside = {openpose_json.path_for(file, folder) for file in entries} if keypoints else set()
        known = {*entries, *beside}
        others = [p for p in _visible(folder) if p not in known]
        source.skipped += [(str(p), kind.other or left_out(p)) for p in others]
        for entry in entries:
            name = str(entry.relative_to(path))
            if videos.is_video(entry):
                try:
                    source.items += _frames(name, entry, person, split, name, rate, keypoints)
                    if damage := videos.damage(entry):
                        source.skipped.append((name, damage))
                except UserError as error:
                    source.skipped.append((name, str(error)))
                continue
            load = partial(kind.read, entry, *_keypoints_of(name, keypoints))
            source.items.append(Item(name, (person,), load, split, name))
    return source


def _frames(
    name: str,
    file: Path,
    person: LabeledPerson,
    split: str | None,
    group: str,
    rate: float,
    keypoints: Path | None,
    start: float = 0.0,
    end: float = math.inf,
) -> list[Item]:
    """Frames of a part of a video; none of its frames come into different splits."""
    if keypoints:
        raise UserError(f"{file}: --keypoints is for images; use --pose for videos")
    return [
        Item(
            f"{name} at {when:.2f} s", (person,), partial(_read_frame, file, when), split, group
        )
        for when in videos.times(file, rate, start, end)
    ]


def _read_frame(file: Path, when: float) -> Loaded:
    return Loaded(videos.frame_at(file, when))


def _find_seen(folder: Path) -> list[Path]:
    return find_media(folder)[0]


class _Kind(NamedTuple):
    """What a class's folder can hold: how to find it, how to read it, and what else is called.

    Else "", if `left_out` says it.
    """

    find: Callable[[Path], list[Path]]
    read: Callable[..., Loaded]
    other: str


def _clips(folder: Path) -> list[Path]:
    return [clip for clip in _subfolders(folder) if openpose_json.frames(clip)]


def _read_found(path: Path) -> Loaded:
    return Loaded(None, found=openpose_json.read(path))


def _read_clip(folder: Path) -> Loaded:
    return Loaded(None, openpose_json.read_sequence(openpose_json.frames(folder))[None])


_IMAGES = _Kind(_find_seen, _read, "")
_STILLS = _Kind(openpose_json.frames, _read_found, "not a .json of key points")
_CLIPS = _Kind(_clips, _read_clip, "not a folder of .json frames")


def _kind(folders: list[Path]) -> _Kind:
    for kind in (_IMAGES, _STILLS, _CLIPS):
        if any(kind.find(folder) for folder in folders):
            return kind
    return _IMAGES


def _keypoints_of(name: str, keypoints: Path | None) -> list[Path]:
    """The file in the folder `keypoints` that tells who is in an image, if there is the folder."""
    if keypoints is None:
        return []
    place = Path() if Path(name).is_absolute() else Path(name).parent
    return [openpose_json.path_for(Path(name), keypoints / place)]


def _table(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns of a CSV file, and its rows with their line numbers.

    Fields are separated by commas, semicolons or tabs; names of columns may have capitals and
    blanks around them. Lines without any field do not count.

    Raises:
        UserError: it is no text, or no table.
    """
    try:
        data = path.read_bytes()
        wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a CSV file ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: cannot be read as a CSV file ({error}); save it with the encoding UTF-8"
        ) from error
    skipped = 0
    if text.startswith("sep="):  # how a spreadsheet names the separator
        text, skipped = text.partition("\n")[2], 1
    header = text.lstrip().partition("\n")[0]
    separator = max(",;\t", key=header.count)
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        filled = (
            (lines.line_num + skipped, fields)
            for line in lines
            if any(fields := [field.strip() for field in line])
        )
        _, header_fields = next(filled, (0, []))
        columns = [name.casefold() for name in header_fields]
        rows = [(number, dict(zip(columns, fields))) for number, fields in filled]  # noqa: B905
    except csv.Error as error:
        raise UserError(f"{path}: cannot be read as a CSV file ({error})") from error
    return columns, rows


def _manifest(
    path: Path, label_all: bool, where: str, keypoints: Path | None, rate: float
) -> Source:
    columns, rows = _table(path)
    if not {"path", "label"} <= set(columns):
        raise UserError(
            f"{path}: the first line must name the columns path and label; it has "
            f"{', '.join(columns) or 'none'}"
        )
    column, _, value = where.partition("=")
    column = column.strip().casefold()
    if where and column not in columns:
        raise UserError(f"--where={where}: {path} has the columns {', '.join(columns)}")
    source = Source([], [])
    damaged: dict[str, str] = {}
    for line, row in rows:
        if where and class_name(row.get(column, "")) != class_name(value):
            continue
        try:
            source.items += _manifest_items(path.parent, row, label_all, keypoints, rate)
            if videos.is_video(path.parent / row["path"]):
                damaged[row["path"]] = videos.damage(path.parent / row["path"])
        except UserError as error:
            source.skipped.append((f"{path}, line {line}", str(error)))
    source.skipped += [(name, damage) for name, damage in damaged.items() if damage]
    source.classes = sorted({person.label for p in source.items for person in p.people})
    return source


def _manifest_items(
    root: Path, row: dict[str, str], label_all: bool, keypoints: Path | None, rate: float
) -> list[Item]:
    name, label = row.get("path", ""), class_name(row.get("label", ""))
    if not name or not label:
        raise UserError("path or label is empty")
    file = root / name
    is_video = videos.is_video(file)
    if (row.get("start") or row.get("end")) and not is_video:
        raise UserError(f"{name}: start and end are for videos")
    if not os.path.isfile(file):  # False, too, for names that no file can have
        reason = left_out(file) if os.path.lexists(file) else "no such file"
        raise UserError(f"{file}: {reason}; correct the path or remove the line")
    if not images.is_image(file) and not is_video:
        raise UserError(f"{file}: {left_out(file)}")
    box = None
    if row.get("box"):
        box = tuple(_number(part, "box") for part in row["box"].replace(",", " ").split())
        if len(box) != 4 or min(box[2:]) < 0:
            raise UserError(f"box {row['box']!r}: expected x,y,width,height")
    number = _number(row["person"], "person") if row.get("person") else None
    if number is not None and (number < 0 or number != int(number)):
        raise UserError(f"person {row['person']!r}: expected 0 or a whole number above it")
    index = None if number is None else int(number)
    chosen = box is not None or index is not None
    person = LabeledPerson(label, box=box, index=index, everybody=label_all and not chosen)
    split, group = split_name(row.get("split")), row.get("group") or name
    if is_video:
        start = _number(row["start"], "start") if row.get("start") else 0.0
        end = _number(row["end"], "end") if row.get("end") else math.inf
        if not 0 <= start < end:
            raise UserError(
                f"start {row['start']!r}, end {row['end']!r}: expected 0 <= start < end"
            )
        return _frames(name, file, person, split, group, rate, keypoints, start, end)
    load = partial(_read, file, *_keypoints_of(name, keypoints))
    return [Item(name, (person,), load, split, group)]


def _number(text: str, column: str) -> float:
    try:
        value = float(text.replace(",", "."))  # as many countries write it
    except ValueError:
        value = np.nan
    if not abs(value) < 1e6:
        raise UserError(f"{column} {text!r}: expected a number of pixels, people or seconds")
    return value


def split_name(text: object) -> str | None:
    """The name of a split, which is part of file names; None if there is none.

    The usual ones count in any case: Train is train.
    """
    name = str(text or "").strip()
    if name.lower() in SPLITS:
        return name.lower()
    if name and not re.fullmatch(r"[\w-]{1,50}", name):
        raise UserError(
            f"split {name[:60]!r}: only letters, digits, - and _ can name one, 50 at most"
        )
    return name or None


def _skeletons(path: Path, where: str, split_column: str) -> Source:
    found = skeleton_npz.read(path, where, split_column)
    labels = [class_name(label) for label in found.labels]
    kind = "sequence" if found.sequences else "skeleton"
    items = [
        Item(
            name=f"{kind} {i}",
            people=(LabeledPerson(label),),
            load=partial(Loaded, None, keypoints[None]),
            split=None if found.splits is None else split_name(found.splits[i]),
            group=str(i) if found.groups is None else found.groups[i],
        )
        for i, (keypoints, label) in enumerate(zip(found.keypoints, labels, strict=True))
    ]
    return Source(
        items,
        sorted(set(labels)),
        layout=found.layout.name,
        sequences=found.sequences,
        notes=list(found.notes),
    )


def _relabelled(source: Source, labels: Mapping[str, str]) -> Source:
    """Only what has one of the labels, under its new name."""
    labels = {class_name(old): class_name(new) for old, new in labels.items()}
    for label in labels:
        if label not in source.classes:
            known = ", ".join(source.classes)
            raise UserError(f"--labels: no class {label!r} in the source; it has {known}")
    items = []
    for item in source.items:
        if all(person.label in labels for person in item.people):
            people = tuple(replace(p, label=labels[p.label]) for p in item.people)
            items.append(replace(item, people=people))
    return replace(source, items=items, classes=sorted(set(labels.values())))
