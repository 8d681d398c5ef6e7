"""Test-time augmentation of pose networks: mirrored and turned copies of the images.

Copies are part of the batch. What is found in all of them is merged: people who are alike by OKS
are one, whose joints are averages. Of people of different views whose boxes overlap without being
alike, such as an upright person and legs taken for arms in the view upside down, the best is kept.

Letters in the shapes: B images of height H and width W, V views, P people of a view.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jdance import skeleton
from jdance.errors import UserError
from jdance.pose import oks
from jdance.pose.decode import People

_OVERLAP = 0.5  # share of the smaller box above which people of different views are rivals


class _View(NamedTuple):
    across: bool  # whether x is reversed
    down: bool  # whether y is reversed


VIEWS = {"flip": _View(True, False), "rot180": _View(True, True)}


def check(names: Sequence[str]) -> None:
    """Raises UserError unless all are different names of `VIEWS`."""
    if set(names) - set(VIEWS) or len(set(names)) < len(names):
        raise UserError(
            f"--pose_views={','.join(names)}: expected different ones of {', '.join(VIEWS)}"
        )


def add(images: Array, names: Sequence[str]) -> Array:
    """[B, H, W, 3] -> [V * B, H, W, 3]: the images, then each view of all of them."""
    copies = [images]
    for view in (VIEWS[name] for name in names):
        copies.append(images[:, :: -1 if view.down else 1, :: -1 if view.across else 1])
    return jnp.concatenate(copies)


def merge(found: People, names: Sequence[str], height: int, width: int, max_people: int) -> People:
    """The people [B, max_people] of images, from those [V * B, P] in `add`'s result.

    A joint's position is the mean over the views in which it was found, weighted by its scores;
    joint and person have the scores of the best view.
    """
    keypoints = found.keypoints.reshape(1 + len(names), -1, *found.keypoints.shape[1:])
    restored = [keypoints[0]]
    for number, name in enumerate(names, start=1):
        restored.append(_restored(keypoints[number], VIEWS[name], height, width))
    batch, rows = keypoints.shape[1:3]

    def beside(x: Array) -> Array:
        """[V * B, P] -> [B, V * P]."""
        return x.reshape(-1, batch, rows).transpose(1, 0, 2).reshape(batch, -1)

    people = People(jnp.concatenate(restored, 1), beside(found.valid), beside(found.score))
    view = np.repeat(np.arange(len(restored)), rows)
    return jax.vmap(lambda one: _merged(one, view, max_people))(people)


def _restored(keypoints: Array, view: _View, height: int, width: int) -> Array:
    """Key points [..., 18, 3] of a view in pixels of the image."""
    x, y, score = jnp.moveaxis(keypoints, -1, 0)
    x = width - 1 - x if view.across else x
    y = height - 1 - y if view.down else y
    result = jnp.stack([x, y, score], -1)
    if view.across != view.down:  # a mirror image: left is right
        result = result[..., skeleton.COCO18.flip, :]
    return jnp.where(result[..., 2:] > 0, result, 0)


def _merged(people: People, view: np.ndarray, max_people: int) -> People:
    """Merges the people [N] of one image, who were found in the views int [N]."""
    keypoints, valid, score = people
    same = oks.similarity(keypoints) > oks.SAME_PERSON
    rivals = (view[:, None] != view) & (oks.overlap(keypoints) > _OVERLAP)
    kept, owner = oks.suppress(same | rivals, score, valid)
    rows = np.arange(len(score))
    member = (owner == rows[:, None]) & (same | np.eye(len(rows), dtype=bool))  # [owner, member]
    member &= valid & kept[:, None]
    weight = member[..., None] * keypoints[..., 2]  # [owner, member, 18]
    total = weight.sum(1)
    position = jnp.einsum("omj,mjc->ojc", weight, keypoints[..., :2], precision="highest")
    position /= jnp.maximum(total, 1e-6)[..., None]
    merged = jnp.concatenate([position, weight.max(1)[..., None]], -1)
    merged = jnp.where(merged[..., 2:] > 0, merged, 0)
    best, row = jax.lax.top_k(jnp.where(kept, score, -jnp.inf), max_people)
    there = best > -jnp.inf
    return People(jnp.where(there[:, None, None], merged[row], 0), there, jnp.where(there, best, 0))
