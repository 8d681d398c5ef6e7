"""Inputs of recognition: images, videos, cameras and clips of skeletons."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jdance.data import containers, openpose_json, videos
from jdance.errors import UserError
from jdance.remote import objects
from jdance.remote.objects import Entry
from jdance.stagedance import stage


@dataclass(frozen=True)
class Job:
    """An input, and where its results go.

    Attributes:
        source: an image, a video, a folder of OpenPose JSON files, or "camera:N"; of a file in a
            store a path that does not exist, or that of its copy.
        name: path of the results in the output folder, without a suffix, with "/".
        start, end: time range in seconds; None: as for all inputs.
        problem: why it cannot be recognized; "" if nothing is known to be wrong.
        address: of an input in a store; "": it is local.
        entry: size and version of an input in a store; None: unknown.
    """

    source: Path
    name: str
    start: float | None = None
    end: float | None = None
    problem: str = ""
    address: str = ""
    entry: Entry | None = None

    @property
    def label(self) -> str:
        """The input in messages and results; without the query of a URL, which may be secret."""
        return self.address.partition("?")[0] if self.address else str(self.source)

    @property
    def origin(self) -> str:
        """The address or the absolute path, from which the input can be read again."""
        return self.address or os.path.abspath(self.source)

    @property
    def is_copied(self) -> bool:
        """Whether the input has to be copied before it is read."""
        return bool(self.address) and not self.source.is_dir()

    @property
    def size(self) -> int:
        """Size in bytes; 0 if it is unknown."""
        if self.entry:
            return max(self.entry.size, 0)
        try:
            return self.source.stat().st_size
        except OSError:
            return 0


def from_origin(origin: str, name: str, start: float | None, end: float | None) -> Job:
    """The input that was once listed with an `origin`."""
    address = origin if objects.is_remote(origin) else ""
    return Job(Path(origin), name, start, end, address=address)


def exists(job: Job) -> bool:
    """Whether an input still exists; True if its store cannot be asked."""
    if not job.address:
        return job.source.exists()
    try:
        objects.stat(job.address)
    except objects.Missing:
        return False
    except UserError:
        pass
    return True


def kind(path: Path) -> Literal["image", "video", "skeletons"]:
    """Returns how an input is processed; a folder is a clip of skeletons."""
    if path.is_dir():
        return "skeletons"
    return "video" if videos.is_camera(str(path)) or videos.is_video(path) else "image"


def listed_kind(job: Job) -> Literal["image", "video", "skeletons"]:
    """Returns how an input is processed; animated images in stores are images by their suffix."""
    return kind(Path(job.label) if job.is_copied else job.source)


def version(job: Job, keypoints: Path | None = None) -> dict[str, Any]:
    """Describes the content of an input by sizes in bytes and modification times or versions.

    Args:
        job: the input.
        keypoints: file or folder of its key points from another estimator, if any.

    Raises:
        OSError: the input does not exist or cannot be read.
    """
    source = job.source
    if job.entry:
        result: dict[str, Any] = job.entry._asdict()
    else:
        result = _version([source] if source.is_file() else openpose_json.frames(source), source)
    if keypoints is not None:
        paths = [keypoints]
        if keypoints.is_dir() and kind(source) == "image":
            paths = [openpose_json.path_for(source, keypoints)]
        elif keypoints.is_dir():
            prefix = f"{source.stem}_"
            paths = [p for p in openpose_json.frames(keypoints) if p.name.startswith(prefix)]
        result["keypoints"] = _version([path for path in paths if path.exists()])
    return result


def _version(paths: Sequence[Path], missing: Path | None = None) -> dict[str, Any]:
    status = [path.stat() for path in paths or ([missing] if missing else [])]
    newest = max((entry.st_mtime_ns for entry in status), default=0)
    return {"files": len(status), "size": sum(e.st_size for e in status), "mtime_ns": newest}


def seconds(source: Path, start: float, end: float, fps: float) -> float:
    """Duration of a recognized video between `start` and `end`, or of a clip; 0 for an image.

    Args:
        source: the input, which has been read.
        start, end: time range in seconds.
        fps: frame rate of a clip of skeletons.
    """
    match kind(source):
        case "image":
            return 0.0
        case "skeletons":
            length = len(openpose_json.frames(source)) / fps
        case _:
            length = containers.probe(source).end
    return max(min(length, end) - start, 0.0)


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
