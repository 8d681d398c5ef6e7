"""What a source consists of: items, each an image, a skeleton or a part of a video."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True, slots=True)
class LabeledPerson:
    """A label, and the person in the image that it belongs to: by default the largest one.

    Attributes:
        label: the motion's name.
        box: x, y, width, height in pixels; selects the person with the largest overlap.
        index: selects a person by position, counted from the left.
        all_people: the label belongs to everyone in the image.
    """

    label: str
    box: tuple[float, ...] | None = None
    index: int | None = None
    all_people: bool = False


class Loaded(NamedTuple):
    """Content of an item.

    Attributes:
        image: uint8 RGB [H, W, 3], or None.
        keypoints: float32 [N, J, 3] (sequences: [N, T, J, 3]) of the item's N labeled people in
            their order, or None.
        detected: float32 [N, 18, 3] of all people detected by another pose estimator, or None.
    """

    image: np.ndarray | None
    keypoints: np.ndarray | None = None
    detected: np.ndarray | None = None


Load = Callable[[], Loaded]  # may raise UserError; picklable


@runtime_checkable
class ReadsFiles(Protocol):
    """A `Load` from files."""

    def files(self) -> tuple[Path, ...]:
        """All files whose content it returns."""


@dataclass(frozen=True, slots=True)
class Given:
    """Returns the key points float32 [J, 3] (sequence: [T, J, 3]) of a person without an image."""

    keypoints: np.ndarray

    def __call__(self) -> Loaded:
        return Loaded(None, self.keypoints[None])


class Span(NamedTuple):
    """A part of a video file, from `start` to `end` in seconds."""

    file: Path
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Item:
    """One image or skeleton, or a part of a video that `recognize.windows` divides.

    Attributes:
        name: shown in messages and stored in records.
        people: the labeled people.
        load: reads or renders the content.
        split: None if it is to be drawn.
        group: items of a group always share a split.
        span: the part of a video, if it is not divided into frames.
    """

    name: str
    people: tuple[LabeledPerson, ...]
    load: Load
    split: str | None = None
    group: str = ""
    span: Span | None = None


@dataclass
class Source:
    """The items of a source.

    Attributes:
        items: everything that can be read.
        classes: class names in their order.
        skipped: (name, reason) of everything that was left out.
        layout: name of the skeletons' layout.
        sequences: whether key points are sequences of skeletons.
        name: "stage:PRESET", or the name of the folder or file.
        notes: messages for the user, one per line.
        needs_pose: whether a pose network must detect the people.
        has_images: whether items have images, rather than key points alone.
    """

    items: list[Item]
    classes: list[str]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    layout: str = "coco18"
    sequences: bool = False
    name: str = ""
    notes: list[str] = field(default_factory=list)
    needs_pose: bool = False
    has_images: bool = True
