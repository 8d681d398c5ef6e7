"""Reference implementation of the decoder in plain NumPy, for one image.

A joint candidate is called a peak: (joint, index in that joint's list). A person is a dictionary
from joints to such indices.
"""

from typing import NamedTuple

import numpy as np

from jdance import skeleton


class Peak(NamedTuple):
    x: float  # in cells
    y: float
    height: float  # of the smoothed map
    score: float  # of the map itself


def decode_reference(heat, paf, config):
    """Decodes the people in heat [h, w, 19] and paf [h, w, 38].

    Returns:
        keypoints float32 [N, 18, 3] and score float32 [N] of the N people, the best first.
    """
    peaks = [find_peaks(heat[..., joint], config) for joint in range(skeleton.NUM_JOINTS)]

    # At first every peak is a person of its own.
    people = [{joint: i} for joint, of_joint in enumerate(peaks) for i in range(len(of_joint))]
    totals = [peaks[joint][i].score for person in people for joint, i in person.items()]
    limbs = zip(skeleton.LIMBS.tolist(), skeleton.PAF_CHANNELS, strict=True)
    for number, ((first, second), channels) in enumerate(limbs):
        field = paf[..., channels]
        for score, i, j in match(peaks[first], peaks[second], field, config):
            a = next(n for n, person in enumerate(people) if person.get(first) == i)
            b = next(n for n, person in enumerate(people) if person.get(second) == j)
            only_extends = number >= skeleton.NUM_TREE_LIMBS
            if people[a].keys() & people[b].keys() or (only_extends and len(people[a]) < 2):
                continue
            people[a].update(people[b])
            totals[a] += score + totals[b]
            del people[b], totals[b]

    kept = []
    for person, total in zip(people, totals, strict=True):
        score = total / len(person)
        if len(person) >= config.min_joints and score >= config.min_score:
            keypoints = np.zeros((skeleton.NUM_JOINTS, 3), np.float32)
            for joint, i in person.items():
                peak = peaks[joint][i]
                x, y = (config.stride * at + (config.stride - 1) / 2 for at in (peak.x, peak.y))
                keypoints[joint] = x, y, peak.score
            kept.append((score, keypoints))
    kept = sorted(kept, key=lambda person: -person[0])[: config.max_people]
    return (
        np.array([keypoints for _, keypoints in kept], np.float32).reshape(-1, 18, 3),
        np.array([score for score, _ in kept], np.float32),
    )


def find_peaks(heat, config):
    """The highest local maxima of one heat map [h, w], highest first."""
    h, w = heat.shape
    smooth = smoothed(smoothed(heat, config.smoothing).T, config.smoothing).T
    peaks = []
    for y in range(h):
        for x in range(w):
            value = smooth[y, x]
            if value <= config.heat_threshold or heat[y, x] <= 0:
                continue
            around = [
                # Of equal neighbors the first is the peak.
                value > smooth[b, a] if (b, a) < (y, x) else value >= smooth[b, a]
                for b in range(max(y - 1, 0), min(y + 2, h))
                for a in range(max(x - 1, 0), min(x + 2, w))
            ]
            if all(around):
                top_x = refined(smooth[y], x) if config.refine else x
                top_y = refined(smooth[:, x], y) if config.refine else y
                peaks.append(Peak(top_x, top_y, value, heat[y, x]))
    return sorted(peaks, key=lambda peak: -peak.height)[: config.peaks_per_joint]


def smoothed(heat, sigma):
    """Smooths each column of heat [n, m] by a Gaussian with weights normalized at borders."""
    if sigma == 0:
        return heat
    result = np.empty_like(heat)
    for y in range(len(heat)):
        weights = np.exp(-0.5 * ((np.arange(len(heat)) - y) / sigma) ** 2)
        result[y] = weights @ heat / weights.sum()
    return result


def refined(line, at):
    """The maximum of the parabola through log-values of a line [n] around a peak."""
    center = min(max(at, 1), len(line) - 2)
    before, middle, after = np.log(np.maximum(line[center - 1 : center + 2], 0.01 * line[at]))
    curvature = before - 2 * middle + after
    top = center + (0.5 * (before - after) / curvature if curvature < 0 else 0)
    return min(max(top, at - 0.5), at + 0.5)


def match(starts, ends, field, config):
    """Greedily matched limbs (score, start index, end index) along a PAF [h, w, 2]."""
    limbs = []
    for i, start in enumerate(starts):
        for j, end in enumerate(ends):
            score = limb_score(start, end, field, config)
            if score is not None:
                limbs.append((score, i, j))
    used_starts, used_ends, result = set(), set(), []
    for score, i, j in sorted(limbs, key=lambda limb: -limb[0]):
        if i not in used_starts and j not in used_ends:
            used_starts.add(i)
            used_ends.add(j)
            result.append((score, i, j))
    return result


def limb_score(start, end, field, config):
    """The score of one limb, or None without a limb."""
    vector = np.array([end.x - start.x, end.y - start.y])
    length = np.hypot(*vector)
    if length == 0:
        return None
    along = []
    for s in range(config.samples):
        x, y = np.array([start.x, start.y]) + (s + 0.5) / config.samples * vector
        along.append(bilinear(field, x, y) @ vector / length)
    if np.sum(np.array(along) > config.sample_threshold) < config.min_samples:
        return None
    score = np.mean(along) + min(0.5 * len(field) / length - 1, 0)
    return score if score > 0 else None


def bilinear(field, x, y):
    """Samples field [h, w, 2] at (x, y), clamped to the map."""
    h, w = field.shape[:2]
    x, y = min(max(x, 0), w - 1), min(max(y, 0), h - 1)
    left, top = min(int(x), w - 2), min(int(y), h - 2)
    dx, dy = x - left, y - top
    upper = (1 - dx) * field[top, left] + dx * field[top, left + 1]
    lower = (1 - dx) * field[top + 1, left] + dx * field[top + 1, left + 1]
    return (1 - dy) * upper + dy * lower
