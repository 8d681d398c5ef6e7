"""The recognition program: a pure function with static shapes, from frames to classified people.

Letterbox, pose network, decoding, crops from the full-resolution frames, features, motion network.
The people of all frames are compacted into one array, and a loop crops and classifies them in
groups of a few static sizes, so that the cost grows with the actual number of people.

Letters in the shapes: B frames, H x W the canvas, P the maximum number of people in a frame, M
motions.
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
GROUPS = (1, 4, 16)  # group sizes on CPUs; the motion network is compiled for each


class Recognized(NamedTuple):
    """The people in B frames, from left to right, zero-padded to P rows.

    Attributes:
        keypoints: float32 [B, P, 18, 3], x and y in pixels of the frame, and score; 0 for a whole
            image.
        box: float32 [B, P, 4], x, y, width, height of the key points.
        probabilities: float32 [B, P, M].
        valid: bool [B, P], whether the row holds a person.
        whole: bool [B], whether the frame's only row stands for the whole image.
    """

    keypoints: Array
    box: Array
    probabilities: Array
    valid: Array
    whole: Array


@dataclass(frozen=True)
class Network:
    """A motion network and its inputs.

    Attributes:
        logits: (variables, image uint8 [N, S, S, 3] or None, features [N, D], valid [N]) -> [N, M].
        features: name of the feature set.
        image_size: S, or 0 for networks without an image branch.
    """

    logits: Callable[..., Array]
    features: str
    image_size: int

    @classmethod
    def from_config(cls, config: Any) -> "Network":
        """Builds the network of an experiment's configuration."""
        inputs = models.inputs(config.model)
        size = config.data.image_size if inputs.image else 0
        return cls(models.build(config.model).apply, inputs.feature_set, size)  # type: ignore[arg-type]


class Options(NamedTuple):
    """Dynamic settings of the program, which do not cause recompilation.

    Attributes:
        min_joints: int32 [], minimum number of joints of a person.
        whole_image: bool [], whether to classify the whole image where no person is detected.
    """

    min_joints: ArrayLike = 4
    whole_image: ArrayLike = False


def detect(
    pose: Callable[[Any, Array, ArrayLike], People],
    size: int,
    variables: Any,
    frames: Array,
    sizes: Array,
    min_joints: ArrayLike,
) -> Array:
    """Detects the people in frames.

    Args:
        pose: (variables, uint8 [B, size, size, 3], min_joints) -> `People`, see
            `PoseEstimator.pure_people`.
        size: side of the pose network's input.
        variables: variables of the pose network.
        frames: uint8 RGB [B, H, W, 3], zero-padded.
        sizes: int32 [B, 2], heights and widths without the padding.
        min_joints: int32 [], minimum number of joints of a person.

    Returns:
        float32 [B, P, 18, 3] in pixels of the frames, from left to right, zero-padded.
    """
    squares = resample.letterbox(frames, sizes, size)
    people = pose(variables, squares, min_joints)
    fitted = resample.fitted_size(sizes, size)
    # Pixel centers have integer coordinates. Fitted sizes are rounded, hence one scale per axis.
    scale = (sizes / fitted)[:, None, None, ::-1]  # x, y
    xy = (people.keypoints[..., :2] + 0.5) * scale - 0.5
    inside = (xy <= sizes[:, None, None, ::-1] - 0.5).all(-1)
    present = inside & (people.keypoints[..., 2] > 0) & people.valid[..., None]
    keypoints = jnp.concatenate([xy, people.keypoints[..., 2:]], -1)
    keypoints = jnp.where(present[..., None], keypoints, 0)
    low, high = _corners(keypoints)
    center = jnp.where(present.any(-1), low[..., 0] + high[..., 0], jnp.inf)
    order = jnp.argsort(center, axis=-1)  # stable; empty rows last
    return jnp.take_along_axis(keypoints, order[..., None, None], 1)


def _corners(keypoints: Array) -> tuple[Array, Array]:
    """Returns min and max x and y [..., 2] of the present joints of [..., 18, 3]."""
    present, xy = (keypoints[..., 2] > 0)[..., None], keypoints[..., :2]
    return (
        jnp.where(present, xy, jnp.inf).min(-2),
        jnp.where(present, xy, -jnp.inf).max(-2),
    )


def classify(
    network: Network,
    variables: Any,
    temperature: Array,
    frames: Array,
    sizes: Array,
    keypoints: Array,
    options: Options,
) -> Recognized:
    """Classifies the motion of every person.

    Args:
        network: the motion network.
        variables: variables of the motion network.
        temperature: float32 [], divides the logits.
        frames, sizes: see `detect`.
        keypoints: float32 [B, P, 18, 3]; people with too few joints are dropped.
        options: may be traced.
    """
    count = skeleton.is_present(keypoints).sum(-1)
    valid = count >= options.min_joints
    # Stable: moves the dropped people to the end.
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
    """`crop.person_square` for boxes [..., 4]: int32 [..., 3], left, top, side."""
    side = jnp.maximum(crop.MARGIN * box[..., 2:].max(-1), crop.MIN_SIDE)
    corner = box[..., :2] + box[..., 2:] / 2 - side[..., None] / 2
    square = jnp.round(jnp.concatenate([corner, side[..., None]], -1))
    return jnp.clip(square, -crop.MAX_SIDE, crop.MAX_SIDE).astype(jnp.int32)


def _square_of_whole(sizes: Array) -> Array:
    """`crop.image_square` for sizes [B, 2]: int32 [B, 3]."""
    side = sizes.max(-1, keepdims=True)
    return jnp.concatenate([(sizes[:, ::-1] - side) // 2, side], -1)


class _People(NamedTuple):
    """The N = B x P rows, valid or not."""

    frames: Array  # uint8 [B, H, W, 3]
    frame_index: Array  # int32 [N]
    square: Array  # int32 [N, 3], left, top and side of the crop
    features: Array  # [N, D]
    features_valid: Array  # bool [N]


# (image uint8 [N, S, S, 3] or None, rows int32 [N]) -> probabilities [N, M]
Predict = Callable[[Array | None, Array], Array]


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
    """Returns probabilities float32 [B, P, M] of the valid people, 0 elsewhere."""
    rows = valid.size
    points = keypoints.reshape(rows, skeleton.NUM_JOINTS, 3)
    square = square.reshape(rows, 3)
    viewed = _into_view(points, square, network.image_size or crop.SIZE)
    frame_index = jnp.arange(rows, dtype=jnp.int32) // valid.shape[1]
    people = _People(
        frames,
        frame_index,
        square,
        features.compute(network.features, viewed),
        features.valid(viewed),
    )

    def predict(image: Array | None, index: Array) -> Array:
        logits = network.logits(
            variables, image, people.features[index], people.features_valid[index]
        )
        return jax.nn.softmax(logits / temperature)

    result = jax.lax.platform_dependent(
        valid.reshape(-1),
        cpu=lambda valid: _in_groups(people, valid, predict, network.image_size, groups),
        default=lambda valid: _in_batches(people, valid, predict, network.image_size),
    )
    return result.reshape(*valid.shape, -1)


def _in_batches(people: _People, valid: Array, predict: Predict, image_size: int) -> Array:
    """Computes probabilities [N, M] in batches of a static size: for GPUs.

    A GPU waits for the host before each iteration of a loop, so each one crops and classifies a
    whole batch.
    """
    rows = len(valid)
    size = min(_BATCH, rows)
    total = valid.sum()
    valid_rows = jnp.nonzero(valid, size=rows + size, fill_value=rows)[0]
    motions = jax.eval_shape(predict, *_example(image_size)).shape[-1]

    def body(state: tuple[Array, Array]) -> tuple[Array, Array]:
        done, result = state
        index = jax.lax.dynamic_slice(valid_rows, (done,), (size,))
        clipped = jnp.minimum(index, rows - 1)
        image = None
        if image_size:
            crops = resample.cut_all(
                people.frames, people.frame_index[clipped], people.square[clipped]
            )
            image = jax.vmap(partial(resample.view, size=image_size))(crops)
        return done + size, result.at[index].set(predict(image, clipped), mode="drop")

    start = jnp.zeros((), total.dtype), jnp.zeros((rows, motions), jnp.float32)
    return jax.lax.while_loop(lambda state: state[0] < total, body, start)[1]


def _example(image_size: int) -> tuple[jax.ShapeDtypeStruct | None, jax.ShapeDtypeStruct]:
    """Returns the arguments of `Predict` for one person, as shapes."""
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.uint8)
    return image if image_size else None, jax.ShapeDtypeStruct((1,), jnp.int32)


def _in_groups(
    people: _People, valid: Array, predict: Predict, image_size: int, groups: tuple[int, ...]
) -> Array:
    """Computes probabilities [N, M] in groups of a few static sizes: for CPUs."""
    rows = len(valid)
    groups = tuple(sorted({*(g for g in groups if g < rows), min(rows, groups[-1])}))
    total = valid.sum()
    # Compacted, then filled with an index that scatters drop.
    valid_rows = jnp.nonzero(valid, size=rows + groups[-1], fill_value=rows)[0]
    views = _views(people, valid_rows, total, image_size) if image_size else None
    sizes = jnp.array(groups)
    motions = jax.eval_shape(predict, *_example(image_size)).shape[-1]

    def body(state: tuple[Array, Array]) -> tuple[Array, Array]:
        done, result = state
        left = total - done
        # The next larger group, or the next smaller one if a quarter of it would be padding.
        larger = jnp.minimum(jnp.searchsorted(sizes, left), len(groups) - 1)
        wasteful = (left * 4 < sizes[larger] * 3) & (larger > 0)
        choice = larger - wasteful

        def branch(count: int) -> Callable[[], Array]:
            def run() -> Array:
                index = jax.lax.dynamic_slice(valid_rows, (done,), (count,))
                image = None
                if views is not None:
                    image = jax.lax.dynamic_slice_in_dim(views, done, count)
                probabilities = predict(image, jnp.minimum(index, rows - 1))
                return result.at[index].set(probabilities, mode="drop")

            return run

        result = jax.lax.switch(choice, [branch(count) for count in groups])
        return done + sizes[choice], result

    start = jnp.zeros((), total.dtype), jnp.zeros((rows, motions), jnp.float32)
    return jax.lax.while_loop(lambda state: state[0] < total, body, start)[1]


def _into_view(points: Array, square: Array, size: int) -> Array:
    """Transforms key points [N, 18, 3] from frames to views of squares [N, 3], `size` pixels wide.

    Equals `crop.to_crop` followed by `augment.warp_keypoints` with `augment.center_affine`.
    """
    affine = augment.center_affine(size)
    scale = (crop.SIZE / square[:, 2])[:, None, None]
    xy = (points[..., :2] + 0.5 - square[:, None, :2]) * scale - 0.5
    xy = xy * np.diag(affine[:, :2]).astype(np.float32) + affine[:, 2].astype(np.float32)
    present = points[..., 2:] > 0
    return jnp.where(present, jnp.concatenate([xy, points[..., 2:]], -1), 0)


def _views(people: _People, valid_rows: Array, total: Array, size: int) -> Array:
    """Crops the inputs of the motion network: uint8 [len(valid_rows), size, size, 3].

    Only the first `total` are computed; the others stay 0.
    """

    def add(i: Array, views: Array) -> Array:
        row = valid_rows[i]
        pixels = resample.cut(people.frames, people.frame_index[row], people.square[row])
        view = resample.view(pixels, size)
        return jax.lax.dynamic_update_slice_in_dim(views, view[None], i, 0)

    views = jnp.zeros((len(valid_rows), size, size, 3), jnp.uint8)
    return jax.lax.fori_loop(0, total, add, views)
