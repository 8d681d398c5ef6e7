"""Test-time augmentation of pose networks: flipped and rotated views of the images.

All views form one batch, and their detections are merged. People with a high OKS are averaged. Of
people from different views whose boxes overlap despite a low OKS (such as legs mistaken for arms in
the rotated view), the best one is kept.

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

_MAX_OVERLAP = 0.5  # of boxes of different people, as a fraction of the smaller box


class _View(NamedTuple):
    flip_x: bool
    flip_y: bool


VIEWS = {"flip": _View(True, False), "rot180": _View(True, True)}


def check(names: Sequence[str]) -> None:
    """Raises UserError unless `names` are distinct keys of `VIEWS`."""
    if set(names) - set(VIEWS) or len(set(names)) < len(names):
        raise UserError(
            f"--pose_views={','.join(names)}: expected distinct names of {', '.join(VIEWS)}"
        )


def add(images: Array, names: Sequence[str]) -> Array:
    """The images and their views in one batch: [B, H, W, 3] -> [V * B, H, W, 3]."""
    copies = [images]
    for view in (VIEWS[name] for name in names):
        copies.append(images[:, :: -1 if view.flip_y else 1, :: -1 if view.flip_x else 1])
    return jnp.concatenate(copies)


def merge(found: People, names: Sequence[str], height: int, width: int, max_people: int) -> People:
    """Merges the people [V * B, P] found in the result of `add` to [B, max_people].

    Joint positions are means over the views, weighted by score; joints and people have the scores
    of their best view.
    """
    keypoints = found.keypoints.reshape(1 + len(names), -1, *found.keypoints.shape[1:])
    restored = [keypoints[0]]
    for i, name in enumerate(names, start=1):
        restored.append(_restore(keypoints[i], VIEWS[name], height, width))
    batch, rows = keypoints.shape[1:3]

    def beside(x: Array) -> Array:
        """[V * B, P] -> [B, V * P]."""
        return x.reshape(-1, batch, rows).transpose(1, 0, 2).reshape(batch, -1)

    people = People(jnp.concatenate(restored, 1), beside(found.valid), beside(found.score))
    view = np.repeat(np.arange(len(restored)), rows)
    return jax.vmap(lambda one: _merge_image(one, view, max_people))(people)


def _restore(keypoints: Array, view: _View, height: int, width: int) -> Array:
    """Maps key points [..., 18, 3] of a view to pixels of the image."""
    x, y, score = jnp.moveaxis(keypoints, -1, 0)
    x = width - 1 - x if view.flip_x else x
    y = height - 1 - y if view.flip_y else y
    result = jnp.stack([x, y, score], -1)
    if view.flip_x != view.flip_y:  # a mirror image
        result = result[..., skeleton.COCO18.flip, :]
    return jnp.where(result[..., 2:] > 0, result, 0)


def _merge_image(people: People, view: np.ndarray, max_people: int) -> People:
    """Merges the people [N] of one image; `view` int [N] is the view of each."""
    keypoints, valid, score = people
    same = oks.similarity(keypoints) > oks.SAME_PERSON
    rivals = (view[:, None] != view) & (oks.overlap(keypoints) > _MAX_OVERLAP)
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
    valid = best > -jnp.inf
    return People(jnp.where(valid[:, None, None], merged[row], 0), valid, jnp.where(valid, best, 0))
