"""Time in sequences of skeletons: any number of frames to a fixed one."""

import numpy as np
from ml_collections import ConfigDict

from jdance.data.randomness import BatchRandom, between


def smooth(keypoints: np.ndarray) -> np.ndarray:
    """The median over 3 frames of [T, J, 3], against single wild frames.

    Only where a joint is there in all three; the first and the last frame stay as they are.
    """
    if len(keypoints) < 3:
        return keypoints
    windows = np.stack([keypoints[:-2], keypoints[1:-1], keypoints[2:]])
    everywhere = (windows[..., 2:] > 0).all(0)
    middle = np.where(everywhere, np.median(windows, axis=0), keypoints[1:-1])
    return np.concatenate([keypoints[:1], middle, keypoints[-1:]]).astype(np.float32)


def times(
    counts: np.ndarray, frames: int, rng: BatchRandom | None, config: ConfigDict
) -> np.ndarray:
    """Where in sequences of `counts` [B] frames to look: float64 [B, frames] in 0 to count - 1.

    Without chances evenly from the first to the last; else in a part of each sequence, at least
    `config.time_crop` of it, at a pace that changes by the exponent `config.time_warp`.
    """
    last = np.asarray(counts)[:, None] - 1
    even = np.linspace(0, 1, frames)
    if rng is None:
        return even * last
    share, start, warp = rng.uniform(3)[..., None]
    share = between(share, config.time_crop, 1)
    warped = even ** np.exp(between(warp, -config.time_warp, config.time_warp))
    return ((1 - share) * start + share * warped) * last


def resample(keypoints: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Skeletons [T, J, 3] at the times float [N]: [N, J, 3].

    Between two frames linear; where a joint is in only one of them, as it is there if that is the
    nearer one, else missing.
    """
    before = np.clip(np.floor(at).astype(int), 0, len(keypoints) - 1)
    after = np.minimum(before + 1, len(keypoints) - 1)
    part = (at - before)[:, None, None]
    a, b = keypoints[before], keypoints[after]
    both = (a[..., 2:] > 0) & (b[..., 2:] > 0)
    nearer = np.where(part < 0.5, a, b)
    return np.where(both, (1 - part) * a + part * b, nearer).astype(np.float32)
