"""A data set that several processes write: each its share, and whoever is last joins them.

No process waits for another and nothing is locked: a finished part is a file that appears at once,
and joining all of them gives the same dataset.json, whoever does it, and if several do.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from jdance.errors import UserError

Info = dict[str, Any]


class Partition(NamedTuple):
    """Process `process` of `processes`, which takes the inputs process, process + processes, ..."""

    process: int = 0
    processes: int = 1

    @property
    def prefix(self) -> str:
        """What the names of this share's shards begin with; empty where there is one process."""
        return f"part{self.process:05}of{self.processes:05}-" if self.processes > 1 else ""


def partition(process: int | None, processes: int | None) -> Partition:
    """The share that flags name.

    Raises:
        UserError: they make no sense together.
    """
    if process is None and processes is None:
        return Partition()
    if process is None or processes is None or not 0 <= process < processes:
        raise UserError(
            f"--process_id={process} --num_processes={processes}: give both, the first from 0 to "
            "one less than the second"
        )
    return Partition(process, processes)


LOCK = "prepare.lock"  # held by whoever writes


def _file(folder: Path, partition: Partition) -> Path:
    return folder / f"{partition.prefix}info.json"


def claim(folder: Path, partition: Partition) -> Info | None:
    """Makes the folder ready for a share; what an interrupted run of it left is removed.

    Returns:
        None; or, if that share is done already, what `finish` returns.

    Raises:
        UserError: the folder holds something else, or a data set of another number of processes.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if _file(folder, partition).exists():
            return join(folder, partition) or json.loads(_file(folder, partition).read_text())
        if (folder / "dataset.json").exists():
            raise UserError(
                f"{folder}: holds a data set already; remove it or choose another --output"
            )
        ending = f"of{partition.processes:05}-"
        for path in folder.iterdir():
            if path.name.endswith(LOCK):
                continue
            if not path.name.startswith("part") or ending not in path.name:
                raise UserError(
                    f"{folder}: holds {path.name}, which is not of {partition.processes} processes' "
                    "work; choose another --output"
                )
            if path.name.startswith(partition.prefix):
                path.unlink()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror})") from error
    return None


def finish(folder: Path, partition: Partition, info: Info) -> Info:
    """Writes a share's description and returns it; the data set's, if this was its last part."""
    _write(_file(folder, partition), info, partition)
    return join(folder, partition) or info


def join(folder: Path, partition: Partition) -> Info | None:
    """Makes dataset.json and returns its content if all parts are there, else None.

    Raises:
        UserError: the parts are not of one data set.
    """
    every = [Partition(number, partition.processes) for number in range(partition.processes)]
    files = [_file(folder, part) for part in every]
    if not all(path.exists() for path in files):
        return None
    info = merged([json.loads(path.read_text()) for path in files])
    _write(folder / "dataset.json", info, partition)
    return info


def merged(infos: list[Info]) -> Info:
    """The description of a data set from those of its parts, in their order.

    Raises:
        UserError: they are not of one data set.
    """
    first = infos[0]
    own = {"splits", "skipped", "unmatched"}
    for info in infos[1:]:
        for key in sorted(first.keys() - own):
            if info.get(key) != first[key]:
                raise UserError(
                    f"the parts differ: {key} is {first[key]!r} in one and {info.get(key)!r} in "
                    "another; prepare them all again with the same flags"
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
        if "whole_copies" in parts[0]:
            splits[name]["whole_copies"] = sum(part["whole_copies"] for part in parts)
    skipped = {json.dumps(entry): entry for info in infos for entry in info["skipped"]}
    joined = first | {"splits": splits, "skipped": list(skipped.values())}
    if "unmatched" in first:
        joined["unmatched"] = [name for info in infos for name in info["unmatched"]]
    return joined


def _write(path: Path, info: Info, partition: Partition) -> None:
    """At once, and without disturbing another process that writes the same."""
    partial = path.with_name(f"{partition.prefix}{path.name}.partial")
    partial.write_text(json.dumps(info, indent=2) + "\n")
    os.replace(partial, path)
