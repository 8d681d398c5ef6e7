"""Time in sequences of skeletons: any number of frames to a fixed one."""

import numpy as np
from ml_collections import ConfigDict


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
    count: int, frames: int, rng: np.random.Generator | None, config: ConfigDict
) -> np.ndarray:
    """Where in a sequence of `count` frames to look, float64 [frames] in 0 to count - 1.

    Without an rng evenly from the first to the last; else in a part of the sequence, at least
    `config.time_crop` of it, at a pace that changes by the exponent `config.time_warp`.
    """
    even = np.linspace(0, 1, frames)
    if rng is None:
        return even * (count - 1)
    share = rng.uniform(config.time_crop, 1)
    start = rng.uniform(0, 1 - share)
    warped = even ** np.exp(rng.uniform(-config.time_warp, config.time_warp))
    return (start + share * warped) * (count - 1)


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
