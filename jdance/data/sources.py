"""Sources of labeled people: folders, manifests, skeleton files and StageDance.

Every source becomes a list of `items.Item`s, which are read later, possibly in other processes.
"""

import math
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jdance import files
from jdance.data import images, manifest, openpose_json, skeleton_npz, videos
from jdance.data.items import Given, Item, LabeledPerson, Load, Loaded, Source, Span
from jdance.data.splits import SPLITS, class_name, split_name
from jdance.errors import UserError
from jdance.progress import counted
from jdance.stagedance import skeletons, stage, tracks

_NOT_A_VIDEO = "an image; --window makes examples of videos only"
_OTHER_SPLITS = ("valid", "validation", "training", "testing")


def open_source(
    name: str,
    *,
    label_all: bool = False,
    where: str = "",
    split_column: str = "split",
    labels: Mapping[str, str] | None = None,
    keypoints: Path | None = None,
    frames_per_second: float | None = 2.0,
    min_joints: int = 4,
    seed: int = 0,
) -> Source:
    """Lists the items of a source without reading images.

    Args:
        name: "stage:PRESET" for StageDance, a manifest .csv, a skeleton .npz, or a folder
            [split/]class/file with images, videos or OpenPose JSON files of images, or
            [split/]class/clip/file with JSON files of frames.
        label_all: labels belong to everyone in their image.
        where: "column=value" selects rows of a manifest or entries of a skeleton file.
        split_column: the manifest's column, or the skeleton file's array, of splits.
        labels: {old name: new name} of the classes to keep; None keeps all.
        keypoints: folder with OpenPose JSON files of the images, in the source's layout, see
            `_ReadImage`.
        frames_per_second: sampling rate of videos; None: each labeled part of a video is one item,
            with a `span`, and images are skipped.
        min_joints: minimum number of joints of people in clips of JSON files.
        seed: of StageDance.

    Raises:
        UserError: the source does not exist or has no usable items.
    """
    is_stage = name == "stage" or name.startswith("stage:")
    path, suffix = Path(name), Path(name).suffix.lower()
    if keypoints and not keypoints.is_dir():
        raise UserError(f"--keypoints={keypoints}: no such folder")
    if keypoints and (suffix == ".npz" or is_stage):
        raise UserError(f"--keypoints={keypoints}: {name} has key points of its own")
    if where and suffix not in (*manifest.SUFFIXES, ".npz"):
        raise UserError(f"--where={where}: only a .csv or .npz file has columns to choose from")
    if split_column != "split" and suffix not in (*manifest.SUFFIXES, ".npz"):
        raise UserError(f"--split_column={split_column}: only a .csv or .npz file has columns")
    if is_stage:
        source = _open_stage(name.partition(":")[2] or "paper", seed)
    elif not path.exists():
        raise UserError(f"{path}: no such file or folder; check --source")
    elif path.is_dir():
        source = _open_folder(path, label_all, keypoints, frames_per_second, min_joints)
    elif suffix in manifest.SUFFIXES:
        source = _open_manifest(path, label_all, where, split_column, keypoints, frames_per_second)
    elif suffix == ".npz":
        source = _open_skeletons(path, where, split_column)
    else:
        raise UserError(
            f"{path}: not a source; expected a folder, a manifest .csv, a skeleton .npz or "
            "stage:PRESET"
        )
    if keypoints:
        _assign_keypoints(source)
    source.name = source.name or path.resolve().name
    if labels:
        source = _relabel(source, labels)
    if not source.items:
        reasons = f" ({source.skipped[0][0]}: {source.skipped[0][1]})" if source.skipped else ""
        raise UserError(f"{name}: nothing to prepare in it{reasons}; check --source")
    return source


def _open_stage(preset: str, seed: int) -> Source:
    if preset in _DRAWN:
        return _drawn_skeletons(preset, seed)
    if preset not in stage.PRESETS:
        known = ", ".join((*stage.PRESETS, *_DRAWN))
        raise UserError(f"--source=stage:{preset}: no such preset; it has {known}")
    items = [
        Item(
            name=f"scene {planned.group}/{planned.index}",
            people=tuple(LabeledPerson(stage.MOTIONS[motion]) for motion in planned.motions),
            load=partial(_render, seed, planned),
            split=planned.split,
            group=str(planned.group),
        )
        for planned in stage.plan_scenes(preset, seed)
    ]
    return Source(items, list(stage.MOTIONS), name=f"stage:{preset}")


def _render(seed: int, planned: stage.PlannedScene) -> Loaded:
    scene = stage.render_scene(seed, planned.group, planned.index, motions=planned.motions)
    return Loaded(scene.image, np.stack([dancer.keypoints for dancer in scene.dancers]))


# Presets of bare skeletons, still or moving.
_DRAWN = {skeletons.PRESET: skeletons, tracks.PRESET: tracks}


def _drawn_skeletons(preset: str, seed: int) -> Source:
    drawn = _DRAWN[preset]
    items = [
        Item(
            name=f"skeleton {split}/{label}/{number}",
            people=(LabeledPerson(label),),
            load=partial(_draw_skeleton, preset, seed, split, label, number),
            split=split,
            group=f"{split}/{label}/{number}",
        )
        for split, label, number in drawn.plan()
    ]
    name = f"stage:{preset}"
    return Source(
        items, list(skeletons.CLASSES), sequences=drawn is tracks, name=name, has_images=False
    )


def _draw_skeleton(preset: str, seed: int, split: str, label: str, number: int) -> Loaded:
    return Loaded(None, _DRAWN[preset].draw(seed, split, label, number)[None])


def _subfolders(path: Path) -> list[Path]:
    return [p for p in files.list_visible(path) if p.is_dir()]


def skip_reason(path: Path) -> str:
    """Reason why a path that is not an image or video by name is skipped."""
    if os.path.islink(path) and not os.path.exists(path):
        return "a link to a missing file"
    if os.path.isdir(path):
        return "a nested folder, which is not read; move its files one level up"
    return "not a supported image or video format"


class _Format(NamedTuple):
    """A kind of entries in class folders.

    Attributes:
        find: lists the entries of a class folder.
        other: reason to skip all other entries; "": see `skip_reason`.
    """

    find: Callable[[Path], list[Path]]
    other: str


def _list_media(folder: Path) -> list[Path]:
    entries = files.list_visible(folder)
    return [p for p in entries if p.is_file() and (images.is_image(p) or videos.is_video(p))]


def _list_clips(folder: Path) -> list[Path]:
    return [clip for clip in _subfolders(folder) if openpose_json.frames(clip)]


def _place(root: Path, name: str) -> Path:
    """Normalized path of a file below `root`; absolute if it is elsewhere and was so."""
    path = Path(os.path.normpath(name))
    absolute = root.absolute()
    return path.relative_to(absolute) if path.is_relative_to(absolute) else path


@dataclass(frozen=True, slots=True)
class _ReadImage:
    """Reads an image `name` below `root`, and its key points below another folder.

    For the image a/b.jpg they are in a/b_keypoints.json, unless another image of the source
    `shares` its stem, or else in a/b.jpg_keypoints.json.

    A million of these are kept, so they hold no paths of their own.
    """

    root: Path
    name: str
    keypoints: Path | None
    shares: bool = False

    def __call__(self) -> Loaded:
        image = images.read(self.path)
        if self.keypoints is None:
            return Loaded(image)
        return Loaded(image, detected=openpose_json.read(self.keypoints_path, image.shape[:2]))

    @property
    def path(self) -> Path:
        return self.root / self.name

    @property
    def place(self) -> Path:
        """Path below the root; of images elsewhere the name."""
        place = _place(self.root, self.name)
        return Path(place.name) if place.is_absolute() else place

    @property
    def keypoints_path(self) -> Path:
        assert self.keypoints is not None
        folder = self.keypoints / self.place.parent
        whole = openpose_json.path_for(self.place.name, folder)
        path = openpose_json.path_for(self.place.stem, folder)
        return whole if self.shares or (whole.exists() and not path.exists()) else path

    def files(self) -> tuple[Path, ...]:
        return (self.path, self.keypoints_path) if self.keypoints else (self.path,)


def _assign_keypoints(source: Source) -> None:
    """Tells apart the key points of images that share a stem; skips those that share the name."""
    stems, names = defaultdict[str, set[Path]](set), defaultdict[str, set[Path]](set)
    for item in source.items:  # twice, since a million places take much memory
        if isinstance(item.load, _ReadImage):
            place, path = item.load.place, Path(os.path.abspath(item.load.path))
            stems[str(place.with_suffix("")).casefold()].add(path)
            names[str(place).casefold()].add(path)
    items = []
    for item in source.items:
        if isinstance(item.load, _ReadImage):
            place = item.load.place
            if len(names[str(place).casefold()]) > 1:
                reason = (
                    f"several images are {place}, so their key points cannot be told apart; put "
                    "the manifest into a folder above them"
                )
                source.skipped.append((item.name, reason))
                continue
            if len(stems[str(place.with_suffix("")).casefold()]) > 1:
                item = replace(item, load=replace(item.load, shares=True))
        items.append(item)
    source.items = items


@dataclass(frozen=True, slots=True)
class _ReadSkeletons:
    """Reads the people of an image without its pixels."""

    path: Path

    def __call__(self) -> Loaded:
        return Loaded(None, detected=openpose_json.read(self.path))

    def files(self) -> tuple[Path, ...]:
        return (self.path,)


@dataclass(frozen=True, slots=True)
class _ReadClip:
    """Reads a folder of frames, see `openpose_json.read_sequence`."""

    folder: Path
    min_joints: int

    def __call__(self) -> Loaded:
        frames = openpose_json.frames(self.folder)
        return Loaded(None, openpose_json.read_sequence(frames, self.min_joints)[None])

    def files(self) -> tuple[Path, ...]:
        return tuple(openpose_json.frames(self.folder))


@dataclass(frozen=True, slots=True)
class _ReadFrame:
    """Reads the frame of a video at a time in seconds."""

    path: Path
    time: float

    def __call__(self) -> Loaded:
        return Loaded(videos.frame_at(self.path, self.time))

    def files(self) -> tuple[Path, ...]:
        return (self.path,)


_MEDIA = _Format(_list_media, "")
_STILLS = _Format(openpose_json.frames, "not a .json of key points")
_CLIPS = _Format(_list_clips, "not a folder of .json frames")


def _open_folder(
    path: Path, label_all: bool, keypoints: Path | None, fps: float | None, min_joints: int
) -> Source:
    tops = _subfolders(path)
    if not tops and _list_media(path):
        raise UserError(f"{path}: its files have no labels; put them into a folder for each class")
    folders: list[tuple[str | None, Path]]
    if tops and {top.name.lower() for top in tops} <= set(SPLITS):
        folders = [(top.name.lower(), folder) for top in tops for folder in _subfolders(top)]
    else:
        folders = [(None, folder) for folder in tops]
        splits = sorted(t.name for t in tops if t.name.lower() in {*SPLITS, *_OTHER_SPLITS})
        if splits:
            raise UserError(
                f"{path}: looks divided ({', '.join(splits)}); folders of splits must be called "
                "train, val and test, with no others beside them"
            )
    formats = (_MEDIA, _STILLS, _CLIPS)
    kind = next((f for f in formats if any(f.find(folder) for _, folder in folders)), _MEDIA)
    if keypoints and kind is not _MEDIA:
        raise UserError(f"--keypoints={keypoints}: {path} holds key points itself")
    names = sorted({class_name(folder.name) for _, folder in folders})
    needs_pose = kind is _MEDIA and not keypoints
    source = Source(
        [], names, sequences=kind is _CLIPS, needs_pose=needs_pose, has_images=kind is _MEDIA
    )
    for parent in sorted({path, *(folder.parent for _, folder in folders)}):
        unlabeled = _list_media(parent)
        source.skipped += [(str(p), "is in no class folder, so it has no label") for p in unlabeled]
    for split, folder in folders:
        person = LabeledPerson(class_name(folder.name), all_people=label_all)
        entries = kind.find(folder)
        known = set(entries)
        if keypoints:
            known |= {
                openpose_json.path_for(name, folder)
                for file in entries
                for name in (file.stem, file.name)
            }
        others = [p for p in files.list_visible(folder) if p not in known]
        source.skipped += [(str(p), kind.other or skip_reason(p)) for p in others]
        for entry in entries:
            name = str(entry.relative_to(path))
            if videos.is_video(entry):
                try:
                    source.items += _video_items(name, entry, person, split, name, fps, keypoints)
                    if damage := videos.describe_damage(entry):
                        source.skipped.append((name, damage))
                except UserError as error:
                    source.skipped.append((name, str(error)))
                continue
            if kind is _MEDIA and fps is None:
                source.skipped.append((name, _NOT_A_VIDEO))
                continue
            load: Load = _ReadImage(path, name, keypoints)
            if kind is _STILLS:
                load = _ReadSkeletons(entry)
            elif kind is _CLIPS:
                load = _ReadClip(entry, min_joints)
            source.items.append(Item(name, (person,), load, split, name))
    return source


def _video_items(
    name: str,
    file: Path,
    person: LabeledPerson,
    split: str | None,
    group: str,
    fps: float | None,
    keypoints: Path | None,
    start: float = 0.0,
    end: float = math.inf,
) -> list[Item]:
    """Sampled frames of a video between `start` and `end` (seconds), all in one group."""
    if keypoints:
        raise UserError(f"{file}: --keypoints is for images; use --pose for videos")
    if fps is None:
        videos.times(file, 1.0, start, end)  # raises UserError if nothing can be read
        span = Span(file, start, end)
        return [Item(name, (person,), _ReadFrame(file, start), split, group, span)]
    return [
        Item(f"{name} at {t:.2f} s", (person,), _ReadFrame(file, t), split, group)
        for t in videos.times(file, fps, start, end)
    ]


# Manifests ----------------------------------------------------------------------------------------


def _open_manifest(
    path: Path,
    label_all: bool,
    where: str,
    split_column: str,
    keypoints: Path | None,
    fps: float | None,
) -> Source:
    source = Source([], [], needs_pose=not keypoints)
    damaged: dict[str, str] = {}
    shared: dict[tuple[LabeledPerson, ...], tuple[LabeledPerson, ...]] = {}
    for line, row in manifest.read(path, where, split_column):
        try:
            items = _row_items(path.parent, row, label_all, keypoints, fps, shared)
            source.items += items
            if items and not isinstance(items[0].load, _ReadImage) and row["path"] not in damaged:
                damaged[row["path"]] = videos.describe_damage(path.parent / row["path"])
        except UserError as error:
            source.skipped.append((f"{path}, line {line}", str(error)))
    _order_frames(source)
    source.skipped += [(name, damage) for name, damage in damaged.items() if damage]
    source.classes = sorted({person.label for item in source.items for person in item.people})
    return source


def _order_frames(source: Source) -> None:
    """Orders the frames of each video by time, so that it is decoded once; notes divided videos."""
    first: dict[Path, int] = {}
    groups = defaultdict[Path, set[str]](set)
    keys = list[tuple[int, float]]()
    for number, item in enumerate(source.items):
        read = item.load
        if isinstance(read, _ReadFrame):
            keys.append((first.setdefault(read.path, number), read.time))
            groups[read.path].add(item.group)
        else:
            keys.append((number, 0.0))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    source.items = [source.items[i] for i in order]
    source.notes += [
        f"{path} has rows of {counted(len(names), 'group')}, which may be in different splits"
        for path, names in groups.items()
        if len(names) > 1
    ]


def _row_items(
    root: Path,
    row: dict[str, str],
    label_all: bool,
    keypoints: Path | None,
    fps: float | None,
    shared: dict[tuple[LabeledPerson, ...], tuple[LabeledPerson, ...]],
) -> list[Item]:
    name, label = row.get("path", ""), class_name(row.get("label", ""))
    if not name or not label:
        raise UserError("path or label is empty")
    file = root / name
    is_video = videos.is_video(file)
    if (row.get("start") or row.get("end")) and not is_video:
        raise UserError(f"{name}: start and end are for videos")
    if not os.path.isfile(file):  # also False for invalid file names
        reason = skip_reason(file) if os.path.lexists(file) else "no such file"
        raise UserError(f"{file}: {reason}; correct the path or remove the line")
    if not images.is_image(file) and not is_video:
        raise UserError(f"{file}: {skip_reason(file)}")
    box, index = manifest.box(row), manifest.person(row)
    all_people = label_all and box is None and index is None
    # Equal values are shared, since a million rows have few.
    person = LabeledPerson(label, box, index, all_people)
    people = shared.setdefault((person,), (person,))
    # Without a group, all spellings of a path are one.
    split, group = split_name(row.get("split")), row.get("group") or str(_place(root, name))
    split, group = split and sys.intern(split), sys.intern(group)
    if is_video:
        span = manifest.time_span(row)
        return _video_items(name, file, person, split, group, fps, keypoints, *span)
    if fps is None:
        raise UserError(f"{name}: {_NOT_A_VIDEO}")
    return [Item(name, people, _ReadImage(root, name, keypoints), split, group)]


# Skeleton files -----------------------------------------------------------------------------------


def _open_skeletons(path: Path, where: str, split_column: str) -> Source:
    content = skeleton_npz.read(path, where, split_column)
    try:
        names = [split_name(name) for name in content.splits or [""] * len(content.labels)]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    labels = [class_name(label) for label in content.labels]
    kind = "sequence" if content.sequences else "skeleton"
    items = [
        Item(
            name=f"{kind} {i}",
            people=(LabeledPerson(label),),
            load=Given(keypoints),
            split=names[i],
            group=str(i) if content.groups is None else content.groups[i],
        )
        for i, (keypoints, label) in enumerate(zip(content.keypoints, labels, strict=True))
    ]
    return Source(
        items,
        sorted(set(labels)),
        layout=content.layout.name,
        sequences=content.sequences,
        notes=list(content.notes),
        has_images=False,
    )


def _relabel(source: Source, labels: Mapping[str, str]) -> Source:
    """Keeps the items of the given classes and renames these."""
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
