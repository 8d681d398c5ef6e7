"""Tracks of bare skeletons for a sequence network: motions that need movement, and `unknown`.

Each example is a window of two seconds with the label of its middle. A wave must swing and a walk
must step: frozen in time, both are `unknown`, as are other postures and moving to and fro between
them. Skeletons are degraded as pose estimators and trackers degrade them, over time.
"""

from collections.abc import Callable

import numpy as np

from jdance import skeleton
from jdance.stagedance import postures
from jdance.stagedance.body import LIMITS, MOTIONS, Build, Pose, random_build, random_pose
from jdance.stagedance.skeletons import ARMS, CLASSES, LEGS, UNKNOWN, View, shows, tilt

PRESET = "dance6_sequence"
SECONDS = 2.0  # length of a window

# Tracks of each motion, and of unknown.
COUNTS = {"train": (2000, 8000), "val": (150, 600), "test": (150, 600)}

_FRAMES = (10, 20)  # of a window
_CENTER = 0.6  # seconds before and after the middle in which a motion must show

# Time in seconds -> pose, and position (to the left, ahead) in meters.
_Activity = Callable[[float], tuple[Pose, tuple[float, float]]]


def plan() -> list[tuple[str, str, int]]:
    """Split, class and number of every track of the data set."""
    return [
        (split, label, number)
        for split, counts in COUNTS.items()
        for label in CLASSES
        for number in range(counts[label == UNKNOWN])
    ]


def draw(seed: int, split: str, label: str, number: int) -> np.ndarray:
    """Draws a window, float32 [T, 18, 3] in pixels: a pure function of its arguments."""
    purpose = list(COUNTS).index(split), CLASSES.index(label), number
    rng = np.random.default_rng([seed, 2, *purpose])
    while True:
        track = _draw(label, rng)
        if track is not None:
            return track


def _draw(label: str, rng: np.random.Generator) -> np.ndarray | None:
    """A window; None if its visible joints do not show what its label says."""
    build = random_build(rng)
    hidden = label == UNKNOWN and rng.random() < 0.1  # a motion whose joints are missing
    motion = str(rng.choice(MOTIONS)) if hidden else label
    turned, activity = _activity(motion, build, rng)
    others: list[_Activity | None] = [None, None]  # before and after
    if rng.random() < 0.4 and not turned:
        other = str(rng.choice(CLASSES, p=(*[0.14] * len(MOTIONS), 0.16)))
        tilted, beside = _activity(other, build, rng)
        if not tilted:
            others[int(rng.integers(2))] = beside
    edges = np.array([-1, 1]) * rng.uniform(0.08, SECONDS / 2, 2)
    transition = rng.uniform(0.3, 0.8)

    view = View(build, rng, turned)
    turning = rng.normal(0, 12) if rng.random() < 0.3 else 0.0  # degrees per second
    times = np.linspace(-SECONDS / 2, SECONDS / 2, int(rng.integers(*_FRAMES, endpoint=True)))
    exact = []
    for time in times:
        pose, at = activity(time)
        for neighbor_activity, edge in zip(others, edges, strict=True):
            distance = (time - edge) * np.sign(edge) / (transition / 2)  # > 0 beyond the edge
            if neighbor_activity is not None and distance > -1:
                neighbor, _ = neighbor_activity(time)
                near = 0.5 * max(1 - abs(distance), 0) ** 1.5
                weight = near if distance < 0 else 1 - near
                pose = {n: (1 - weight) * pose[n] + weight * neighbor[n] for n in pose}
        pose = {name: np.clip(pose[name], *limits) for name, limits in LIMITS.items()}
        points, body = view.project(pose, at, turning * time)
        exact.append(points)
    track = np.stack(exact)
    _hide_far_side(track, view.farther_arm(body), rng)
    track[..., :2] = tilt(track[..., :2], rng.normal(0, 4))
    found = degrade(track, view.unit, rng, 0.8 if hidden else 0.25)

    middle = np.abs(times) <= _CENTER
    for neighbor_activity, edge in zip(others, edges, strict=True):
        if neighbor_activity is not None:
            middle &= (times - edge) * np.sign(edge) < 0
    if not middle.any() or (found[middle, :, 2] > 0).sum(-1).max() < 4:
        return None
    if motion != UNKNOWN:
        seen = found[..., 2] > 0
        shown = _shown(motion, track[middle], seen[middle], view.unit)
        all_shown = _shown(motion, track[middle], np.ones_like(seen[middle]), view.unit)
        if (hidden and (shown > 0 or all_shown < 0.3)) or (not hidden and shown < 0.3):
            return None
    if rng.random() < 0.3:  # the track begins or ends within the window
        first, last = 0, len(times) - 1
        if rng.random() < 0.6:
            last = int(np.searchsorted(times, rng.uniform(0.1, 1)))
        else:
            first = int(np.searchsorted(times, rng.uniform(-1, -0.1)))
        found = found[np.clip(np.arange(len(times)), first, last)]
    return found


def _shown(motion: str, exact: np.ndarray, seen: np.ndarray, unit: float) -> float:
    """The fraction of frames that show a motion, see `skeletons.shows`."""
    frames = zip(exact, seen, strict=True)
    return float(np.mean([shows(motion, points, visible, unit) for points, visible in frames]))


# Activities over time ----------------------------------------------------------------------------


def _activity(label: str, build: Build, rng: np.random.Generator) -> tuple[float, _Activity]:
    """Draws an activity, and by how many degrees the whole body is turned over."""
    if label != UNKNOWN:
        return 0.0, _swayed(_motion(label, build, rng), rng)
    kind = rng.random()
    if kind < 0.14:
        return 0.0, _swayed(_frozen("wave", build, rng), rng)
    if kind < 0.22:
        return 0.0, _swayed(_frozen("walk", build, rng), rng)
    turned, pose = _posture(build, rng)
    if kind < 0.42:  # to and fro between two postures, as in exercises
        _, other = _posture(build, rng)
        arms_only = rng.random() < 0.4
        if arms_only:
            other = pose | {name: other[name] for name in postures.ARM_ANGLES}
        pace, start = 2 * np.pi * rng.uniform(0.4, 1.5), rng.uniform(0, 2 * np.pi)

        def exercise(time: float) -> tuple[Pose, tuple[float, float]]:
            weight = 0.5 + 0.5 * np.sin(pace * time + start)
            return {n: (1 - weight) * pose[n] + weight * other[n] for n in pose}, (0.0, 0.0)

        return turned, _swayed(exercise, rng)
    return turned, _swayed(lambda time: (pose, (0.0, 0.0)), rng)


def _motion(motion: str, build: Build, rng: np.random.Generator) -> _Activity:
    """One of the six motions; a walk is on the spot or ahead."""
    seed, start = rng.integers(2**32), rng.uniform(0, 2 * np.pi)
    paces = (0.5, 2.2) if motion == "wave" else (0.6, 1.15)
    pace = 2 * np.pi * rng.uniform(*paces)
    speed = rng.uniform(0.4, 1.5) if motion == "walk" and rng.random() < 0.6 else 0.0
    wave_high = motion == "wave" and rng.random() < 0.3
    swing = rng.uniform(0.3, 1)
    arms, legs = rng.random() < 0.6, rng.random() < 0.3

    def at(time: float) -> tuple[Pose, tuple[float, float]]:
        again = np.random.default_rng(seed)  # the same body at every time
        phase = pace * time + start
        pose = random_pose(motion, build, again, phase)
        if motion == "stand" and legs:  # of livelier motions
            other = random_pose("akimbo", build, again)
            pose |= {name: other[name] for name in ("hip_flexion", "hip_abduction", "knee")}
        if motion == "stand" and arms:
            postures.standing_arms(pose, build, again)
        if wave_high:
            side = postures.wave_high(pose, again)
            pose["shoulder_rotation"][side] += 22 * swing * np.cos(phase)
            pose["elbow"][side] += 20 * swing * np.sin(phase)
        return pose, (0.0, speed * time)

    return at


def _frozen(motion: str, build: Build, rng: np.random.Generator) -> _Activity:
    """A motion at one moment."""
    moving, moment = _motion(motion, build, rng), rng.uniform(0, 2)
    pose, _ = moving(moment)
    return lambda time: (pose, (0.0, 0.0))


def _posture(build: Build, rng: np.random.Generator) -> tuple[float, Pose]:
    """A posture of no motion, and by how many degrees the body is turned over."""
    if rng.random() < 0.45:
        pose = random_pose(str(rng.choice(["stand", "wave"])), build, rng)
        while postures.other_arms(pose, build, rng) is None:  # may look like a motion
            pose = random_pose("stand", build, rng)
        return 0.0, pose
    pose = random_pose("stand", build, rng)
    name = str(rng.choice(list(postures.POSTURES), p=postures.POSTURE_WEIGHTS))
    turned = postures.POSTURES[name](pose, rng)
    postures.any_arms(pose, build, rng)
    return turned, pose


def _swayed(activity: _Activity, rng: np.random.Generator) -> _Activity:
    """Adds slow noise to every angle, as bodies never hold still."""
    amplitude = np.exp(rng.uniform(np.log(0.3), np.log(4)))
    speeds, starts = rng.uniform(0.3, 0.8, len(LIMITS)), rng.uniform(0, 2 * np.pi, len(LIMITS))

    def at(time: float) -> tuple[Pose, tuple[float, float]]:
        pose, place = activity(time)
        sway = amplitude * np.sin(2 * np.pi * speeds * time + starts)
        return {n: pose[n] + s for n, s in zip(LIMITS, sway, strict=True)}, place

    return at


# Degradation -------------------------------------------------------------------------------------


def _hide_far_side(track: np.ndarray, far: int | None, rng: np.random.Generator) -> None:
    """Hides, now and then, the limbs on the far side of a body in profile."""
    if far is not None:
        for limb in (ARMS[far], LEGS[far]):
            if rng.random() < 0.35:
                track[_interval(len(track), rng), limb[int(rng.integers(3)) :], 2] = 0


def _interval(frames: int, rng: np.random.Generator) -> slice:
    """All frames, or, as often, some consecutive ones."""
    if rng.random() < 0.5:
        return slice(None)
    start, stop = sorted(rng.integers(0, frames + 1, 2))
    return slice(int(start), int(stop))


def degrade(exact: np.ndarray, unit: float, rng: np.random.Generator, cut: float) -> np.ndarray:
    """Key points [T, 18, 3] as an estimator might find them in a video: float32.

    Args:
        exact: where the joints are.
        unit: height of the upright body in pixels.
        rng: what to draw from.
        cut: probability that the body is cut off at the image's edge.
    """
    found, frames = exact.copy(), len(exact)
    if rng.random() < 0.08:  # mistaken sides, of all or of the legs alone
        swapped = skeleton.COCO18.flip.copy()
        if rng.random() < 0.6:
            swapped[[j for j in range(18) if j not in LEGS]] = [
                j for j in range(18) if j not in LEGS
            ]
        when = _interval(frames, rng)
        found[when] = found[when][:, swapped]
    for limb in (ARMS, LEGS):
        for depth in (1, 2):
            if rng.random() < 0.03:  # both of a pair on one side
                one, when = int(rng.integers(2)), _interval(frames, rng)
                found[when, limb[one, depth]] = found[when, limb[1 - one, depth]]
    # Low scores are far off; errors of consecutive frames resemble each other.
    sure = rng.uniform(0.4, 1.0, 18) * rng.uniform(0.7, 1.0)
    blur = unit * np.exp(rng.uniform(np.log(0.002), np.log(0.014)))
    steady = rng.normal(0, 1, (1, 18, 2)) * rng.uniform(0, 1)
    noise = rng.normal(0, 1, (frames, 18, 2)) * rng.uniform(0.2, 0.8) + steady
    found[..., :2] += noise * (blur * (1.6 - sure))[:, None]
    wild = rng.random((frames, 18)) < 0.004
    found[wild, :2] += rng.normal(0, 0.15 * unit, (int(wild.sum()), 2))
    found[..., 2] *= sure
    rate = rng.choice([0.0, 0.03, 0.12, 0.3], p=[0.4, 0.3, 0.2, 0.1])
    missing = (rng.random(18) < 0.5 * rate) | (rng.random((frames, 18)) < 0.5 * rate)
    if rng.random() < 0.7:  # limbs grow from the trunk outwards
        for limb in (*ARMS, *LEGS):
            missing[:, limb] = np.logical_or.accumulate(missing[:, limb], axis=1)
    if rng.random() < 0.1:  # an arm or a leg behind something
        hidden = (ARMS, LEGS)[rng.integers(2)][rng.integers(2)][rng.integers(3) :]
        missing[_interval(frames, rng), hidden] = True
    if rng.random() < cut:
        missing |= _beyond_edge(exact, rng)
    found[missing, 2] = 0
    return skeleton.clean(found)


def _beyond_edge(exact: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which joints lie beyond the edge of the images: bool [T, 18]."""
    x, y = exact[..., 0], exact[..., 1]
    edge = rng.choice(4, p=[0.6, 0.08, 0.16, 0.16])
    low, high = (y.min(), y.max()) if edge < 2 else (x.min(), x.max())
    depth = rng.uniform(0.02, (0.85, 0.25, 0.6, 0.6)[edge]) * (high - low)
    return np.array((y > high - depth, y < low + depth, x < low + depth, x > high - depth)[edge])
