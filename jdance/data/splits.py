"""Names of classes and splits, and the division of images into train, val and test."""

import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from jdance.errors import UserError

SPLITS = ("train", "val", "test")


def class_name(text: str) -> str:
    """Normalizes a class name to NFC: macOS decomposes accents in file names."""
    return unicodedata.normalize("NFC", text)


def split_name(text: object) -> str | None:
    """Validates the name of a split, which becomes part of file names; None if it is empty.

    Standard names are case-insensitive.

    Raises:
        UserError: the name has unsafe characters or is too long.
    """
    name = str(text or "").strip()
    if name.lower() in SPLITS:
        return name.lower()
    if name and not re.fullmatch(r"[\w-]{1,50}", name):
        raise UserError(
            f"split {name[:60]!r}: only letters, digits, - and _ can name one, 50 at most"
        )
    return name or None


def draw(
    labels: Sequence[str], groups: Sequence[str], fractions: Mapping[str, float], seed: int
) -> list[str]:
    """Draws a split for every image, stratified by class, without dividing a group.

    Args:
        labels: class of each of N images (the first one, for images with several).
        groups: group of each image; a group counts for the class of its first image.
        fractions: size of each split, such as {"train": 0.8, "val": 0.1, "test": 0.1}.
        seed: of the shuffle.

    Returns:
        N split names. The first split of `fractions` gets the remainder.
    """
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    by_class: dict[str, list[str]] = {}
    for group, (first, *_) in members.items():
        by_class.setdefault(labels[first], []).append(group)

    rng = np.random.default_rng(seed)
    names = list(fractions)
    result = [names[0]] * len(labels)
    for label in sorted(by_class):
        own = sorted(by_class[label])
        rng.shuffle(own)
        total = sum(len(members[group]) for group in own)
        position = 0
        for name in reversed(names[1:]):  # the last split, usually "test", comes first
            wanted, taken = fractions[name] * total, 0
            # At least one group each, as long as one is left for the first split.
            while wanted > 0 and position < len(own) - 1:
                images = members[own[position]]
                if taken and abs(taken + len(images) - wanted) >= abs(taken - wanted):
                    break
                for i in images:
                    result[i] = name
                taken += len(images)
                position += 1
    return result
