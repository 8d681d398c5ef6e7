"""Dividing images into train, val and test without dividing a group."""

from collections.abc import Mapping, Sequence

import numpy as np


def draw(
    labels: Sequence[str], groups: Sequence[str], fractions: Mapping[str, float], seed: int
) -> list[str]:
    """Draws a split for every image, stratified by class, whole groups at a time.

    Args:
        labels: the class of each of N images; of an image with several, the first one's.
        groups: the group of each; a group counts for the class of its first image.
        fractions: the share of each split, such as {"train": 0.8, "val": 0.1, "test": 0.1}.
        seed: of the shuffle.

    Returns:
        N names of splits. The first split of `fractions` gets what rounding leaves over.
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
