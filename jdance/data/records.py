"""The data set on disk: ArrayRecord shards of examples, and dataset.json that describes them.

One record is a msgpack map:
    image       JPEG of the crop, 256x256 RGB; absent in data sets of skeletons only
    keypoints   float32 [J, 3], or [T, J, 3] of a sequence of T frames, as bytes, little endian:
                x, y in pixels of the crop, score
    shape       that shape
    label       index into dataset.json's classes
    group       what must not be divided between splits, such as the video's name
    source      the file that the example comes from
    person      which person of the file, counted from the left

Data sets for pose networks hold whole images instead; see `people`.

dataset.json: {"version", "kind" ("persons" or "people"), "classes", "layout", "sequences", "pose",
"seed", "splits": {name: {"count", "people_found", "per_class", "shards", "checksums"}}, "skipped":
[{"file", "reason"}], "unmatched"}. The layout says what the J joints are, by its name in
`jdance.skeleton.LAYOUTS`; data sets of people have no layout and no sequences. The checksums are
the shards' SHA-256; nothing of a shard is read before it has been compared.
"""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import msgpack
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from grain.sources import ArrayRecordDataSource

from jdance import skeleton
from jdance.data import crop, images
from jdance.errors import UserError, exit_status

VERSION = 2
_RECORDS_PER_SHARD = 2048


@dataclass(frozen=True)
class Example:
    """One person and its motion.

    `image` is JPEG, `keypoints` float32 [J, 3] or [T, J, 3] in pixels of the crop.
    """

    keypoints: np.ndarray
    label: int
    image: bytes | None = None
    group: str = ""
    source: str = ""
    person: int = 0


def pack(example: Example) -> bytes:
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
    """The example of a record.

    Raises:
        UserError: it is none.
    """
    with reading():
        record = msgpack.unpackb(data)
        keypoints = np.frombuffer(record["keypoints"], "<f4").reshape(record["shape"])
        label, image, person = record["label"], record.get("image"), record["person"]
        if keypoints.ndim not in (2, 3) or keypoints.shape[-1] != 3 or not keypoints.size:
            raise ValueError(f"key points of shape {keypoints.shape}")
        if not (isinstance(label, int) and 0 <= label < 2**31 and isinstance(person, int)):
            raise ValueError(f"label {label!r}, person {person!r}")
        if not isinstance(image, bytes | None):
            raise ValueError("an image that is no bytes")
        # Cleaned, as everything from outside is: no coordinate that is not finite.
        return Example(
            skeleton.clean(keypoints), label, image, str(record["group"]), str(record["source"]),
            person,
        )  # fmt: skip


@contextmanager
def reading() -> Iterator[None]:
    """Tells in one line what is wrong with a record."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise UserError(f"a damaged record ({error}); prepare the data again") from error
    except (msgpack.UnpackException, RecursionError) as error:
        raise UserError("a record that is no msgpack map; prepare the data again") from error


def decode_image(data: bytes, factor: int = 1) -> np.ndarray:
    """The image of a stored crop, uint8 RGB [SIZE / factor, SIZE / factor, 3].

    The factor is 1, 2 or 4; the decoder does less work for a smaller image.

    Raises:
        UserError: it is none, or of another size.
    """
    # The names with GRAYSCALE stand for the size alone; those with COLOR would mean BGR.
    reduced = {1: 0, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4}[factor]
    image = images.decode(data, cv2.IMREAD_COLOR_RGB | reduced)
    side = crop.SIZE // factor
    if image is None or image.shape != (side, side, 3):
        raise UserError(
            f"a record holds a damaged image, or one that is not {crop.SIZE} pixels wide and "
            "high; prepare the data again"
        )
    return image


class RecordWriter:
    """Writes the examples of one split into shards, and counts them."""

    def __init__(self, folder: Path, split: str, prefix: str = ""):
        self._folder, self._name = folder, prefix + split
        self._writer: ArrayRecordWriter | None = None
        self.shards: list[str] = []
        self.checksums: list[str] = []
        self.labels: list[int] = []
        self.people_found = 0

    def add(self, example: Example) -> None:
        self.add_packed(pack(example), example.label, bool(example.keypoints.any()))

    def add_packed(self, record: bytes, label: int, people_found: bool) -> None:
        if len(self.labels) % _RECORDS_PER_SHARD == 0:
            self.close()
            name = f"{self._name}-{len(self.shards):05}.array_record"
            self.shards.append(name)
            self._writer = ArrayRecordWriter(str(self._folder / name), "group_size:1")
        assert self._writer is not None
        try:
            self._writer.write(record)
        except RuntimeError as error:  # a full disk, for instance
            raise UserError(
                f"{self._folder / self.shards[-1]}: cannot be written ({error})"
            ) from error
        self.labels.append(label)
        self.people_found += people_found

    def close(self) -> None:
        if self._writer is not None:
            path = self._folder / self.shards[-1]
            try:
                self._writer.close()
            except RuntimeError as error:
                raise UserError(f"{path}: cannot be written ({error})") from error
            self._writer = None
            with path.open("rb+") as file:
                os.fsync(file.fileno())
            self.checksums.append(checksum(path))

    def summary(self, classes: list[str]) -> dict[str, Any]:
        counts = np.bincount(self.labels, minlength=len(classes))
        return {
            "count": len(self.labels),
            "people_found": self.people_found,
            "per_class": dict(zip(classes, counts.tolist(), strict=True)),
            "shards": self.shards,
            "checksums": self.checksums,
        }


def checksum(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def labels(source: Any) -> np.ndarray:
    """The labels int64 [N] of N packed examples."""
    with reading():
        return np.array([msgpack.unpackb(source[i])["label"] for i in range(len(source))], np.int64)


class Shards:
    """Random access to the packed examples of a split; damage is told in one line."""

    def __init__(self, paths: list[str]):
        self._paths, self._records = paths, ArrayRecordDataSource(paths)

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


def _problem(info: Any) -> str:
    """What is wrong with the content of a dataset.json; empty if nothing is."""
    if not isinstance(info, dict) or info.get("version") != VERSION:
        return "another version"
    classes, splits, kind = info.get("classes"), info.get("splits"), info.get("kind")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        return "classes that are no names"
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
        # Names of splits and shards become names of files: of this folder alone.
        if not re.fullmatch(r"[\w-]{1,50}", name) or not isinstance(part, dict):
            return f"a split {name[:60]!r}"
        shards, checksums = part.get("shards"), part.get("checksums")
        if type(part.get("count")) is not int or part["count"] < 0:
            return f"split {name!r} has no count"
        if not isinstance(shards, list) or not all(
            isinstance(shard, str) and re.fullmatch(r"[\w-]+\.array_record", shard)
            for shard in shards
        ):
            return f"split {name!r} has impossible names of shards"
        if checksums is not None and not (
            isinstance(checksums, list)
            and len(checksums) == len(shards)
            and all(isinstance(digest, str) for digest in checksums)
        ):
            return f"split {name!r} has not a checksum for each shard"
    return ""


class Dataset:
    """A prepared data set: its description, and its examples by split.

    Args:
        folder: that launch/prepare.py wrote.
        kind: "persons" (crops with motions) or "people" (whole images, for pose networks); "":
            either.

    Raises:
        UserError: the folder holds no data set of that kind, or a part of it is missing.
    """

    def __init__(self, folder: str | Path, kind: str = "persons"):
        self.folder = Path(folder)
        path = self.folder / "dataset.json"
        try:
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
        self._sound: set[str] = set()  # shards whose checksums have been compared

    @property
    def classes(self) -> list[str]:
        return self.info["classes"]

    @property
    def layout(self) -> str:
        return self.info["layout"]

    @property
    def sequences(self) -> bool:
        """Whether the examples are sequences of skeletons rather than single ones."""
        return self.info["sequences"]

    def count(self, split: str) -> int:
        """The number of examples in a split; 0 if there is no such split."""
        return self.info["splits"].get(split, {}).get("count", 0)

    def fingerprint(self) -> str:
        """Tells this data set from others, wherever it lies: a digest of what describes it."""
        described = {name: self.info.get(name) for name in ("classes", "layout", "pose", "seed")}
        shards = [name for part in self.info["splits"].values() for name in part["shards"]]
        sizes = [(self.folder / name).stat().st_size for name in shards]
        text = json.dumps([described, self.info["splits"], sizes], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check(self, splits: Iterable[str] = ()) -> None:
        """Compares the checksums of the shards of these splits, of all by default; each once.

        Data sets that were prepared before there were checksums pass.

        Raises:
            UserError: names the first shard that is missing or not as it was written.
        """
        for problem in self.damage(splits):
            raise UserError(f"{problem}; prepare the data again")

    def damage(self, splits: Iterable[str] = ()) -> Iterator[str]:
        """A line for each shard that is missing or not as it was written, see `check`."""
        parts = [self.info["splits"].get(name, {}) for name in splits or self.info["splits"]]
        known = {
            shard: digest
            for part in parts
            for shard, digest in zip(
                part.get("shards", []), part.get("checksums", part.get("shards", [])), strict=True
            )
            if shard not in self._sound
        }
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # hashing runs in parallel
            found = pool.map(self._damage_of, known, known.values())
            for shard, problem in zip(known, found, strict=True):
                if problem:
                    yield problem
                else:
                    self._sound.add(shard)

    def _damage_of(self, shard: str, expected: str) -> str:
        path = self.folder / shard
        try:
            found = checksum(path)
        except FileNotFoundError:
            return f"{path}: shard is missing"
        except OSError as error:
            if exit_status(error) != 1:  # the disk fails, not the shard
                raise
            return f"{path}: a shard that cannot be read ({error.strerror})"
        # Without checksums the shard's own name stands in their place.
        good = expected in (shard, found)
        return "" if good else f"{path}: a shard that is damaged (its checksum is another one)"

    def trust(self) -> None:
        """Takes the checksums as compared: by another process that has the same files."""
        self._sound.update(name for part in self.info["splits"].values() for name in part["shards"])

    def source(self, split: str) -> "Shards":
        """Random access to the packed examples of a split.

        Raises:
            UserError: there is no such split, or one of its shards is missing or damaged.
        """
        if not self.count(split):
            known = ", ".join(name for name, part in self.info["splits"].items() if part["count"])
            raise UserError(f"{self.folder}: no examples in split {split!r}; it has {known}")
        paths = [self.folder / name for name in self.info["splits"][split]["shards"]]
        self.check([split])
        try:
            source = Shards([str(path) for path in paths])
            complete = len(source) == self.count(split)
        except (OSError, RuntimeError, ValueError):
            complete = False
        if not complete:
            raise UserError(f"{paths[0]}: a shard of this split is damaged; prepare the data again")
        return source
