"""STR's images of skeletons, the input of its network.

Pham, Salmane, Khoudour, Crouzil, Zegers and Velastin, "Spatio-temporal image representation of 3D
skeletal movements for view-invariant action recognition with deep convolutional neural networks",
Sensors 19(8):1932, 2019; here in two dimensions. Each pair of joints gives two colors: one for its
distance (JJD) and one for its direction (JJO).
"""

import cv2
import numpy as np

from jdance import features
from jdance.skeleton import COCO18, Layout

SIDE = 32  # pixels, of the resized map
_MAX_DISTANCE = 3.0  # trunk lengths; larger distances have the last color
_SAVGOL = np.array([-3, 12, 17, 12, -3]) / 35  # Savitzky-Golay filter: 5 points, quadratic


def compute(keypoints: np.ndarray, layout: Layout = COCO18) -> np.ndarray:
    """Maps of stills or clips, resized for the network.

    Args:
        keypoints: float32 [N, J, 3] of stills, or [N, T, J, 3] of clips.
        layout: of the J joints.

    Returns:
        uint8 RGB [N, 32, 32, 3].
    """
    make = still if keypoints.ndim == 3 else clip
    images = [finish(make(item, layout)) for item in keypoints]
    return np.stack(images) if images else np.zeros((0, SIDE, SIDE, 3), np.uint8)


def still(keypoints: np.ndarray, layout: Layout = COCO18) -> np.ndarray:
    """The map of one skeleton [J, 3]: float32 RGB [J, J, 3] in 0 to 1.

    Distances are in the upper triangle, directions in the lower; missing pairs are black.
    """
    xy, present = features.centered(keypoints, layout)
    first, second = _pairs(len(layout))
    distances, directions = _colors(xy, present, xy, present)
    image = np.zeros((len(layout), len(layout), 3), np.float32)
    image[first, second] = distances
    image[second, first] = directions
    return image


def clip(keypoints: np.ndarray, layout: Layout = COCO18) -> np.ndarray:
    """The map of a sequence [T, J, 3]: float32 RGB [J (J - 1), 2 T - 1, 3] in 0 to 1.

    Rows are the distances of all pairs of joints j < k, then their directions. Even columns are
    poses (the frames), odd columns motions: from joint j in one frame to joint k in the next.
    """
    xy, present = features.centered(keypoints, layout)
    xy = smooth(xy, present)
    poses = _colors(xy, present, xy, present)
    motions = _colors(xy[:-1], present[:-1], xy[1:], present[1:])
    columns = np.zeros((2 * len(xy) - 1, 2 * poses[0].shape[1], 3), np.float32)
    columns[0::2] = np.concatenate(poses, 1)
    columns[1::2] = np.concatenate(motions, 1)
    return columns.transpose(1, 0, 2)


def smooth(xy: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Savitzky-Golay filter over time for [T, J, 2], if T is 5 or more.

    The two frames at either end, and joints missing in any of the five frames, are unchanged.
    """
    if len(xy) < len(_SAVGOL):
        return xy
    count = len(xy) - len(_SAVGOL) + 1
    smoothed = sum(weight * xy[i : i + count] for i, weight in enumerate(_SAVGOL))
    in_all_frames = np.all([present[i : i + count] for i in range(len(_SAVGOL))], axis=0)
    result = xy.copy()
    result[2:-2] = np.where(in_all_frames[..., None], smoothed, xy[2:-2])
    return result


def jet(values: np.ndarray) -> np.ndarray:
    """The colormap "jet": RGB [..., 3] for values in 0 to 1."""
    return np.clip(1.5 - abs(4 * values[..., None] - np.array([3, 2, 1])), 0, 1)


def finish(image: np.ndarray) -> np.ndarray:
    """Enhances the contrast of a map float [H, W, 3] in 0 to 1 and resizes it: uint8 [32, 32, 3].

    Repeats pixels until each side has at least 32, applies CLAHE to the lightness (clip limit 2,
    8 x 8 tiles), and averages over areas.
    """
    for axis in (0, 1):
        image = np.repeat(image, -(-SIDE // image.shape[axis]), axis)
    lab = cv2.cvtColor(np.round(255 * image).astype(np.uint8), cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(2.0, (8, 8)).apply(lab[..., 0])
    enhanced = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    return np.asarray(cv2.resize(enhanced, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def _pairs(joints: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(joints, 1)


def _colors(
    xy: np.ndarray, present: np.ndarray, later: np.ndarray, later_present: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Colors of distances and directions from joint j in `xy` to joint k in `later`.

    Both [..., P, 3], for the P pairs j < k.
    """
    first, second = _pairs(xy.shape[-2])
    vector = later[..., second, :] - xy[..., first, :]
    length = np.linalg.norm(vector, axis=-1, keepdims=True)
    unit = vector / np.where(length > 0, length, 1)
    distances = jet(np.clip(length[..., 0] / _MAX_DISTANCE, 0, 1))
    directions = np.concatenate([(unit + 1) / 2, np.full_like(length, 0.5)], -1)
    both = (present[..., first] & later_present[..., second])[..., None]
    return np.where(both, distances, 0), np.where(both, directions, 0)
