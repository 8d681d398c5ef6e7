"""Filtering and resampling of skeleton sequences to a fixed number of frames."""

import numpy as np
from ml_collections import ConfigDict

from jdance.data.randomness import BatchRandom, between


def median_filter(keypoints: np.ndarray) -> np.ndarray:
    """Median over 3 frames of [T, J, 3], which removes outliers of single frames.

    Applies to joints that are present in all three; the first and last frames are unchanged.
    """
    if len(keypoints) < 3:
        return keypoints
    windows = np.stack([keypoints[:-2], keypoints[1:-1], keypoints[2:]])
    in_all = (windows[..., 2:] > 0).all(0)
    middle = np.where(in_all, np.median(windows, axis=0), keypoints[1:-1])
    return np.concatenate([keypoints[:1], middle, keypoints[-1:]]).astype(np.float32)


def sample_times(
    counts: np.ndarray, frames: int, rng: BatchRandom | None, config: ConfigDict
) -> np.ndarray:
    """Samples fractional frame indices of B sequences.

    Args:
        counts: number of frames of each sequence, int [B].
        frames: number of samples per sequence.
        rng: random numbers of the batch; None samples evenly from the first frame to the last.
        config: augmentation. A segment covers at least the fraction `time_crop` of a sequence, and
            its pace varies by the exponent `time_warp`.

    Returns:
        float64 [B, frames] from 0 to count - 1.
    """
    last = np.asarray(counts)[:, None] - 1
    even = np.linspace(0, 1, frames)
    if rng is None:
        return even * last
    length, start, warp = rng.uniform(3)[..., None]
    length = between(length, config.time_crop, 1)
    warped = even ** np.exp(between(warp, -config.time_warp, config.time_warp))
    return ((1 - length) * start + length * warped) * last


def resample_times(keypoints: np.ndarray, times: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Interpolates skeletons [T, J, 3], taken at increasing `times` [T], at the times `at` [N].

    Times are in seconds; before the first and after the last, their skeletons are repeated.

    Returns:
        float32 [N, J, 3], see `resample`.
    """
    return resample(keypoints, np.interp(at, times, np.arange(len(times))))


def resample(keypoints: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Interpolates skeletons [T, J, 3] linearly at fractional frames [N]: [N, J, 3].

    A joint that is present in one of two frames only is taken from the nearer frame.
    """
    before = np.clip(np.floor(at).astype(int), 0, len(keypoints) - 1)
    after = np.minimum(before + 1, len(keypoints) - 1)
    weight = (at - before)[:, None, None]
    a, b = keypoints[before], keypoints[after]
    both = (a[..., 2:] > 0) & (b[..., 2:] > 0)
    nearer = np.where(weight < 0.5, a, b)
    return np.where(both, (1 - weight) * a + weight * b, nearer).astype(np.float32)
