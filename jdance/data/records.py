"""Data sets on disk: ArrayRecord shards of examples, described by dataset.json.

One record is a msgpack map:
    image       JPEG of the crop, 256x256 RGB; absent in data sets of skeletons
    keypoints   float32 [J, 3], or [T, J, 3] for a sequence of T frames, little-endian bytes:
                x, y in pixels of the crop, score
    shape       shape of the key points
    label       index into dataset.json's classes
    group       examples of a group share a split, such as the frames of a video
    source      the file of the example
    person      index of the person in the file, counted from the left

Data sets for pose networks hold whole images instead; see `scenes`.

dataset.json: {"version", "kind" ("persons" or "people"), "classes", "layout", "sequences", "pose",
"seed", "splits": {name: {"count", "people_found", "per_class", "shards", "checksums", "index",
"index_checksums"}}, "skipped": [{"file", "reason"}], "unmatched"}. "layout" names the J joints (a
key of `jdance.skeleton.LAYOUTS`); data sets of people have neither layout nor sequences. The
SHA-256 checksum of a shard is verified before the shard is read; a file whose size, time and inode
are those in verified.json has been verified before.

An index holds the labels and groups of a split, so that nothing has to read all records for them.
It is a msgpack map: label (int32, little-endian bytes), group (int32 bytes, indices into groups)
and groups (names in UTF-8, separated by zero bytes). Data sets without an index are read, too.
"""

import hashlib
import json
import os
import re
import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import msgpack
import numpy as np
from grain.sources import ArrayRecordDataSource

from jdance import files, skeleton
from jdance.data import crop, images
from jdance.data.marks import Marks
from jdance.errors import UserError, exit_status
from jdance.remote import copies, objects

VERSION = 2


@dataclass(frozen=True)
class Example:
    """One person with a motion label; the fields are those of the record."""

    keypoints: np.ndarray
    label: int
    image: bytes | None = None
    group: str = ""
    source: str = ""
    person: int = 0


def pack(example: Example) -> bytes:
    """Serializes an example."""
    record = {
        "keypoints": example.keypoints.astype("<f4").tobytes(),
        "shape": example.keypoints.shape,
        "label": example.label,
        "group": example.group,
        "source": example.source,
        "person": example.person,
    }
    if example.image is not None:
        record["image"] = example.image
    return msgpack.packb(record)


def unpack(data: bytes) -> Example:
    """Deserializes an example; its key points are cleaned of non-finite values.

    Raises:
        UserError: the record is damaged.
    """
    with damaged_record_errors():
        record = msgpack.unpackb(data)
        keypoints = np.frombuffer(record["keypoints"], "<f4").reshape(record["shape"])
        label, image, person = record["label"], record.get("image"), record["person"]
        if keypoints.ndim not in (2, 3) or keypoints.shape[-1] != 3 or not keypoints.size:
            raise ValueError(f"key points of shape {keypoints.shape}")
        if not (isinstance(label, int) and 0 <= label < 2**31 and isinstance(person, int)):
            raise ValueError(f"label {label!r}, person {person!r}")
        if not isinstance(image, bytes | None):
            raise ValueError("an image of a wrong type")
        return Example(
            skeleton.clean(keypoints), label, image, str(record["group"]), str(record["source"]),
            person,
        )  # fmt: skip


@contextmanager
def damaged_record_errors() -> Iterator[None]:
    """Turns exceptions of a damaged record into UserError."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise UserError(f"a damaged record ({error}); prepare the data again") from error
    except (msgpack.UnpackException, RecursionError) as error:
        raise UserError("a record that is not a msgpack map; prepare the data again") from error


def decode_image(data: bytes, factor: int = 1) -> np.ndarray:
    """Decodes a stored crop at 1 / factor of its size: uint8 RGB [SIZE / factor, SIZE / factor, 3].

    The factor is 1, 2 or 4; decoding a smaller image is faster.

    Raises:
        UserError: the image is damaged or has another size.
    """
    # The GRAYSCALE flags only select the size here; the COLOR ones would select BGR, too.
    reduced = {1: 0, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4}[factor]
    image = images.decode(data, cv2.IMREAD_COLOR_RGB | reduced)
    side = crop.SIZE // factor
    if image is None or image.shape != (side, side, 3):
        raise UserError(
            f"a record holds an image that is damaged or not {crop.SIZE} x {crop.SIZE} pixels; "
            "prepare the data again"
        )
    return image


def read_labels(source: Any) -> np.ndarray:
    """Labels int64 [N] of N packed examples, from the index if there is one."""
    if isinstance(source, Shards) and source.index:
        return np.concatenate([labels for labels, _ in source.read_index()])
    with damaged_record_errors():
        return np.array([msgpack.unpackb(source[i])["label"] for i in range(len(source))], np.int64)


def read_groups(source: Any) -> np.ndarray:
    """Groups str [N] of N packed examples, from the index if there is one."""
    if isinstance(source, Shards) and source.index:
        return np.concatenate([groups for _, groups in source.read_index()])
    with damaged_record_errors():
        return np.array([str(msgpack.unpackb(source[i])["group"]) for i in range(len(source))])


def pack_index(labels: Sequence[int], groups: Sequence[int], names: Iterable[str]) -> bytes:
    """Serializes an index: labels [N], groups [N] as indices into their names."""
    separated = "\0".join(name.replace("\0", "\ufffd") for name in names)
    record = {
        "label": np.asarray(labels, "<i4").tobytes(),
        "group": np.asarray(groups, "<i4").tobytes(),
        "groups": separated.encode("utf-8", "replace"),
    }
    return msgpack.packb(record)


def unpack_index(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Deserializes an index: labels int64 [N] and groups str [N].

    Raises:
        UserError: the index is damaged.
    """
    with damaged_record_errors():
        record = msgpack.unpackb(data)
        labels = np.frombuffer(record["label"], "<i4").astype(np.int64)
        positions = np.frombuffer(record["group"], "<i4")
        names = np.array(record["groups"].decode().split("\0"))
        if len(labels) != len(positions) or positions.min(initial=0) < 0:
            raise ValueError("an index of labels and groups that do not match")
        if positions.max(initial=0) >= len(names):
            raise ValueError("an index with an unknown group")
        return labels, names[positions]


class Shards:
    """Random access to the packed examples of a split; damage raises UserError.

    Args:
        paths: the shards.
        index: the files with their labels and groups; empty for older data sets.
    """

    def __init__(self, paths: list[str], index: Sequence[str] = ()):
        self._paths, self._records, self.index = paths, ArrayRecordDataSource(paths), index

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> bytes:
        try:
            return self._records[index]
        except RuntimeError as error:
            raise UserError(
                f"{Path(self._paths[0]).parent}: example {index} of the shards from "
                f"{Path(self._paths[0]).name} on is damaged; prepare the data again"
            ) from error

    def read_index(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Labels int64 and groups str of the examples, one pair per file of the index."""
        parts = [unpack_index(Path(path).read_bytes()) for path in self.index]
        if sum(len(labels) for labels, _ in parts) != len(self):
            raise UserError(f"{self.index[0]}: not the index of its shards; prepare the data again")
        return parts


def _problem(info: Any) -> str:
    """Describes what is invalid in the content of a dataset.json; "" if it is valid."""
    if not isinstance(info, dict) or info.get("version") != VERSION:
        return "another version"
    classes, splits, kind = info.get("classes"), info.get("splits"), info.get("kind")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        return "classes that are not names"
    if kind not in ("persons", "people"):
        return f"of the kind {kind!r}"
    if kind == "persons" and not (
        isinstance(info.get("layout"), str)
        and info["layout"] in skeleton.LAYOUTS
        and isinstance(info.get("sequences"), bool)
    ):
        return "an unknown layout"
    if not isinstance(splits, dict):
        return "no splits"
    for name, part in splits.items():
        # Split and shard names become file names; they must stay inside the folder.
        if not re.fullmatch(r"[\w-]{1,50}", name) or not isinstance(part, dict):
            return f"an invalid split {name[:60]!r}"
        shards, checksums = part.get("shards"), part.get("checksums")
        if type(part.get("count")) is not int or part["count"] < 0:
            return f"split {name!r} has no count"
        if not isinstance(shards, list) or not all(
            isinstance(shard, str) and re.fullmatch(r"[\w-]+\.array_record", shard)
            for shard in shards
        ):
            return f"split {name!r} has invalid shard names"
        if checksums is not None and not (
            isinstance(checksums, list)
            and len(checksums) == len(shards)
            and all(isinstance(digest, str) for digest in checksums)
        ):
            return f"split {name!r} lacks a checksum for each shard"
        index, digests = part.get("index", []), part.get("index_checksums", [])
        if not (isinstance(index, list) and isinstance(digests, list)) or not (
            len(index) == len(digests)
            and all(
                isinstance(file, str) and re.fullmatch(r"[\w-]+\.msgpack", file) for file in index
            )
            and all(isinstance(digest, str) for digest in digests)
        ):
            return f"split {name!r} has an invalid index"
    return ""


class Dataset:
    """A prepared data set.

    Args:
        folder: the output folder of launch/prepare.py, or its address in a store, from which a
            shard is copied to the cache before it is first used.
        kind: "persons" (crops with motions), "people" (whole images, for pose networks), or "" for
            either.

    Raises:
        UserError: the folder has no valid data set of that kind.
    """

    def __init__(self, folder: str | Path, kind: str = "persons"):
        self.remote = objects.is_remote(folder)
        self.name = str(folder).rstrip("/") if self.remote else str(Path(folder))
        self.folder = copies.folder(self.name, "data") if self.remote else Path(folder)
        path = self.folder / "dataset.json"
        try:
            if self.remote:
                self._fetch_description(path)
            self.info = json.loads(path.read_text())
        except (FileNotFoundError, NotADirectoryError):
            if not self.folder.exists() and not str(folder).startswith("stage:"):
                raise UserError(
                    f"{path}: no such file; make the data set with launch/prepare.py"
                ) from None
            source = shlex.quote(str(folder))
            raise UserError(
                f"{folder}: that is a source, not a data set (no dataset.json); prepare it first: "
                f"python launch/prepare.py --source={source} --output=DATA"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: cannot be read ({error}); prepare the data again") from error
        problem = _problem(self.info)
        if problem:
            raise UserError(
                f"{path}: not a data set of version {VERSION} ({problem}); prepare the data again"
            )
        found = self.info["kind"]
        if kind not in (found, ""):
            raise UserError(f"{path}: holds {found}, not {kind}; see --task in launch/prepare.py")
        self._verified: set[str] = set()  # files with correct checksums
        self._marks = Marks(self.folder)

    def _fetch_description(self, path: Path) -> None:
        try:
            copies.fetch(objects.join(self.name, path.name), path)
        except objects.Missing as error:
            raise UserError(f"{error}; make the data set with launch/prepare.py") from None

    @property
    def classes(self) -> list[str]:
        return self.info["classes"]

    @property
    def layout(self) -> str:
        return self.info["layout"]

    @property
    def sequences(self) -> bool:
        """Whether the examples are sequences of skeletons."""
        return self.info["sequences"]

    def count(self, split: str) -> int:
        """Number of examples in a split; 0 if it does not exist."""
        return self.info["splits"].get(split, {}).get("count", 0)

    def fingerprint(self) -> str:
        """Digest that identifies the data set, independent of its location.

        Raises:
            UserError: a shard is missing.
        """
        described = {name: self.info.get(name) for name in ("classes", "layout", "pose", "seed")}
        shards = [name for part in self.info["splits"].values() for name in part["shards"]]
        sizes = self._sizes(shards)
        text = json.dumps([described, self.info["splits"], sizes], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _sizes(self, shards: list[str]) -> list[int]:
        """Sizes of shards in bytes, whether or not they are in the cache."""
        if not self.remote:
            try:
                return [(self.folder / name).stat().st_size for name in shards]
            except FileNotFoundError as error:
                raise UserError(
                    f"{error.filename}: shard is missing; prepare the data again"
                ) from None
        addresses = [objects.join(self.name, name) for name in shards]
        return [entry.size for entry in objects.in_parallel(objects.stat, addresses)]

    def verify_checksums(self, splits: Iterable[str] = ()) -> None:
        """Verifies the checksums of the shards of some splits (default: all), each shard once.

        Data sets without checksums (from before these existed) pass.

        Raises:
            UserError: names the first shard that is missing or damaged.
        """
        for _, problem in self.find_damage(splits):
            raise UserError(f"{problem}; prepare the data again")

    def find_damage(
        self, splits: Iterable[str] = (), trust_marks: bool = True
    ) -> Iterator[tuple[str, str]]:
        """Yields name and problem of each missing or damaged file, see `verify_checksums`.

        Args:
            splits: the splits; empty for all.
            trust_marks: skips files that were verified before and have not changed since.
        """
        parts = [self.info["splits"].get(name, {}) for name in splits or self.info["splits"]]
        marked = self._marks.read() if trust_marks else {}
        known = {
            file: digest
            for part in parts
            for names, digests in (("shards", "checksums"), ("index", "index_checksums"))
            for file, digest in zip(
                part.get(names, []), part.get(digests, part.get(names, [])), strict=True
            )
            if file not in self._verified
        }
        for file in [
            file
            for file, digest in known.items()
            if file in marked and self._marks.mark(file, digest) == marked[file]
        ]:
            self._verified.add(file)
            del known[file]
        checked = time.time()
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # hashing releases the GIL
            problems = pool.map(self._shard_damage, known, known.values())
            for shard, problem in zip(known, problems, strict=True):
                if problem:
                    yield shard, problem
                else:
                    self._verified.add(shard)
                    if known[shard] != shard:  # it has a checksum
                        self._marks.add(shard, known[shard], checked)
        self._marks.write()

    def _shard_damage(self, shard: str, expected: str) -> str:
        path = self.folder / shard
        # Without checksums, `expected` is the shard's name.
        known = "" if expected == shard else expected
        if self.remote:
            copies.fetch(objects.join(self.name, shard), path, known)
            return ""
        try:
            found = files.checksum(path)
        except FileNotFoundError:
            return f"{path}: shard is missing"
        except OSError as error:
            if exit_status(error) != 1:  # a disk failure, not a damaged shard
                raise
            return f"{path}: a shard that cannot be read ({error.strerror})"
        return "" if known in ("", found) else f"{path}: a shard that is damaged (wrong checksum)"

    def mark_verified(self) -> None:
        """Skips further checksums, because another process with the same files verified them."""
        self._verified.update(
            name
            for part in self.info["splits"].values()
            for name in (*part["shards"], *part.get("index", []))
        )

    def source(self, split: str) -> Shards:
        """Random access to the packed examples of a split.

        Raises:
            UserError: the split is empty, or one of its shards is missing or damaged.
        """
        if not self.count(split):
            known = ", ".join(name for name, part in self.info["splits"].items() if part["count"])
            raise UserError(f"{self.folder}: no examples in split {split!r}; it has {known}")
        paths = [self.folder / name for name in self.info["splits"][split]["shards"]]
        self.verify_checksums([split])
        try:
            index = self.info["splits"][split].get("index", [])
            source = Shards([str(path) for path in paths], [str(self.folder / i) for i in index])
            complete = len(source) == self.count(split)
        except (OSError, RuntimeError, ValueError):
            complete = False
        if not complete:
            raise UserError(f"{paths[0]}: a shard of this split is damaged; prepare the data again")
        return source
