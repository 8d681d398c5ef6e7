"""Inputs of recognition: images, videos, cameras, and clips of skeletons."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from jdance import files
from jdance.data import images, openpose_json, videos
from jdance.errors import UserError
from jdance.stagedance import stage


def kind(path: Path) -> Literal["image", "video", "skeletons"]:
    """Returns how an input is processed; a folder is a clip of skeletons."""
    if path.is_dir():
        return "skeletons"
    return "video" if videos.is_camera(str(path)) or videos.is_video(path) else "image"


def collect(path: Path, ignored: Iterable[Path] = ()) -> tuple[list[Path], list[Path]]:
    """Lists the inputs at a path, in natural order, and the files beside them that are unreadable.

    Args:
        path: an image, a video, a folder of them, a folder of OpenPose JSON files, or "camera:N".
        ignored: entries of the folder that are expected, such as the output folder.

    Raises:
        UserError: the path does not exist or holds nothing to recognize.
    """
    if videos.is_camera(str(path)):
        return [path], []
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check --input")
    if not path.is_dir():
        return [path], []
    inputs = sorted(images.find(path) + videos.find(path), key=files.natural_key)
    if not inputs and openpose_json.frames(path):
        return [path], []
    expected = {entry.resolve() for entry in (*inputs, *ignored)}
    prefixes = tuple(f"{entry.stem}_" for entry in inputs)

    def belongs_to_input(entry: Path) -> bool:  # its key points or its true timeline
        known = entry.is_dir() or entry.suffix in (".json", ".csv")
        return known and entry.name.startswith(prefixes)

    unreadable = sorted(
        entry
        for entry in path.iterdir()
        if not entry.name.startswith(".")
        and entry.resolve() not in expected
        and not belongs_to_input(entry)
    )
    if not inputs and not unreadable:
        raise UserError(f"{path}: no images or videos in it; check --input")
    return inputs, unreadable


def is_stage(path: Path) -> bool:
    """Returns whether an input is from launch/stage.py, as the key points beside it state."""
    if path.is_dir():
        keypoints = openpose_json.frames(path)[0]
    elif kind(path) == "video":
        folder = path.with_name(f"{path.stem}_keypoints")
        keypoints = openpose_json.path_for_frame(path.name, 0, folder)
    else:
        keypoints = openpose_json.path_for(path, path.parent)
    return openpose_json.read_generator(keypoints) == stage.NAME
