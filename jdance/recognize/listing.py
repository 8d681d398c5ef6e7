"""Lists inputs of recognition: from a folder, a pattern, a CSV file, or an object store.

Inputs in stores are listed with size and version, not copied.
"""

import dataclasses
import glob
import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from jdance import files
from jdance.data import images, manifest, openpose_json, videos
from jdance.data.sources import skip_reason
from jdance.errors import UserError, exit_status
from jdance.recognize import summary
from jdance.recognize.inputs import Job, kind
from jdance.recognize.ledger import FAILURES_FILE
from jdance.recognize.storage import Storage
from jdance.remote import copies, objects, patterns
from jdance.remote.objects import Entry

_LABELS = "manifest.csv"  # labels the inputs for training
# Names in the output folder of files about all results.
_RESERVED = (Path(FAILURES_FILE).stem, summary.STEM)


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
        return [files.named(path)], []
    expected = {entry.resolve() for entry in (*inputs, *ignored)}
    belongs = _belonging(inputs)
    unreadable = sorted(
        entry
        for entry in path.iterdir()
        if not entry.name.startswith(".")
        and entry.resolve() not in expected
        and not belongs(entry, entry.is_dir())
    )
    if not inputs and not unreadable:
        raise UserError(f"{path}: no images or videos in it; check --input")
    return inputs, unreadable


def _belonging(inputs: Sequence[Path]) -> Callable[[Path, bool], bool]:
    """Whether an entry, perhaps a folder, holds key points or the true timeline of an input."""
    prefixes = tuple(f"{entry.stem}_" for entry in inputs)

    def belongs(entry: Path, is_folder: bool) -> bool:
        known = is_folder or entry.suffix in (".json", ".csv")
        return (known and entry.name.startswith(prefixes)) or entry.name == _LABELS

    return belongs


def jobs(text: str, output: str, ignored: Iterable[str] = ()) -> list[Job]:
    """Lists the inputs of --input with the names of their results.

    Args:
        text: a path as for `collect`, a pattern such as "archive/**/*.mp4", or a CSV file with the
            columns path[,start,end,output]; or the address of one of them.
        output: folder of the results or its address; inputs in it are left out of patterns.
        ignored: paths or addresses, see `collect`.

    Returns:
        Results of a pattern keep the folders below its fixed part, and those of a CSV file the
        folders of relative paths, unless the column output names them.

    Raises:
        UserError: there are no inputs, or a store cannot be listed.
    """
    if objects.is_remote(text):
        return _in_store(text, {output.rstrip("/"), *(path.rstrip("/") for path in ignored)})
    path = Path(text)
    if path.suffix.lower() in manifest.SUFFIXES and path.is_file():
        return _listed(path, str(path.parent))
    if glob.has_magic(text) and not path.exists():
        return _matching(text, Path(output))
    local = (Path(name) for name in (output, *ignored) if not objects.is_remote(name))
    found, unreadable = collect(path, local)
    names = files.distinct_names(found, _RESERVED)
    nested = f"a nested folder; name a pattern such as '{path}/**/*'"
    return [Job(source, name) for source, name in zip(found, names, strict=True)] + [
        Job(source, "", problem=nested if source.is_dir() else skip_reason(source))
        for source in unreadable
    ]


def _matching(pattern: str, output: Path) -> list[Job]:
    base, rest = Path(), list(Path(pattern).parts)
    # Brackets may be part of a folder's name.
    while rest and (not glob.has_magic(rest[0]) or (base / rest[0]).is_dir()):
        base /= rest.pop(0)
    own, escaped = output.resolve(), glob.escape(str(base))
    matches = sorted(map(Path, glob.glob(os.path.join(escaped, *rest), recursive=True)),
                     key=files.natural_key)  # fmt: skip
    paths = [p for p in matches if p.is_file() and not p.resolve().is_relative_to(own)]
    if not paths and any(path.is_dir() for path in matches):
        raise UserError(f"{pattern}: matches folders only; add /* for the files in them")
    if not paths:
        raise UserError(f"{pattern}: no file matches it; check --input")
    known = [p for p in paths if images.is_image(p) or videos.is_video(p)]
    names = _names(known, [_folder_below(base, p) for p in known])
    return [Job(source, name) for source, name in zip(known, names, strict=True)] + [
        Job(p, "", problem=skip_reason(p)) for p in paths if p not in set(known)
    ]


def _in_store(address: str, ignored: Collection[str]) -> list[Job]:
    """Lists inputs in a store: a file, a CSV file, a pattern, or a folder."""
    name = objects.base_name(address)
    if Path(name).suffix.lower() in manifest.SUFFIXES:
        return _listed(copies.local(address), address.partition("?")[0].rpartition("/")[0])
    if not address.endswith("/"):
        try:
            entry = objects.stat(address)
        except objects.Missing:
            if objects.is_read_only(address):
                raise
        else:
            source = _placeholder(address)
            (name,) = files.distinct_names([source], _RESERVED)
            return [Job(source, name, address=address, entry=entry)]
    if objects.is_read_only(address):
        raise UserError(f"{address}: https:// has no folders; name a file, or use s3:// or gs://")
    if glob.has_magic(address):
        return _matching_in_store(address, ignored)
    return _collect_in_store(address.rstrip("/"), ignored)


def _matching_in_store(pattern: str, ignored: Collection[str]) -> list[Job]:
    base, _ = patterns.split(pattern)
    below = tuple(f"{address}/" for address in ignored)
    found = {
        Path(name): entry
        for name, entry in patterns.matching(pattern).items()
        if not objects.join(base, name).startswith(below)
    }
    if not found:
        raise UserError(f"{pattern}: no object matches it; check --input")
    paths = sorted(found, key=files.natural_key)
    known = [p for p in paths if images.is_image(p) or videos.is_video(p)]
    names = dict(zip(known, _names(known, [p.parent for p in known]), strict=True))
    return [
        _stored(base, path, found[path], names.get(path, ""))
        for path in (*known, *(p for p in paths if p not in names))
    ]


def _collect_in_store(folder: str, ignored: Collection[str]) -> list[Job]:
    """Lists the inputs of a folder, see `collect`."""
    listed = {Path(name): entry for name, entry in objects.listing(folder).items()}
    found = {path: entry for path, entry in listed.items() if len(path.parts) == 1}
    folders = {Path(path.parts[0]) for path in listed if len(path.parts) > 1}
    media = [path for path in found if images.is_image(path) or videos.is_video(path)]
    inputs = sorted((p for p in media if not p.name.startswith(".")), key=files.natural_key)
    clip = {path: entry for path, entry in found.items() if path.suffix == ".json"}
    if not inputs and clip:
        return [_stored_clip(folder, clip)]
    belongs = _belonging(inputs)
    unreadable = sorted(
        path
        for path in found.keys() | folders
        if not path.name.startswith(".")
        and path not in set(inputs)
        and objects.join(folder, str(path)) not in ignored
        and not belongs(path, path in folders)
    )
    if not inputs and not unreadable:
        raise UserError(f"{folder}: no images or videos in it; check --input")
    names = files.distinct_names(inputs, _RESERVED)
    return [
        _stored(folder, path, found[path], name) for path, name in zip(inputs, names, strict=True)
    ] + [
        _stored(
            folder, path, found.get(path), "", "a nested folder; name a pattern" * (path in folders)
        )
        for path in unreadable
    ]


def _stored(folder: str, path: Path, entry: Entry | None, name: str, problem: str = "") -> Job:
    """An input below a folder in a store; without a name, it cannot be recognized."""
    if not name:
        problem = problem or skip_reason(path)
    address = objects.join(folder, path.as_posix())
    return Job(_placeholder(address), name, problem=problem, address=address, entry=entry)


def _placeholder(address: str) -> Path:
    """A path with the name of an object, which does not exist.

    Raises:
        UserError: the address names no object.
    """
    name = objects.base_name(address)
    if not name:
        raise UserError(f"{address}: names no file")
    return Path(address.partition("?")[0]).with_name(name)


def _stored_clip(folder: str, found: Mapping[Path, Entry]) -> Job:
    """A clip of skeletons, which is copied at once."""
    content = sorted((str(path), entry.version) for path, entry in found.items())
    digest = hashlib.sha256(repr(content).encode()).hexdigest()
    entry = Entry(sum(entry.size for entry in found.values()), digest)
    (name,) = files.distinct_names([Path(objects.base_name(folder))], _RESERVED)
    return Job(copies.local(f"{folder}/"), name, address=folder, entry=entry)


def _listed(path: Path, base: str) -> list[Job]:
    """Reads a CSV file; rows that cannot be used become jobs with a `problem`.

    Args:
        path: of the file.
        base: folder to which its paths are relative, or the address of one.
    """
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
            entries.append(_row(base, row))
        except UserError as error:
            source = Path(f"{path}, line {line}")
            entries.append(Job(source, "", problem=str(error)))
    unnamed = [i for i, job in enumerate(entries) if not job.name and not job.problem]
    sources = [entries[i].source for i in unnamed]
    folders = [_folder_below(Path(base), Path(entries[i].label)) for i in unnamed]
    for i, name in zip(unnamed, _names(sources, folders), strict=True):
        entries[i] = dataclasses.replace(entries[i], name=name)
    lines: dict[str, int] = {}
    for (line, _), job in zip(rows, entries, strict=True):
        first = lines.setdefault(job.name.casefold(), line) if job.name else line
        if first != line:
            raise UserError(
                f"{path}: lines {first} and {line} have the same results, {job.name}; correct the "
                "column output"
            )
    return _looked_up(entries)


def _row(base: str, row: dict[str, str]) -> Job:
    if not row.get("path"):
        raise UserError("path is empty")
    start, end = manifest.time_span(row)
    address, name = _address(base, row["path"]), row.get("output", "")
    source = _placeholder(address) if address else Path(base, row["path"])
    parts = Path(name).parts
    if name and (Path(name).is_absolute() or ".." in parts or parts[0].startswith(".")):
        raise UserError(f"output {name!r}: expected a path inside --output")
    if Path(name).as_posix().casefold() in _RESERVED:
        raise UserError(f"output {name!r}: a file about all results has this name; choose another")
    if (row.get("start") or row.get("end")) and kind(source) == "image":
        raise UserError(f"{address or source}: start and end are for videos")
    if kind(source) == "skeletons" and not openpose_json.frames(source):
        raise UserError(f"{source}: a folder without OpenPose JSON files; name a file or a clip")
    return Job(
        source,
        Path(name).as_posix() if name else "",
        start if row.get("start") else None,
        end if row.get("end") else None,
        address=address,
    )


def _address(base: str, path: str) -> str:
    """The address that a path in a CSV file names; "" for a local path."""
    if objects.is_remote(path):
        return path
    if not objects.is_remote(base) or Path(path).is_absolute():
        return ""
    scheme, rest = base.split("://", 1)
    return f"{scheme}://{os.path.normpath(f'{rest}/{path}')}"


def _looked_up(jobs: Sequence[Job]) -> list[Job]:
    """Adds size and version of inputs in stores; those that cannot be read get a `problem`.

    A web server that fails is asked again when the turn of its inputs comes.

    Raises:
        UserError: a store fails, or none of the inputs can be read.
    """
    errors: list[UserError] = []
    down: set[str] = set()  # web servers

    def look_up(address: str) -> Entry | UserError | None:
        host = address.split("/")[2]
        if host in down:
            return None
        try:
            return objects.stat(address)
        except UserError as error:
            if exit_status(error) == 1:
                errors.append(error)
                return error
            if not objects.is_read_only(address):
                raise
            down.add(host)
            return None

    addresses = list(dict.fromkeys(job.address for job in jobs if job.address and not job.problem))
    found = dict(zip(addresses, objects.in_parallel(look_up, addresses), strict=True))
    if errors and len(errors) == len({job.origin for job in jobs}):
        raise errors[0]
    result = []
    for job in jobs:
        match found.get(job.address):
            case Entry() as entry:
                result.append(dataclasses.replace(job, entry=entry))
            case UserError() as error:
                problem = str(error).removeprefix(f"{job.address}: ")
                result.append(dataclasses.replace(job, problem=problem))
            case _:
                result.append(job)
    return result


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
        reserved = _RESERVED if below == "." else ()
        names = files.distinct_names([paths[i] for i in indices], reserved)
        for i, name in zip(indices, names, strict=True):
            result[i] = (Path(below) / name).as_posix()
    return result


def check_output(jobs: Iterable[Job], output: Storage) -> None:
    """Raises UserError if results would lie in a folder of inputs, which they could replace.

    Of an input that is a symbolic link, the folder of its target counts, too.
    """
    jobs = list(jobs)
    local = {job.source for job in jobs if not job.address and not videos.is_camera(job.label)}
    local |= {Path(os.path.realpath(path)) for path in local if path.is_symlink()}
    taken = {str(p.resolve()) for p in {q.parent for q in local} | {q for q in local if q.is_dir()}}
    for label in {job.label for job in jobs if job.address}:
        taken |= {label, label.rpartition("/")[0]}
    targets = {f"{output}/{job.name}".rpartition("/")[0] for job in jobs}
    for target in sorted({str(output), *targets}):
        if (target if objects.is_remote(target) else str(Path(target).resolve())) in taken:
            raise UserError(f"{target}: is a folder of the inputs; choose another --output")
