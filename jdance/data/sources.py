"""Sources of labeled people: folders, manifests, skeleton files and StageDance.

Every source becomes a list of `items.Item`s, which are read later, possibly in other processes.
"""

import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jdance import files
from jdance.data import images, manifest, openpose_json, skeleton_npz, videos
from jdance.data.items import Item, LabeledPerson, Loaded, Source, Span
from jdance.data.splits import SPLITS, class_name, split_name
from jdance.errors import UserError
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
        keypoints: folder with OpenPose JSON files of the images, in the source's layout.
        frames_per_second: sampling rate of videos; None: each labeled part of a video is one item,
            with a `span`, and images are skipped.
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
        source = _open_folder(path, label_all, keypoints, frames_per_second)
    elif suffix in manifest.SUFFIXES:
        source = _open_manifest(path, label_all, where, split_column, keypoints, frames_per_second)
    elif suffix == ".npz":
        source = _open_skeletons(path, where, split_column)
    else:
        raise UserError(
            f"{path}: not a source; expected a folder, a manifest .csv, a skeleton .npz or "
            "stage:PRESET"
        )
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
    return Source(items, list(skeletons.CLASSES), sequences=drawn is tracks, name=name)


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
        read: loads one; images are read by `_ReadImage`.
        other: reason to skip all other entries; "": see `skip_reason`.
    """

    find: Callable[[Path], list[Path]]
    read: Callable[[Path], Loaded] | None
    other: str


def _list_media(folder: Path) -> list[Path]:
    entries = files.list_visible(folder)
    return [p for p in entries if p.is_file() and (images.is_image(p) or videos.is_video(p))]


def _list_clips(folder: Path) -> list[Path]:
    return [clip for clip in _subfolders(folder) if openpose_json.frames(clip)]


@dataclass(frozen=True, slots=True)
class _ReadImage:
    """Reads an image `name` below `root`, and its key points below another folder.

    A million of these are kept, so they hold no paths of their own.
    """

    root: Path
    name: str
    keypoints: Path | None

    def __call__(self) -> Loaded:
        image = images.read(self.root / self.name)
        if self.keypoints is None:
            return Loaded(image)
        folder = Path() if Path(self.name).is_absolute() else Path(self.name).parent
        file = openpose_json.path_for(Path(self.name), self.keypoints / folder)
        return Loaded(image, detected=openpose_json.read(file))


def _read_skeletons(path: Path) -> Loaded:
    return Loaded(None, detected=openpose_json.read(path))


def _read_clip(folder: Path) -> Loaded:
    return Loaded(None, openpose_json.read_sequence(openpose_json.frames(folder))[None])


_MEDIA = _Format(_list_media, None, "")
_STILLS = _Format(openpose_json.frames, _read_skeletons, "not a .json of key points")
_CLIPS = _Format(_list_clips, _read_clip, "not a folder of .json frames")


def _open_folder(path: Path, label_all: bool, keypoints: Path | None, fps: float | None) -> Source:
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
    source = Source([], names, sequences=kind is _CLIPS, needs_pose=needs_pose)
    for parent in sorted({path, *(folder.parent for _, folder in folders)}):
        unlabeled = _list_media(parent)
        source.skipped += [(str(p), "is in no class folder, so it has no label") for p in unlabeled]
    for split, folder in folders:
        person = LabeledPerson(class_name(folder.name), all_people=label_all)
        entries = kind.find(folder)
        known = set(entries)
        if keypoints:
            known |= {openpose_json.path_for(file, folder) for file in entries}
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
            load = partial(kind.read, entry) if kind.read else _ReadImage(path, name, keypoints)
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
        return [Item(name, (person,), partial(_read_frame, file, start), split, group, span)]
    return [
        Item(f"{name} at {t:.2f} s", (person,), partial(_read_frame, file, t), split, group)
        for t in videos.times(file, fps, start, end)
    ]


def _read_frame(file: Path, time: float) -> Loaded:
    return Loaded(videos.frame_at(file, time))


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
    source.skipped += [(name, damage) for name, damage in damaged.items() if damage]
    source.classes = sorted({person.label for item in source.items for person in item.people})
    return source


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
    split, group = split_name(row.get("split")), row.get("group") or name
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
    labels = [class_name(label) for label in content.labels]
    kind = "sequence" if content.sequences else "skeleton"
    items = [
        Item(
            name=f"{kind} {i}",
            people=(LabeledPerson(label),),
            load=partial(Loaded, None, keypoints[None]),
            split=None if content.splits is None else split_name(content.splits[i]),
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
