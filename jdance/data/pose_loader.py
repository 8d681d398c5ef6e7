"""Training batches of pose networks from whole images, in the order of `loader`.

One affine map transforms image, key points and mask (Cao et al., 2017): it scales a random person
to a random height, rotates, and centers the person with jitter in a square view.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from ml_collections import ConfigDict

from jdance import skeleton
from jdance.data import augment, crop, images, scenes
from jdance.data.loader import Batch, ordered_batches
from jdance.data.randomness import BatchRandom
from jdance.errors import UserError

_SCALES = (0.2, 3.0)  # limits, for people who are only partly visible
STRIDE = 8
_REACH = 21  # radius of a joint's peak in the heat map in pixels, see `targets.encode`
_MAX_COORDINATE = 1e5  # pixels; OpenCV's drawing overflows beyond


def make_example(item: tuple[int, bytes], rng: np.random.Generator, *, config: ConfigDict) -> Batch:
    """Draws a view of an indexed packed record: image, key points, mask and index."""
    index, data = item
    record = scenes.unpack(data)
    image = images.decode(record.image)
    if image is None:
        raise UserError(f"{record.name}: a damaged image; prepare the data again")
    size = config.data.image_size
    scale, affine, mirrored = draw_view(record.people, image.shape[:2], size, rng, config.augment)
    (keypoints,) = augment.warp_keypoints(record.people[None], affine[None], np.array([mirrored]))
    near, others = _nearest(keypoints, size, config.data.max_people)
    known = np.full((size, size), 255, np.uint8)
    if record.mask is not None:
        known = warp_view(record.mask, scale, affine, size, outside=255)
    for i in others:
        _mask_out(known, record.people[i], record.boxes[i], scale, affine)
    cells = (size // STRIDE, size // STRIDE)
    mask = cv2.resize(known, cells, interpolation=cv2.INTER_AREA) / np.float32(255)
    seen = warp_view(image, scale, affine, size, outside=0)
    distortions = augment.draw_distortions(size, BatchRandom([rng]), config.augment)
    augment.distort_image(seen, distortions, 0)
    return {
        "image": seen,
        "keypoints": near,
        "mask": mask,
        "index": np.array(index, np.int32),
    }


def draw_view(
    keypoints: np.ndarray,
    image: tuple[int, int],
    size: int,
    rng: np.random.Generator,
    config: ConfigDict,
) -> tuple[float, np.ndarray, bool]:
    """Draws the affine map from an image to a view.

    Args:
        keypoints: float [M, 18, 3] in image pixels.
        image: height and width of the image.
        size: side of the view in pixels.
        rng: random numbers of the example.
        config: `jdance.config.pose().augment`.

    Returns:
        The scale, the affine map [2, 3], and whether it mirrors.
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
    target = size / 2 - 0.5 + rng.uniform(-config.jitter, config.jitter, 2)
    return scale, np.concatenate([linear, (target - linear @ middle)[:, None]], 1), mirrored


def warp_view(
    image: np.ndarray, scale: float, affine: np.ndarray, size: int, outside: int
) -> np.ndarray:
    """Warps uint8 [H, W(, C)] by an affine map [2, 3] of a given scale to [size, size(, C)].

    Downscaling averages areas, as in `letterbox`; the rest of the map interpolates linearly.
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
    """Selects the people nearest to the view's center.

    Returns:
        Key points [count, 18, 3], padded with zeros, and the indices of all others that have a
        labeled joint.
    """
    present = skeleton.is_present(keypoints)
    distance = np.linalg.norm(keypoints[..., :2] - size / 2, axis=-1)
    distance = np.where(present, distance, np.inf).min(axis=-1, initial=np.inf)
    order = np.argsort(distance, kind="stable")
    result = np.zeros((count, skeleton.NUM_JOINTS, 3), np.float32)
    result[: len(order[:count])] = keypoints[order[:count]]
    return result, order[count:][np.isfinite(distance[order[count:]])]


def _mask_out(
    known: np.ndarray, person: np.ndarray, box: np.ndarray, scale: float, affine: np.ndarray
) -> None:
    """Sets a view's mask, uint8 [S, S], to 0 around a person of the image.

    The masked area contains the box [4], the key points [18, 3] and their peaks in the heat maps.
    """
    corners = person[skeleton.is_present(person), :2]
    if box[2] > 0 and box[3] > 0:
        corners = np.concatenate([corners, [box[:2], box[:2] + box[2:]]])
    (left, top), (right, bottom) = corners.min(0) - _REACH / scale, corners.max(0) + _REACH / scale
    square = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    square = square @ affine[:, :2].T + affine[:, 2]
    cv2.fillConvexPoly(
        known, square.clip(-_MAX_COORDINATE, _MAX_COORDINATE).round().astype(np.int32), 0
    )


def train_batches(
    source: Any, config: ConfigDict, start_step: int = 0, process: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """Yields training batches without end; the arguments are those of `loader.train_batches`.

    Yields:
        image uint8 [B, S, S, 3] RGB, keypoints float32 [B, M, 18, 3] in its pixels, mask float32
        [B, S/8, S/8] (0 where people are not annotated), index int32 [B].
    """

    def make(indices: Sequence[int], rngs: Sequence[np.random.Generator]) -> Batch:
        examples = [
            make_example((index, source[index]), rng, config=config)
            for index, rng in zip(indices, rngs, strict=True)
        ]
        return {name: np.stack([one[name] for one in examples]) for name in examples[0]}

    return ordered_batches(source, make, config, start_step, process, processes)
