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

Data sets for pose networks hold whole pictures instead; see `people`.

dataset.json: {"version", "kind" ("persons" or "people"), "classes", "layout", "sequences", "pose",
"seed", "splits": {name: {"count", "people_found", "per_class", "shards"}}, "skipped": [{"file",
"reason"}]}. The layout says what the J joints are, by its name in `jdance.skeleton.LAYOUTS`; data
sets of people have no layout and no sequences.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import msgpack
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from grain.sources import ArrayRecordDataSource

from jdance.errors import UserError

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
    record = msgpack.unpackb(data)
    keypoints = np.frombuffer(record["keypoints"], "<f4").reshape(record["shape"])
    return Example(
        keypoints.astype(np.float32),
        record["label"],
        record.get("image"),
        record["group"],
        record["source"],
        record["person"],
    )


def decode_image(data: bytes, factor: int = 1) -> np.ndarray:
    """JPEG -> uint8 RGB, at 1/factor of its size (1, 2, 4: the decoder does less work)."""
    # The names with GRAYSCALE stand for the size alone; those with COLOR would mean BGR.
    reduced = {1: 0, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4}[factor]
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | reduced)
    if image is None:
        raise UserError("a record holds a damaged picture; prepare the data again")
    return image


class Writer:
    """Writes the examples of one split into shards, and counts them."""

    def __init__(self, folder: Path, split: str, prefix: str = ""):
        self._folder, self._name = folder, prefix + split
        self._writer: ArrayRecordWriter | None = None
        self.shards: list[str] = []
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
        self._writer.write(record)
        self.labels.append(label)
        self.people_found += people_found

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def summary(self, classes: list[str]) -> dict[str, Any]:
        counts = np.bincount(self.labels, minlength=len(classes))
        return {
            "count": len(self.labels),
            "people_found": self.people_found,
            "per_class": dict(zip(classes, counts.tolist(), strict=True)),
            "shards": self.shards,
        }


def labels(source: Any) -> np.ndarray:
    """The labels int64 [N] of N packed examples."""
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


class Dataset:
    """A prepared data set: its description, and its examples by split.

    Args:
        folder: that launch/prepare.py wrote.
        kind: "persons" (crops with motions) or "people" (whole pictures, for pose networks).

    Raises:
        UserError: the folder holds no data set of that kind, or a part of it is missing.
    """

    def __init__(self, folder: str | Path, kind: str = "persons"):
        self.folder = Path(folder)
        path = self.folder / "dataset.json"
        try:
            self.info = json.loads(path.read_text())
        except FileNotFoundError:
            raise UserError(
                f"{path}: no such file; make the data set with launch/prepare.py"
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}); prepare the data again") from error
        keys = {"version", "kind", "classes", "splits"}
        if not (isinstance(self.info, dict) and self.info.keys() >= keys) or (
            self.info["version"] != VERSION
        ):
            raise UserError(f"{path}: not a data set of version {VERSION}; prepare the data again")
        found = self.info["kind"]
        if found != kind:
            raise UserError(f"{path}: holds {found}, not {kind}; see --for in launch/prepare.py")

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

    def source(self, split: str) -> "Shards":
        """Random access to the packed examples of a split.

        Raises:
            UserError: there is no such split, or one of its shards is missing.
        """
        if not self.count(split):
            known = ", ".join(name for name, part in self.info["splits"].items() if part["count"])
            raise UserError(f"{self.folder}: no examples in split {split!r}; it has {known}")
        paths = [self.folder / name for name in self.info["splits"][split]["shards"]]
        for path in paths:
            if not path.exists():
                raise UserError(f"{path}: shard is missing; prepare the data again")
        try:
            source = Shards([str(path) for path in paths])
            complete = len(source) == self.count(split)
        except (OSError, RuntimeError, ValueError):
            complete = False
        if not complete:
            raise UserError(f"{paths[0]}: a shard of this split is damaged; prepare the data again")
        return source
