"""From whole images to a pose network's training batches; see `pipeline` for how they are read.

Image, key points and mask go through one map (Cao et al., 2017): somebody in the image is
brought to a random height, turned, and put near the middle of a square view.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from ml_collections import ConfigDict

from jdance import skeleton
from jdance.data import augment, crop, images, scenes
from jdance.data.loader import Batch, train_order
from jdance.data.randomness import BatchRandom
from jdance.errors import UserError

_SCALES = (0.2, 3.0)  # somebody of whom only a hand is seen shall not fill the view
STRIDE = 8
_REACH = 21  # pixels of the view, up to which a joint adds to its heat map, see `targets.encode`
_FARTHEST = 1e5  # pixels, for OpenCV's drawing


def example(item: tuple[int, bytes], rng: np.random.Generator, *, config: ConfigDict) -> Batch:
    """One packed record -> image, people and mask of a random view of it."""
    index, data = item
    record = scenes.unpack(data)
    image = images.decode(record.image)
    if image is None:
        raise UserError(f"{record.name}: a damaged image; prepare the data again")
    size = config.data.image_size
    scale, affine, mirrored = view(record.people, image.shape[:2], size, rng, config.augment)
    (keypoints,) = augment.warp_keypoints(record.people[None], affine[None], np.array([mirrored]))
    near, others = _nearest(keypoints, size, config.data.max_people)
    known = np.full((size, size), 255, np.uint8)
    if record.mask is not None:
        known = warp(record.mask, scale, affine, size, outside=255)
    for i in others:
        _mask_out(known, record.people[i], record.boxes[i], scale, affine)
    cells = (size // STRIDE, size // STRIDE)
    mask = cv2.resize(known, cells, interpolation=cv2.INTER_AREA) / np.float32(255)
    seen = warp(image, scale, affine, size, outside=0)
    disturbances = augment.draw_disturbances(size, BatchRandom([rng]), config.augment)
    augment.disturb_image(seen, disturbances, 0)
    return {
        "image": seen,
        "keypoints": near,
        "mask": mask,
        "index": np.array(index, np.int32),
    }


def view(
    keypoints: np.ndarray,
    image: tuple[int, int],
    size: int,
    rng: np.random.Generator,
    config: ConfigDict,
) -> tuple[float, np.ndarray, bool]:
    """Draws the map from an image to a view of `size` pixels.

    Args:
        keypoints: float [M, 18, 3] in the image.
        image: its height and width.
        size: side of the view.
        rng: what to draw from.
        config: `jdance.config.pose().augment`.

    Returns:
        How much the map enlarges, the map [2, 3], and whether it mirrors.
    """
    boxes = [crop.tight_box(person) for person in keypoints if person.any()]
    x, y, width, height = 0.0, 0.0, float(image[1]), float(image[0])
    if boxes:
        x, y, width, height = boxes[rng.integers(len(boxes))]
    scale = float(np.clip(rng.uniform(*config.person_height) / max(height, 1), *_SCALES))
    angle = np.deg2rad(rng.uniform(-config.rotation, config.rotation))
    mirrored = bool(rng.random() < config.flip)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = scale * turn @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    middle = np.array([x + width / 2, y + height / 2])
    place = size / 2 - 0.5 + rng.uniform(-config.jitter, config.jitter, 2)
    return scale, np.concatenate([linear, (place - linear @ middle)[:, None]], 1), mirrored


def warp(
    image: np.ndarray, scale: float, affine: np.ndarray, size: int, outside: int
) -> np.ndarray:
    """Applies a map [2, 3] that enlarges by `scale` to uint8 [H, W(, C)]: [size, size(, C)].

    Shrinking averages areas, as `letterbox` does, and only the rest of the map interpolates.
    """
    factor = np.ones(2)
    if scale < 1:
        height, width = (max(1, round(n * scale)) for n in image.shape[:2])
        factor = np.array([image.shape[1] / width, image.shape[0] / height])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    # Pixel x of the small image is pixel factor * (x + 0.5) - 0.5 of the full one.
    adapted = affine.copy()
    adapted[:, 2] += affine[:, :2] @ (factor / 2 - 0.5)
    adapted[:, :2] *= factor
    return cv2.warpAffine(
        image, adapted, (size, size), flags=cv2.INTER_LINEAR, borderValue=(outside,) * 3
    )


def _nearest(keypoints: np.ndarray, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The people nearest to the middle of the view, [count, 18, 3], filled up with zeros.

    Also the indices of the others that have a labelled joint.
    """
    present = skeleton.is_present(keypoints)
    away = np.linalg.norm(keypoints[..., :2] - size / 2, axis=-1)
    away = np.where(present, away, np.inf).min(axis=-1, initial=np.inf)
    order = np.argsort(away, kind="stable")
    result = np.zeros((count, skeleton.NUM_JOINTS, 3), np.float32)
    result[: len(order[:count])] = keypoints[order[:count]]
    return result, order[count:][np.isfinite(away[order[count:]])]


def _mask_out(
    known: np.ndarray, person: np.ndarray, box: np.ndarray, scale: float, affine: np.ndarray
) -> None:
    """Sets the mask of a view, uint8 [S, S], to 0 where a person of the image is.

    That is the box of the person [4] and of their key points [18, 3], with what their joints would
    add to the heat maps.
    """
    corners = person[skeleton.is_present(person), :2]
    if box[2] > 0 and box[3] > 0:
        corners = np.concatenate([corners, [box[:2], box[:2] + box[2:]]])
    (left, top), (right, bottom) = corners.min(0) - _REACH / scale, corners.max(0) + _REACH / scale
    square = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    square = square @ affine[:, :2].T + affine[:, 2]
    cv2.fillConvexPoly(known, square.clip(-_FARTHEST, _FARTHEST).round().astype(np.int32), 0)


def train_batches(
    source: Any, config: ConfigDict, start_step: int = 0, process: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """Endless training batches from `start_step` on; the arguments are those of
    `pipeline.train_batches`.

    Yields:
        image uint8 [B, S, S, 3] RGB, keypoints float32 [B, M, 18, 3] in pixels of it, mask float32
        [B, S/8, S/8] (0 where nothing is known of the people), index int32 [B].
    """

    def make(indices: Sequence[int], rngs: Sequence[np.random.Generator]) -> Batch:
        examples = [
            example((index, source[index]), rng, config=config)
            for index, rng in zip(indices, rngs, strict=True)
        ]
        return {name: np.stack([one[name] for one in examples]) for name in examples[0]}

    return train_order(source, make, config, start_step, process, processes)
