"""Inputs of recognition: images, videos, cameras and clips of skeletons."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
        keypoints: its key points from another estimator: the file of an image, or the folder with
            those of a video's frames; None: people are detected.
    """

    source: Path
    name: str
    start: float | None = None
    end: float | None = None
    problem: str = ""
    address: str = ""
    entry: Entry | None = None
    keypoints: Path | None = None

    @property
    def label(self) -> str:
        """The input in messages and results; without the query of a URL, which may be secret."""
        return self.address.partition("?")[0] if self.address else str(self.source)

    @property
    def file_name(self) -> str:
        """The name of the file, in the folders of its results: it tells the inputs apart."""
        return (Path(self.name).parent / self.source.name).as_posix()

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


def with_keypoints(jobs: Sequence[Job], path: Path) -> list[Job]:
    """Finds the key points of inputs from another estimator.

    Those of the input whose results are FOLDER/NAME are looked up in FOLDER below `path`, by the
    stem of the input if no other one there has it, else by NAME; then in `path` itself if no other
    input has the stem. With several inputs of a stem, those without key points get a `problem`.

    Args:
        jobs: all inputs.
        path: OpenPose's JSON of the only image, or a folder: for the image a.jpg, it has
            a_keypoints.json; for the video a.mp4, a_000000000000_keypoints.json, ..., perhaps in
            the folder a_keypoints.
    """
    if not path.is_dir():
        return [replace(job, keypoints=path) for job in jobs]
    kinds = ["" if job.problem else listed_kind(job) for job in jobs]
    origins = defaultdict[tuple[object, ...], set[str]](set)
    for job, media in zip(jobs, kinds, strict=True):
        key = media, job.source.stem.casefold()
        origins[key].add(job.origin)
        origins[*key, Path(job.name).parent].add(job.origin)
    result = []
    for job, media in zip(jobs, kinds, strict=True):
        if media not in ("image", "video"):
            result.append(job)
            continue
        stem, name, folder = job.source.stem, Path(job.name).name, Path(job.name).parent
        count = len(origins[media, stem.casefold()])
        is_alone = len(origins[media, stem.casefold(), folder]) == 1
        names = [stem] * is_alone
        if not is_alone or (media, name.casefold(), folder) not in origins:
            names.append(name)
        if media == "image":
            places = [openpose_json.path_for(n, path / folder) for n in names]
            places += [openpose_json.path_for(stem, path)] * (count == 1)
            found, expected = [file for file in places if file.exists()], places[0]
        else:
            places = [path / folder] * is_alone + [path] * (count == 1)
            places += [path / folder / f"{n}_keypoints" for n in names]
            found = [p for p in places if openpose_json.video_frames(job.source.name, p)]
            expected = openpose_json.path_for_frame(job.source.name, 0, places[0])
        if found or count == 1:
            result.append(replace(job, keypoints=[*found, places[0]][0]))
        else:
            problem = f"{count} inputs are called {stem}; its key points must be {expected}"
            result.append(replace(job, problem=problem))
    return result


def version(job: Job) -> dict[str, Any]:
    """Describes the content of an input by sizes in bytes and modification times or versions.

    The key points of another estimator are part of it.

    Raises:
        OSError: the input does not exist or cannot be read.
    """
    source = job.source
    if job.entry:
        result: dict[str, Any] = job.entry._asdict()
    else:
        result = _version([source] if source.is_file() else openpose_json.frames(source), source)
    if job.keypoints:
        paths = [job.keypoints]
        if job.keypoints.is_dir():
            paths = list(openpose_json.video_frames(source.name, job.keypoints).values())
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
        keypoints = openpose_json.path_for(path.stem, path.parent)
    return openpose_json.read_generator(keypoints) == stage.NAME
