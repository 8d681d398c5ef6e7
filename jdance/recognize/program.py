"""Frames to people and their motions: one pure function of fixed shapes, without the host.

Letterbox, pose network, decode, crops from the full-resolution frames, features, motion network.
The people of all frames are brought together, and only as many crops are cut and judged as there
are people: a loop takes them in groups of a few fixed sizes.

Letters in the shapes: B frames, H x W the canvas, P people at most in a frame, M motions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jdance import features, models, skeleton
from jdance.data import augment, crop
from jdance.pose.decode import People
from jdance.recognize import resample

_BATCH = 32  # people that a GPU crops and classifies at once
GROUPS = (1, 4, 16)  # numbers of people that the motion network is compiled for


class Recognized(NamedTuple):
    """The people in B frames, from left to right; rows after the last one are all zero.

    Attributes:
        keypoints: float32 [B, P, 18, 3] in pixels of the frame and score; of a whole image 0.
        box: float32 [B, P, 4], x, y, width, height of the key points.
        probabilities: float32 [B, P, M].
        valid: bool [B, P], whether the row holds a person.
        whole: bool [B], whether the frame's one person is the image as a whole.
    """

    keypoints: Array
    box: Array
    probabilities: Array
    valid: Array
    whole: Array


@dataclass(frozen=True)
class Network:
    """A motion network: what it looks at, and how it is called.

    Attributes:
        logits: (variables, image uint8 [N, S, S, 3] or None, features [N, D], valid [N]) -> [N, M].
        features: name of the feature set.
        image_size: S, or 0 if it looks at no image.
    """

    logits: Callable[..., Array]
    features: str
    image_size: int

    @classmethod
    def of(cls, config: Any) -> "Network":
        """The network of an experiment's configuration."""
        model = models.build(config.model)
        size = config.data.image_size if models.uses_image(config.model) else 0
        return cls(model.apply, models.feature_set(config.model), size)  # type: ignore[arg-type]


class Options(NamedTuple):
    """Settings that are arguments of the compiled program: one program serves all their values.

    Attributes:
        min_joints: int32 [], people with fewer joints are left out.
        whole_image: bool [], whether to classify the whole image where no person is found.
    """

    min_joints: ArrayLike = 4
    whole_image: ArrayLike = False


def find(
    people: Callable[[Any, Array, ArrayLike], People],
    size: int,
    variables: Any,
    frames: Array,
    sizes: Array,
    min_joints: ArrayLike,
) -> Array:
    """Finds the people in frames.

    Args:
        people: (variables, uint8 [B, size, size, 3], min_joints) -> the people in these, as
            `PoseEstimator.pure_people`.
        size: side of the pose network's input.
        variables: of the pose network.
        frames: uint8 RGB [B, H, W, 3], 0 beyond their true sizes.
        sizes: int32 [B, 2], true height and width.
        min_joints: int32 [], how many joints a person needs.

    Returns:
        float32 [B, P, 18, 3] in pixels of the frames, from left to right, then rows of 0.
    """
    squares = resample.letterbox(frames, sizes, size)
    found = people(variables, squares, min_joints)
    fitted = resample.fitted_size(sizes, size)
    # Pixel centres lie at whole numbers; each axis has its own factor, as fitted sizes are rounded.
    factor = (sizes / fitted)[:, None, None, ::-1]  # x, y
    xy = (found.keypoints[..., :2] + 0.5) * factor - 0.5
    inside = (xy <= sizes[:, None, None, ::-1] - 0.5).all(-1)
    present = inside & (found.keypoints[..., 2] > 0) & found.valid[..., None]
    keypoints = jnp.concatenate([xy, found.keypoints[..., 2:]], -1)
    keypoints = jnp.where(present[..., None], keypoints, 0)
    low, high = _corners(keypoints)
    middle = jnp.where(present.any(-1), low[..., 0] + high[..., 0], jnp.inf)
    order = jnp.argsort(middle, axis=-1)  # stable, with the empty rows last
    return jnp.take_along_axis(keypoints, order[..., None, None], 1)


def _corners(keypoints: Array) -> tuple[Array, Array]:
    """The least and greatest x and y [..., 2] of the present joints of [..., 18, 3]."""
    present, xy = (keypoints[..., 2] > 0)[..., None], keypoints[..., :2]
    return (
        jnp.where(present, xy, jnp.inf).min(-2),
        jnp.where(present, xy, -jnp.inf).max(-2),
    )


def name(
    network: Network,
    variables: Any,
    temperature: Array,
    frames: Array,
    sizes: Array,
    keypoints: Array,
    options: Options,
) -> Recognized:
    """Names the motion of everybody in frames.

    Args:
        network: the motion network.
        variables: its variables.
        temperature: float32 [], which logits are divided by.
        frames, sizes: as for `find`.
        keypoints: float32 [B, P, 18, 3]; people with too few joints are left out.
        options: may be traced.
    """
    count = skeleton.is_present(keypoints).sum(-1)
    valid = count >= options.min_joints
    # The others move to the end, those who stay keep their order.
    order = jnp.argsort(~valid, axis=-1)
    valid = jnp.take_along_axis(valid, order, -1)
    keypoints = jnp.take_along_axis(keypoints, order[..., None, None], 1)
    keypoints = jnp.where(valid[..., None, None], keypoints, 0)
    low, high = _corners(keypoints)
    box = jnp.where(valid[..., None], jnp.concatenate([low, high - low], -1), 0)
    whole = ~valid.any(-1) & options.whole_image
    first = whole[:, None] & (np.arange(valid.shape[1]) == 0)
    valid |= first
    full = jnp.concatenate([jnp.zeros_like(sizes), sizes[:, ::-1]], -1)
    box = jnp.where(first[..., None], full[:, None].astype(jnp.float32), box)
    square = jnp.where(first[..., None], _square_of_whole(sizes)[:, None], _square_around(box))
    probabilities = _probabilities(
        network, variables, temperature, frames, keypoints, square, valid, GROUPS
    )
    return Recognized(keypoints, box, probabilities, valid, whole)


def _square_around(box: Array) -> Array:
    """`crop.around` of boxes [..., 4]: int32 [..., 3], left, top, side."""
    side = jnp.maximum(crop.MARGIN * box[..., 2:].max(-1), crop.SMALLEST)
    corner = box[..., :2] + box[..., 2:] / 2 - side[..., None] / 2
    square = jnp.round(jnp.concatenate([corner, side[..., None]], -1))
    return jnp.clip(square, -crop.LARGEST, crop.LARGEST).astype(jnp.int32)


def _square_of_whole(sizes: Array) -> Array:
    """`crop.whole` of sizes [B, 2]: int32 [B, 3]."""
    side = sizes.max(-1, keepdims=True)
    return jnp.concatenate([(sizes[:, ::-1] - side) // 2, side], -1)


def _probabilities(
    network: Network,
    variables: Any,
    temperature: Array,
    frames: Array,
    keypoints: Array,
    square: Array,
    valid: Array,
    groups: tuple[int, ...],
) -> Array:
    """Probabilities float32 [B, P, M] of the valid people, 0 of the others."""
    rows = valid.size
    points = keypoints.reshape(rows, skeleton.NUM_JOINTS, 3)
    square = square.reshape(rows, 3)
    seen = _into_view(points, square, network.image_size or crop.SIZE)
    owner = jnp.arange(rows, dtype=jnp.int32) // valid.shape[1]
    people = _People(
        frames, owner, square, features.compute(network.features, seen), features.valid(seen)
    )

    def classify(image: Array | None, person: Array) -> Array:
        """Probabilities [N, M] of people int32 [N]; image uint8 [N, S, S, 3]."""
        logits = network.logits(variables, image, people.features[person], people.placed[person])
        return jax.nn.softmax(logits / temperature)

    result = jax.lax.platform_dependent(
        valid.reshape(-1),
        cpu=lambda valid: _in_groups(people, valid, classify, network.image_size, groups),
        default=lambda valid: _in_batches(people, valid, classify, network.image_size),
    )
    return result.reshape(*valid.shape, -1)


class _People(NamedTuple):
    """All rows for people, N of them, valid or not."""

    frames: Array  # uint8 [B, H, W, 3]
    owner: Array  # int32 [N], the frame of each
    square: Array  # int32 [N, 3], what to crop
    features: Array  # [N, D]
    placed: Array  # bool [N], whether the features are valid


Classify = Callable[[Array | None, Array], Array]


def _in_batches(people: _People, valid: Array, classify: Classify, image_size: int) -> Array:
    """Probabilities [N, M], computed for batches of a fixed size: for GPUs.

    One loop, whose every turn cuts and classifies a whole batch: a GPU waits for the host before
    each turn of a loop.
    """
    rows = len(valid)
    size = min(_BATCH, rows)
    total = valid.sum()
    number = jnp.nonzero(valid, size=rows + size, fill_value=rows)[0]
    motions = jax.eval_shape(classify, *_example(image_size)).shape[-1]

    def turn(state: tuple[Array, Array]) -> tuple[Array, Array]:
        done, result = state
        index = jax.lax.dynamic_slice(number, (done,), (size,))
        person = jnp.minimum(index, rows - 1)
        image = None
        if image_size:
            crops = resample.cut_all(people.frames, people.owner[person], people.square[person])
            image = jax.vmap(partial(resample.view, size=image_size))(crops)
        return done + size, result.at[index].set(classify(image, person), mode="drop")

    start = jnp.zeros((), total.dtype), jnp.zeros((rows, motions), jnp.float32)
    return jax.lax.while_loop(lambda state: state[0] < total, turn, start)[1]


def _example(image_size: int) -> tuple[jax.ShapeDtypeStruct | None, jax.ShapeDtypeStruct]:
    """Shapes of the arguments of `classify` for one person."""
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.uint8)
    return image if image_size else None, jax.ShapeDtypeStruct((1,), jnp.int32)


def _in_groups(
    people: _People,
    valid: Array,
    classify: Classify,
    image_size: int,
    groups: tuple[int, ...],
) -> Array:
    """Probabilities [N, M], computed for as many people as there are, in a few sizes: for CPUs."""
    rows = len(valid)
    groups = tuple(g for g in groups if g < rows) + (min(rows, groups[-1]),)
    groups = tuple(sorted(set(groups)))
    total = valid.sum()
    # Numbers of the valid people, compacted; beyond them a number that scatters drop.
    number = jnp.nonzero(valid, size=rows + groups[-1], fill_value=rows)[0]
    views = _views(people, number, total, image_size) if image_size else None
    sizes = jnp.array(groups)
    motions = jax.eval_shape(classify, *_example(image_size)).shape[-1]

    def take(state: tuple[Array, Array]) -> tuple[Array, Array]:
        done, result = state
        left = total - done
        # The next larger group, unless a quarter of it would be empty: then the next smaller one.
        larger = jnp.minimum(jnp.searchsorted(sizes, left), len(groups) - 1)
        wasteful = (left * 4 < sizes[larger] * 3) & (larger > 0)
        choice = larger - wasteful

        def branch(count: int) -> Callable[[], Array]:
            def run() -> Array:
                index = jax.lax.dynamic_slice(number, (done,), (count,))
                image = None
                if views is not None:
                    image = jax.lax.dynamic_slice_in_dim(views, done, count)
                probabilities = classify(image, jnp.minimum(index, rows - 1))
                return result.at[index].set(probabilities, mode="drop")

            return run

        result = jax.lax.switch(choice, [branch(count) for count in groups])
        return done + sizes[choice], result

    start = jnp.zeros((), total.dtype), jnp.zeros((rows, motions), jnp.float32)
    return jax.lax.while_loop(lambda state: state[0] < total, take, start)[1]


def _into_view(points: Array, square: Array, size: int) -> Array:
    """Key points [N, 18, 3] of frames, as seen in a view of `size` pixels of their squares [N, 3].

    As `crop.into` and then `augment.warp_keypoints` by `augment.plain`.
    """
    affine = augment.plain(size)
    scale = (crop.SIZE / square[:, 2])[:, None, None]
    xy = (points[..., :2] + 0.5 - square[:, None, :2]) * scale - 0.5
    xy = xy * np.diag(affine[:, :2]).astype(np.float32) + affine[:, 2].astype(np.float32)
    present = points[..., 2:] > 0
    return jnp.where(present, jnp.concatenate([xy, points[..., 2:]], -1), 0)


def _views(people: _People, number: Array, total: Array, size: int) -> Array:
    """What the motion network sees of the people: uint8 [len(number), size, size, 3].

    Of the first `total` entries of `number`, rows of people; the others stay black.
    """

    def add(place: Array, views: Array) -> Array:
        person = number[place]
        crop_ = resample.cut(people.frames, people.owner[person], people.square[person])
        view = resample.view(crop_, size)
        return jax.lax.dynamic_update_slice_in_dim(views, view[None], place, 0)

    views = jnp.zeros((len(number), size, size, 3), jnp.uint8)
    return jax.lax.fori_loop(0, total, add, views)
