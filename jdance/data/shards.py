"""Output folders of data sets, written by one process or by several independent ones.

Processes neither wait for each other nor share locks. Each one writes the shards of its partition
and then, atomically, a description of them. Whoever finds all descriptions merges them into
dataset.json; the result is the same if several do.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jdance import files, lock
from jdance.data import journal
from jdance.errors import UserError
from jdance.remote import copies, objects
from jdance.remote.lease import Lease

Info = dict[str, Any]  # the content of dataset.json, or of a partition's description

LOCK = "prepare.lock"  # held while a process writes
_FILES = (".array_record", ".msgpack", ".json")  # of a data set
_KEPT = (".array_record", journal.SUFFIX)
_MARKER = "dataset.json.partial"  # of a run that has begun
_FINISHED = "holds a data set already; remove it or choose another --output"


class Partition(NamedTuple):
    """The inputs process, process + processes, process + 2 * processes, ..."""

    process: int = 0
    processes: int = 1

    @property
    def prefix(self) -> str:
        """Prefix of this partition's file names; empty for a single process."""
        return f"part{self.process:05}of{self.processes:05}-" if self.processes > 1 else ""


def partition(process: int | None, processes: int | None) -> Partition:
    """The partition given by the flags --process_id and --num_processes.

    Raises:
        UserError: the values are inconsistent.
    """
    if process is None and processes is None:
        return Partition()
    if process is None or processes is None or not 0 <= process < processes:
        raise UserError(
            f"--process_id={process} --num_processes={processes}: give both, the first from 0 to "
            "one less than the second"
        )
    return Partition(process, processes)


@contextmanager
def output_folder(output: Path, partition: Partition) -> Iterator[Info | None]:
    """Locks and creates an output folder, which an interrupted run may have left.

    Yields:
        None; or the description, if this partition is finished already.

    Raises:
        UserError: the folder is in use, not empty, or holds a finished or a different data set.
    """
    with lock.held(output, name=f"{partition.prefix}{LOCK}", flag="--output"):
        try:
            output.mkdir(parents=True, exist_ok=True)
            finished = None
            if partition.processes > 1:
                finished = _clear_partition(output, partition)
            else:
                _clear(output)
        except OSError as error:
            raise UserError(f"{output}: cannot be written to ({error.strerror})") from error
        yield finished


@contextmanager
def stored(output: str, partition: Partition) -> Iterator[Path]:
    """The local folder to prepare a data set in; if `output` is an address, it is uploaded.

    Shards are uploaded first and descriptions last, so that an interrupted upload leaves no
    dataset.json. With several partitions, the last one merges the descriptions.

    Raises:
        UserError: the address is in use, not empty, or cannot be written to.
    """
    if not objects.is_remote(output):
        yield Path(output)
        return
    objects.check_writable(output, "output")
    address = output.rstrip("/")
    lease = Lease(address, "--output", name=f"{partition.prefix}{LOCK}")
    try:
        folder = copies.folder(address, f"{partition.prefix}prepared")
        if (folder / "dataset.json").exists():  # its upload was interrupted
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        found = objects.listing(address)
        if "dataset.json" in found and partition.processes == 1:
            raise UserError(f"{address}: {_FINISHED}")
        foreign = [name for name in found if not name.endswith((LOCK, *_FILES))]
        if foreign:
            raise UserError(f"{address}: is not empty ({foreign[0]}); choose another --output")
        _fetch_infos(address, folder, partition)
        yield folder
        for suffix in (".array_record", ".msgpack", "info.json"):
            paths = sorted(folder.glob(f"{partition.prefix}*{suffix}"))
            list(objects.in_parallel(partial(_upload, address), paths))
        if partition.processes > 1:
            _fetch_infos(address, folder, partition)
            _merge_if_complete(folder, partition)
        if (folder / "dataset.json").exists():
            _upload(address, folder / "dataset.json")
    finally:
        lease.release()


def _upload(address: str, path: Path) -> None:
    objects.upload(path, objects.join(address, path.name))


def _fetch_infos(address: str, folder: Path, partition: Partition) -> None:
    """Copies the descriptions of finished partitions that are not in the local folder."""
    if partition.processes == 1:
        return
    for name in objects.listing(address):
        if name.endswith("-info.json") and not (folder / name).exists():
            (folder / name).write_bytes(objects.read(objects.join(address, name)))


def check_free(folder: Path) -> None:
    """Raises UserError if an output folder holds a finished data set or anything else."""
    if (folder / "dataset.json").exists():
        raise UserError(f"{folder}: {_FINISHED}")
    # With a marker, `record_writer.open_writers` keeps or deletes shards.
    is_begun = not folder.exists() or (folder / _MARKER).exists()
    if not is_begun and any(path.name != LOCK for path in folder.iterdir()):
        raise UserError(f"{folder}: is not empty; choose another --output")


def _clear(folder: Path) -> None:
    check_free(folder)
    (folder / _MARKER).touch()


def _clear_partition(folder: Path, partition: Partition) -> Info | None:
    path = _info_path(folder, partition)
    if path.exists():
        return _merge_if_complete(folder, partition) or json.loads(path.read_text())
    if (folder / "dataset.json").exists():
        raise UserError(f"{folder}: {_FINISHED}")
    for path in folder.iterdir():
        if path.name.endswith(LOCK):
            continue
        if not path.name.startswith("part") or f"of{partition.processes:05}-" not in path.name:
            raise UserError(
                f"{folder}: holds {path.name}, which is not part of a data set of "
                f"{partition.processes} processes; choose another --output"
            )
        # `record_writer.open_writers` keeps or deletes shards.
        if path.name.startswith(partition.prefix) and path.suffix not in _KEPT:
            path.unlink()
    return None


def write_info(output: Path, partition: Partition, info: Info, plan: str = "") -> Info:
    """Completes a partition, or the data set if no other partition is missing.

    Args:
        output: folder of the data set.
        partition: the one that is finished.
        info: its description.
        plan: identifies the items and arguments of all partitions.

    Returns:
        The description of the data set, or of this partition if others are missing.

    Raises:
        UserError: the data set has no example, or the partitions have different plans.
    """
    if partition.processes > 1:
        _write(_info_path(output, partition), info | {"plan": plan}, partition)
        info = _merge_if_complete(output, partition) or info
    complete = partition.processes == 1 or (output / "dataset.json").exists()
    if complete and not any(split["count"] for split in info["splits"].values()):
        message = "no usable training examples"
        if info["skipped"]:
            first = info["skipped"][0]
            message += f"; the first problem: {first['file']}: {first['reason']}"
        raise UserError(message)
    if partition.processes == 1:
        files.atomic_write(output / "dataset.json", json.dumps(info, indent=2) + "\n")
    journal.path(output, partition.prefix).unlink(missing_ok=True)
    return info


def _info_path(folder: Path, partition: Partition) -> Path:
    return folder / f"{partition.prefix}info.json"


def _merge_if_complete(folder: Path, partition: Partition) -> Info | None:
    """Writes and returns dataset.json if all partitions are finished."""
    every = [Partition(number, partition.processes) for number in range(partition.processes)]
    paths = [_info_path(folder, one) for one in every]
    if not all(path.exists() for path in paths):
        return None
    info = merge([json.loads(path.read_text()) for path in paths])
    _write(folder / "dataset.json", info, partition)
    return info


def merge(infos: list[Info]) -> Info:
    """Merges the descriptions of all partitions, in their order.

    Raises:
        UserError: they belong to different data sets.
    """
    first = infos[0]
    for info in infos[1:]:
        for key in sorted(first.keys() - {"splits", "skipped", "unmatched", "plan"}):
            if info.get(key) != first[key]:
                raise UserError(
                    f"the parts differ: {key} is {first[key]!r} in one and {info.get(key)!r} in "
                    "another; prepare them all again with the same flags"
                )
        if info.get("plan") != first.get("plan"):
            raise UserError(
                "the parts differ: they have other flags, or the source has changed in between; "
                "prepare them all again with the same flags"
            )
    splits = {}
    for name in first["splits"]:
        parts = [info["splits"][name] for info in infos]
        splits[name] = {
            "count": sum(part["count"] for part in parts),
            "people_found": sum(part["people_found"] for part in parts),
            "per_class": {
                label: sum(part["per_class"][label] for part in parts)
                for label in parts[0]["per_class"]
            },
            "shards": [shard for part in parts for shard in part["shards"]],
            "checksums": [digest for part in parts for digest in part["checksums"]],
        }
        if all("index" in part for part in parts):  # not if an older version wrote one of them
            for key in ("index", "index_checksums"):
                splits[name][key] = [file for part in parts for file in part[key]]
        if "whole_copies" in parts[0]:
            splits[name]["whole_copies"] = sum(part["whole_copies"] for part in parts)
    skipped = {json.dumps(entry): entry for info in infos for entry in info["skipped"]}
    merged = first | {"splits": splits, "skipped": list(skipped.values())}
    merged.pop("plan", None)
    if "unmatched" in first:
        merged["unmatched"] = [name for info in infos for name in info["unmatched"]]
    return merged


def _write(path: Path, info: Info, partition: Partition) -> None:
    """Writes JSON atomically, by a temporary file of this partition's own."""
    partial = path.with_name(f"{partition.prefix}{path.name}.partial")
    partial.write_text(json.dumps(info, indent=2) + "\n")
    os.replace(partial, path)
