"""Postures of the arms and of the whole body that are none of the six motions.

`skeletons` draws its negative examples with them: hands at the head or at an object, crossed arms,
and sitting, squatting, kneeling, lunging, running, bowing, lying and straddling bodies. Functions
change a `Pose` in place.
"""

from collections.abc import Callable

import numpy as np

from jdance.stagedance.body import Build, Pose, random_pose, reach

ARM_ANGLES = ("shoulder_elevation", "shoulder_plane", "shoulder_rotation", "elbow")

# Positions of a hand as (outward, up, forward) ranges from the middle of the hips, in body
# heights, and the direction in which the elbow points.
_Hand = tuple[tuple[tuple[float, float], ...], tuple[float, float, float]]
_HANDS: dict[str, _Hand] = {
    "ear": (((0.03, 0.08), (0.38, 0.45), (-0.02, 0.06)), (1.0, -0.6, 0.5)),
    "mouth": (((-0.03, 0.04), (0.33, 0.40), (0.06, 0.14)), (1.0, -1.0, 0.3)),
    "forehead": (((-0.02, 0.07), (0.43, 0.49), (0.02, 0.10)), (1.0, 0.0, 0.3)),
    "salute": (((0.03, 0.12), (0.37, 0.46), (-0.02, 0.10)), (1.0, 0.1, 0.0)),
    "temple": (((0.0, 0.10), (0.36, 0.48), (0.0, 0.10)), (1.0, -0.2, 0.4)),
    "camera": (((-0.02, 0.08), (0.30, 0.44), (0.12, 0.26)), (0.8, -1.0, 0.0)),
    "neck": (((-0.01, 0.06), (0.34, 0.40), (-0.10, -0.02)), (1.0, 0.6, 0.2)),
    "crossed": (((-0.14, 0.01), (0.11, 0.24), (0.08, 0.14)), (1.0, -0.7, 0.0)),
    "chest": (((-0.03, 0.06), (0.18, 0.30), (0.08, 0.20)), (1.0, -0.8, 0.0)),
    "belly": (((-0.06, 0.06), (0.06, 0.16), (0.07, 0.14)), (1.0, -0.3, -0.2)),
    "carried": (((0.02, 0.14), (0.07, 0.24), (0.12, 0.28)), (0.6, -1.0, -0.4)),
    "other_shoulder": (((-0.14, -0.04), (0.24, 0.32), (0.05, 0.14)), (1.0, -0.2, 0.3)),
    "beside": (((0.18, 0.34), (0.12, 0.28), (0.02, 0.20)), (0.5, -1.0, -0.4)),
    "thigh": (((0.03, 0.10), (-0.20, -0.06), (0.08, 0.20)), (1.0, 0.0, -0.6)),
    "ground": (((0.03, 0.20), (-0.30, -0.10), (0.10, 0.30)), (1.0, 0.0, -0.3)),
}
# Arms as ranges of their angles.
_ANGLES: dict[str, dict[str, tuple[float, float]]] = {
    "half_low": {"elevation": (36, 60), "plane": (-25, 80), "elbow": (0, 30)},
    "half_high": {"elevation": (112, 128), "plane": (-15, 60), "elbow": (0, 40)},
    "forward": {"elevation": (50, 115), "plane": (60, 100), "elbow": (0, 45)},
    "backward": {"elevation": (30, 70), "plane": (-90, -35), "elbow": (0, 60)},
    "running": {"elevation": (15, 60), "plane": (-100, 110), "elbow": (65, 125)},
    "any": {"elevation": (20, 175), "plane": (-60, 120), "elbow": (0, 140)},
}
_OTHER_ARMS = (*_HANDS, *_ANGLES)
# Two arms of motions that do not belong together.
_PAIRS = (
    ("wave", "wave"), ("single_arm_open", "single_arm_open"), ("single_arm_open", "wave"),
    ("hold_high", "single_arm_open"), ("hold_high", "wave"), ("half_high", "half_high"),
    ("half_low", "half_low"), ("half_low", "wave"), ("half_low", "single_arm_open"),
)  # fmt: skip
_BOTH_HANDS = (
    "crossed", "crossed", "crossed", "belly", "chest", "carried", "camera", "forward", "mouth",
    "neck", "forehead",
)  # fmt: skip
_AT_THE_HEAD = ("ear", "mouth", "forehead", "salute", "temple")
_ACTIVE = ("akimbo", "hold_high", "single_arm_open", "wave")


# Arms --------------------------------------------------------------------------------------------


def standing_arms(pose: Pose, build: Build, rng: np.random.Generator) -> None:
    """Lowered arms, each on its own: hanging, bent, the hand in a pocket or behind the back."""
    walking = random_pose("walk", build, rng)
    for i in (0, 1):
        kind = rng.random()
        if kind < 0.25:  # bent a little, as when walking
            for name in ARM_ANGLES:
                pose[name][i] = walking[name][i]
        elif kind < 0.6:
            outward, forward = rng.uniform(-0.03, 0.15), rng.uniform(-0.1, 0.12)
            target = np.array([(-1, 1)[i] * outward, rng.uniform(-0.12, 0.01), forward])
            reach(pose, i, build, target * build.height, (1.0, 0.0, rng.uniform(-1.5, 0.2)))


def wave_high(pose: Pose, rng: np.random.Generator) -> int:
    """Raises a wave's upper arm over the shoulder, the forearm about upright; returns the arm."""
    i = int(np.argmax(pose["elbow"] + pose["shoulder_elevation"]))
    pose["shoulder_elevation"][i] = elevation = rng.uniform(100, 132)
    pose["elbow"][i] = 180 - elevation + rng.normal(5, 15)
    pose["shoulder_rotation"][i] = rng.uniform(70, 110)
    return i


def set_arm(pose: Pose, i: int, kind: str, build: Build, rng: np.random.Generator) -> None:
    """Sets an arm to a kind of posture: a motion's, or one of _OTHER_ARMS."""
    if kind in _HANDS:
        position, elbow = _HANDS[kind]
        target = np.array([rng.uniform(*r) for r in position])
        x, y, z = np.array(elbow) + rng.normal(0, 0.25, 3)
        reach(pose, i, build, target * [(-1, 1)[i], 1, 1] * build.height, (x, y, z))
    elif kind in _ANGLES:
        angles = _ANGLES[kind]
        pose["shoulder_elevation"][i] = rng.uniform(*angles["elevation"])
        pose["shoulder_plane"][i] = rng.uniform(*angles["plane"])
        pose["shoulder_rotation"][i] = rng.uniform(-60, 100)
        pose["elbow"][i] = rng.uniform(*angles["elbow"])
    else:
        model = random_pose(kind, build, rng)
        bent = kind in ("akimbo", "wave")
        active = int(np.argmax(model["elbow" if bent else "shoulder_elevation"]))
        for name in ARM_ANGLES:
            pose[name][i] = model[name][active]


def _is_active(pose: Pose, i: int) -> bool:
    """Whether an arm could be the one of a motion."""
    elevation, elbow = pose["shoulder_elevation"][i], pose["elbow"][i]
    up = pose["shoulder_rotation"][i] > 30
    high = elevation > 118 and elbow < 70
    open_ = 55 < elevation < 120 and elbow < 45 and abs(pose["shoulder_plane"][i]) < 60
    wave = elevation < 125 and elbow > 50 and up
    return bool(high or open_ or wave or elevation < 38)


def other_arms(pose: Pose, build: Build, rng: np.random.Generator) -> bool | None:
    """Arms that make no motion, of one who stands or walks.

    Returns:
        Whether either arm by itself already shows that; None if an arm may look like a motion's.
    """
    kind = rng.random()
    if kind < 0.25:
        for i, name in enumerate(rng.permutation(_PAIRS[rng.integers(len(_PAIRS))])):
            set_arm(pose, i, str(name), build, rng)
        return False
    if kind < 0.45:
        name = str(rng.choice(_BOTH_HANDS))
        for i in (0, 1):
            set_arm(pose, i, name, build, rng)
        return True
    if kind < 0.75:
        set_arm(pose, int(rng.integers(2)), str(rng.choice(_AT_THE_HEAD)), build, rng)
        return False
    kinds = list(rng.choice(_OTHER_ARMS, 2))
    first = int(rng.integers(2))
    set_arm(pose, first, kinds[0], build, rng)
    if kinds[0] == "any":
        while _is_active(pose, first):
            set_arm(pose, first, "any", build, rng)
    if rng.random() < 0.4:
        set_arm(pose, 1 - first, kinds[1], build, rng)
    return None


def any_arms(pose: Pose, build: Build, rng: np.random.Generator) -> bool:
    """Any arms, of a posture that makes no motion; returns whether neither is one of a motion."""
    active = False
    for i in (0, 1):
        draw = rng.random()
        if draw < 0.2:
            set_arm(pose, i, str(rng.choice(_ACTIVE)), build, rng)
            active = True
        elif draw < 0.45:
            set_arm(pose, i, "thigh", build, rng)
        elif draw < 0.8:
            kind = str(rng.choice(_OTHER_ARMS))
            set_arm(pose, i, kind, build, rng)
            active |= kind == "any"
    return not active


# Postures ----------------------------------------------------------------------------------------
# Each sets legs and trunk, and returns by how many degrees the whole body is turned over.


def _legs(
    pose: Pose, flexion: np.ndarray, knee: np.ndarray, abduction: np.ndarray, rotation: np.ndarray
) -> None:
    pose["hip_flexion"], pose["knee"] = flexion, knee
    pose["hip_abduction"], pose["hip_rotation"] = abduction, rotation


def _sit(pose: Pose, rng: np.random.Generator) -> float:
    """On a chair or the floor, legs beside each other, crossed or stretched out."""
    flexion = rng.uniform(68, 112) + rng.normal(0, 4, 2)
    knee = rng.uniform(*((0, 60) if rng.random() < 0.2 else (55, 120))) + rng.normal(0, 10, 2)
    spread = rng.uniform(-4, 30) + rng.normal(0, 4, 2)
    rotation = rng.uniform(-5, 30) + rng.normal(0, 6, 2)
    kind = rng.random()
    if kind < 0.15:  # cross-legged
        flexion, knee = rng.uniform(80, 115, 2), rng.uniform(110, 145, 2)
        spread, rotation = rng.uniform(25, 50, 2), rng.uniform(20, 50, 2)
    elif kind < 0.3:  # one leg over the other
        over = rng.integers(2)
        flexion[over] += 15
        spread[over] = rng.uniform(-20, -8)
        rotation[over] = rng.uniform(10, 50)
    elif kind < 0.65:  # on a high stool, a saddle or a motorcycle
        flexion = rng.uniform(35, 80) + rng.normal(0, 6, 2)
        knee = flexion + rng.uniform(-10, 30) + rng.normal(0, 6, 2)
        spread = rng.uniform(-3, 8 if rng.random() < 0.5 else 42) + rng.normal(0, 3, 2)
    _legs(pose, flexion, knee, spread, rotation)
    pose["pelvis_pitch"] = np.array(rng.uniform(-20, 12))
    pose["spine_pitch"] = np.array(rng.uniform(-18, 45))
    return 0.0


def _squat(pose: Pose, rng: np.random.Generator) -> float:
    """From a half squat, as in sports, to sitting on the heels."""
    deep = rng.uniform(0, 1)
    flexion = 38 + 75 * deep + rng.normal(0, 7, 2)
    knee = 42 + 95 * deep + rng.normal(0, 9, 2)
    spread, rotation = rng.uniform(0, 32) + rng.normal(0, 4, 2), rng.uniform(-5, 45)
    _legs(pose, flexion, knee, spread, rotation + rng.normal(0, 5, 2))
    pose["pelvis_pitch"] = np.array(rng.uniform(5, 30))
    pose["spine_pitch"] = np.array(rng.uniform(0, 45))
    return 0.0


def _kneel(pose: Pose, rng: np.random.Generator) -> float:
    """On one knee or both, upright or on the heels."""
    back = rng.uniform(-12, 35)
    flexion = back + rng.normal(0, 5, 2)
    knee = rng.uniform(80, 110) + max(back, 0) + rng.normal(0, 6, 2)
    if rng.random() < 0.5:
        front = rng.integers(2)
        flexion[front], knee[front] = rng.uniform(70, 110), rng.uniform(65, 115)
    _legs(pose, flexion, knee, rng.uniform(0, 20, 2), rng.uniform(-5, 25, 2))
    pose["spine_pitch"] = np.array(rng.uniform(-10, 40))
    return 0.0


def _lunge(pose: Pose, rng: np.random.Generator) -> float:
    """A long step forward or sideways, a kick."""
    front = int(rng.integers(2))
    flexion, knee = rng.uniform(-25, 5, 2), rng.uniform(0, 60, 2)
    spread = rng.uniform(0, 15, 2)
    flexion[front], knee[front] = rng.uniform(42, 105), rng.uniform(15, 115)
    if rng.random() < 0.4:  # sideways
        spread = rng.uniform(28, 50, 2)
        flexion[front], knee[front] = rng.uniform(25, 75), rng.uniform(45, 95)
        flexion[1 - front], knee[1 - front] = rng.uniform(-5, 15), rng.uniform(0, 15)
    _legs(pose, flexion, knee, spread, rng.uniform(0, 45, 2))
    pose["spine_pitch"] = np.array(rng.uniform(-15, 45))
    pose["spine_side"] = np.array(rng.uniform(-25, 25))
    return 0.0


def _run(pose: Pose, rng: np.random.Generator) -> float:
    """Strides longer than those of a walk, the free leg bent."""
    front = int(rng.integers(2))
    flexion, knee = np.zeros(2), rng.uniform(0, 110, 2)
    flexion[front], flexion[1 - front] = rng.uniform(32, 85), rng.uniform(-25, -5)
    _legs(pose, flexion, knee, rng.uniform(-4, 6, 2), rng.uniform(0, 20, 2))
    pose["spine_pitch"] = np.array(rng.uniform(0, 35))
    return 0.0


def _bow(pose: Pose, rng: np.random.Generator) -> float:
    """Bent forward, the legs rather straight."""
    pose["pelvis_pitch"] = np.array(rng.uniform(10, 30))
    pose["spine_pitch"] = np.array(rng.uniform(22, 60))
    bend = rng.uniform(0, 35)
    flexion = float(pose["pelvis_pitch"]) + bend / 2 + rng.normal(0, 6, 2)
    knee = bend + rng.uniform(0, 8, 2)
    _legs(pose, flexion, knee, rng.uniform(0, 20, 2), rng.uniform(0, 20, 2))
    return 0.0


def _lie(pose: Pose, rng: np.random.Generator) -> float:
    """Lying, a plank, a fall; stretched out or curled up."""
    if rng.random() < 0.6:
        curled = rng.uniform(0, 1)
        _legs(pose, 90 * curled * rng.uniform(0.5, 1, 2), 110 * curled * rng.uniform(0.4, 1, 2),
              rng.uniform(0, 25, 2), rng.uniform(-10, 30, 2))  # fmt: skip
    return float(rng.choice([-1, 1]) * rng.uniform(50, 115))


def _straddle(pose: Pose, rng: np.random.Generator) -> float:
    """Legs wide apart, on the floor or in a jump; or leaning over, as on skis."""
    if rng.random() < 0.5:
        _legs(pose, rng.uniform(-5, 25, 2), rng.uniform(0, 40, 2), rng.uniform(27, 50, 2),
              rng.uniform(0, 40, 2))  # fmt: skip
        return 0.0
    bend = rng.uniform(0, 50)
    flexion, knee = bend * 0.6 + rng.normal(0, 8, 2), bend + rng.uniform(0, 12, 2)
    _legs(pose, flexion, knee, rng.uniform(0, 15, 2), rng.uniform(0, 15, 2))
    return float(rng.choice([-1, 1]) * rng.uniform(28, 55))


POSTURES: dict[str, Callable[[Pose, np.random.Generator], float]] = {
    "sit": _sit, "squat": _squat, "kneel": _kneel, "lunge": _lunge, "run": _run, "bow": _bow,
    "lie": _lie, "straddle": _straddle,
}  # fmt: skip
POSTURE_WEIGHTS = (0.34, 0.14, 0.09, 0.1, 0.15, 0.06, 0.05, 0.07)
