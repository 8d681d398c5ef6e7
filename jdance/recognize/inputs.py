"""Inputs of recognition: images, videos, cameras, clips of skeletons, and lists of them."""

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jdance import files
from jdance.data import containers, images, manifest, openpose_json, videos
from jdance.data.sources import skip_reason
from jdance.errors import UserError
from jdance.stagedance import stage

_LABELS = "manifest.csv"  # labels the inputs for training


@dataclass(frozen=True)
class Job:
    """An input, and where its results go.

    Attributes:
        source: an image, a video, a folder of OpenPose JSON files, or "camera:N".
        name: path of the results in the output folder, without a suffix, with "/".
        start, end: time range in seconds; None: as for all inputs.
        problem: why it cannot be recognized; "" if nothing is known to be wrong.
    """

    source: Path
    name: str
    start: float | None = None
    end: float | None = None
    problem: str = ""


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
        return (known and entry.name.startswith(prefixes)) or entry.name == _LABELS

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


def jobs(text: str, output: Path, ignored: Iterable[Path] = ()) -> list[Job]:
    """Lists the inputs of --input with the names of their results.

    Args:
        text: a path as for `collect`, a pattern such as "archive/**/*.mp4", or a CSV file with the
            columns path[,start,end,output].
        output: folder of the results; inputs in it are left out of patterns.
        ignored: see `collect`.

    Returns:
        Results of a pattern keep the folders below its fixed part, and those of a CSV file the
        folders of relative paths, unless the column output names them.

    Raises:
        UserError: there are no inputs.
    """
    path = Path(text)
    if path.suffix.lower() in manifest.SUFFIXES and path.is_file():
        return _listed(path)
    if glob.has_magic(text) and not path.exists():
        return _matching(text, output)
    found, unreadable = collect(path, [output, *ignored])
    names = files.distinct_names(found)
    return [Job(source, name) for source, name in zip(found, names, strict=True)] + [
        Job(source, "", problem=skip_reason(source)) for source in unreadable
    ]


def _matching(pattern: str, output: Path) -> list[Job]:
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    base, own = Path(*parts[:fixed]), output.resolve()
    paths = sorted(map(Path, glob.glob(pattern, recursive=True)), key=files.natural_key)
    paths = [p for p in paths if p.is_file() and not p.resolve().is_relative_to(own)]
    if not paths:
        raise UserError(f"{pattern}: no file matches it; check --input")
    known = [p for p in paths if images.is_image(p) or videos.is_video(p)]
    names = _names(known, [_folder_below(base, p) for p in known])
    return [Job(source, name) for source, name in zip(known, names, strict=True)] + [
        Job(p, "", problem=skip_reason(p)) for p in paths if p not in set(known)
    ]


def _listed(path: Path) -> list[Job]:
    """Reads a CSV file; rows that cannot be used become jobs with a `problem`."""
    columns, listed = manifest.read_table(path)
    rows = list(listed)
    if "path" not in columns:
        raise UserError(
            f"{path}: the first line must name the column path (path[,start,end,output]); it has "
            f"{', '.join(columns) or 'none'}"
        )
    if not rows:
        raise UserError(f"{path}: lists no inputs; check --input")
    entries: list[Job] = []
    for line, row in rows:
        try:
            entries.append(_row(path.parent, row))
        except UserError as error:
            source = Path(f"{path}, line {line}")
            entries.append(Job(source, "", problem=str(error)))
    unnamed = [i for i, job in enumerate(entries) if not job.name and not job.problem]
    sources = [entries[i].source for i in unnamed]
    folders = [_folder_below(path.parent, source) for source in sources]
    for i, name in zip(unnamed, _names(sources, folders), strict=True):
        job = entries[i]
        entries[i] = Job(job.source, name, job.start, job.end)
    lines: dict[str, int] = {}
    for (line, _), job in zip(rows, entries, strict=True):
        first = lines.setdefault(job.name.casefold(), line) if job.name else line
        if first != line:
            raise UserError(
                f"{path}: lines {first} and {line} have the same results, {job.name}; correct the "
                "column output"
            )
    return entries


def _row(folder: Path, row: dict[str, str]) -> Job:
    if not row.get("path"):
        raise UserError("path is empty")
    start, end = manifest.time_span(row)
    source, name = folder / row["path"], row.get("output", "")
    parts = Path(name).parts
    if name and (Path(name).is_absolute() or ".." in parts or parts[0].startswith(".")):
        raise UserError(f"output {name!r}: expected a path inside --output")
    if (row.get("start") or row.get("end")) and kind(source) == "image":
        raise UserError(f"{source}: start and end are for videos")
    return Job(
        source,
        Path(name).as_posix() if name else "",
        start if row.get("start") else None,
        end if row.get("end") else None,
    )


def _folder_below(base: Path, path: Path) -> Path:
    """The folder of a path relative to `base`; an empty path if it is not in `base`."""
    parent = Path(os.path.normpath(path.parent))
    base = Path(os.path.normpath(base))
    return parent.relative_to(base) if parent.is_relative_to(base) else Path()


def _names(paths: Sequence[Path], folders: Sequence[Path]) -> list[str]:
    """Names of results, distinct in each of the folders; paths may occur several times."""
    result = [""] * len(paths)
    members: dict[str, list[int]] = {}
    for i, folder in enumerate(folders):
        members.setdefault(folder.as_posix(), []).append(i)
    for below, indices in members.items():
        names = files.distinct_names([paths[i] for i in indices])
        for i, name in zip(indices, names, strict=True):
            result[i] = (Path(below) / name).as_posix()
    return result


def version(source: Path, keypoints: Path | None = None) -> dict[str, Any]:
    """Describes the content of an input by sizes in bytes and modification times.

    Args:
        source: the input.
        keypoints: file or folder of its key points from another estimator, if any.

    Raises:
        OSError: the input does not exist or cannot be read.
    """
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
