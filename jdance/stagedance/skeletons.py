"""Bare skeletons for a motion model of real people: six motions, and `unknown` for the rest.

Unlike the scenes of `stage`, which are exact, these are degraded as pose estimators degrade them:
joints are missing, displaced or on the wrong side, and bodies are cut off at the edge of the image.
A skeleton keeps the label of its motion only where its visible joints show that motion; `unknown`
also holds other postures, such as sitting, squatting, lying and holding a phone.
"""

from collections.abc import Callable

import numpy as np

from jdance import skeleton
from jdance.stagedance.body import (
    LIMITS,
    MOTIONS,
    Body,
    Build,
    Pose,
    assemble,
    random_build,
    random_pose,
    reach,
)
from jdance.stagedance.camera import Camera, stage_camera
from jdance.stagedance.stage import FACE

PRESET = "dance6"
UNKNOWN = "unknown"
CLASSES = (*MOTIONS, UNKNOWN)

# Skeletons of each motion, and of unknown.
COUNTS = {"train": (5000, 30000), "val": (400, 2400), "test": (400, 2400)}

_SHOULDERS = (skeleton.R_SHOULDER, skeleton.L_SHOULDER)
_HIPS = (skeleton.R_HIP, skeleton.L_HIP)
_ARMS = np.array([(2, 3, 4), (5, 6, 7)])  # shoulder, elbow, wrist
_LEGS = np.array([(8, 9, 10), (11, 12, 13)])  # hip, knee, ankle
_ARM_ANGLES = ("shoulder_elevation", "shoulder_plane", "shoulder_rotation", "elbow")

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


def plan() -> list[tuple[str, str, int]]:
    """Split, class and number of every skeleton of the data set."""
    return [
        (split, label, number)
        for split, counts in COUNTS.items()
        for label in CLASSES
        for number in range(counts[label == UNKNOWN])
    ]


def draw(seed: int, split: str, label: str, number: int) -> np.ndarray:
    """Draws a skeleton, float32 [18, 3] in pixels: a pure function of its arguments."""
    purpose = list(COUNTS).index(split), CLASSES.index(label), number
    rng = np.random.default_rng([seed, *purpose])
    while True:
        keypoints, valid = _unknown(rng) if label == UNKNOWN else _motion(label, rng)[:2]
        if valid and skeleton.is_present(keypoints).sum() >= 4:
            return keypoints


def _motion(
    motion: str, rng: np.random.Generator, cut: float = 0.25
) -> tuple[np.ndarray, bool, bool]:
    """Draws a skeleton of a motion; `cut` as for `degrade`.

    Returns:
        The skeleton, whether its visible joints show the motion, and whether all joints would.
    """
    build = random_build(rng)
    pose = random_pose(motion, build, rng)
    if motion == "stand":
        if rng.random() < 0.3:  # the legs of livelier motions
            other = random_pose("akimbo", build, rng)
            pose |= {name: other[name] for name in ("hip_flexion", "hip_abduction", "knee")}
        if rng.random() < 0.6:
            _standing_arms(pose, build, rng)
    if motion == "wave" and rng.random() < 0.3:
        _wave_high(pose, rng)
    exact, unit = _project(build, pose, rng, turned=0.0)
    keypoints = degrade(exact, unit, rng, cut)
    seen = keypoints[:, 2] > 0
    shown, all_show = (shows(motion, exact, s, unit) for s in (seen, np.ones_like(seen)))
    return keypoints, shown, all_show


def _unknown(rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """A skeleton of unknown, and whether its visible joints show no motion."""
    kind = rng.random()
    if kind < 0.15:  # a motion that would show, were joints not missing
        keypoints, shown, all_show = _motion(str(rng.choice(MOTIONS)), rng, cut=0.8)
        return keypoints, all_show and not shown and not _raised(keypoints)
    build = random_build(rng)
    if kind < 0.55:
        motion = str(rng.choice(["stand", "walk", "wave"], p=[0.5, 0.25, 0.25]))
        pose = random_pose(motion, build, rng)
        clear = _other_arms(pose, build, rng)
        turned, cut = 0.0, 0.3
    else:
        pose = random_pose("stand", build, rng)
        name = str(rng.choice(list(POSTURES), p=_POSTURE_WEIGHTS))
        turned, cut = POSTURES[name](pose, rng), 0.45
        clear = _any_arms(pose, build, rng)
        if name == "run" and rng.random() < 0.7:
            _arm(pose, 0, "running", build, rng)
            _arm(pose, 1, "running", build, rng)
            clear = False
    pose = {name: np.clip(pose[name], *limits) for name, limits in LIMITS.items()}
    exact, unit = _project(build, pose, rng, turned)
    keypoints = degrade(exact, unit, rng, cut)
    seen = keypoints[:, 2] > 0
    if kind < 0.55 and clear is not True:
        shown = clear is None and shows("single_arm_open", exact, seen, unit)
        return keypoints, bool(seen[_ARMS].all()) and not shown
    # Without its legs a posture is the motion of its arms.
    return keypoints, clear or seen[_LEGS[:, 1:]].sum() >= 3


# Arms --------------------------------------------------------------------------------------------


def _standing_arms(pose: Pose, build: Build, rng: np.random.Generator) -> None:
    """Lowered arms, each on its own: hanging, bent, the hand in a pocket or behind the back."""
    walking = random_pose("walk", build, rng)
    for i in (0, 1):
        kind = rng.random()
        if kind < 0.25:  # bent a little, as when walking
            for name in _ARM_ANGLES:
                pose[name][i] = walking[name][i]
        elif kind < 0.6:
            outward, forward = rng.uniform(-0.03, 0.15), rng.uniform(-0.1, 0.12)
            target = np.array([(-1, 1)[i] * outward, rng.uniform(-0.12, 0.01), forward])
            reach(pose, i, build, target * build.height, (1.0, 0.0, rng.uniform(-1.5, 0.2)))


def _wave_high(pose: Pose, rng: np.random.Generator) -> None:
    """Raises the upper arm of a wave over the shoulder, the forearm about upright."""
    i = int(np.argmax(pose["elbow"] + pose["shoulder_elevation"]))
    pose["shoulder_elevation"][i] = elevation = rng.uniform(100, 132)
    pose["elbow"][i] = 180 - elevation + rng.normal(5, 15)
    pose["shoulder_rotation"][i] = rng.uniform(70, 110)


def _arm(pose: Pose, i: int, kind: str, build: Build, rng: np.random.Generator) -> None:
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
        for name in _ARM_ANGLES:
            pose[name][i] = model[name][active]


def _is_active(pose: Pose, i: int) -> bool:
    """Whether an arm could be the one of a motion."""
    elevation, elbow = pose["shoulder_elevation"][i], pose["elbow"][i]
    up = pose["shoulder_rotation"][i] > 30
    high = elevation > 118 and elbow < 70
    open_ = 55 < elevation < 120 and elbow < 45 and abs(pose["shoulder_plane"][i]) < 60
    wave = elevation < 125 and elbow > 50 and up
    return bool(high or open_ or wave or elevation < 38)


def _other_arms(pose: Pose, build: Build, rng: np.random.Generator) -> bool | None:
    """Arms that make no motion, of one who stands or walks.

    Returns:
        Whether either arm by itself already shows that; None if an arm may look like a motion's.
    """
    kind = rng.random()
    if kind < 0.25:
        for i, name in enumerate(rng.permutation(_PAIRS[rng.integers(len(_PAIRS))])):
            _arm(pose, i, str(name), build, rng)
        return False
    if kind < 0.45:
        name = str(rng.choice(_BOTH_HANDS))
        for i in (0, 1):
            _arm(pose, i, name, build, rng)
        return True
    if kind < 0.75:
        _arm(pose, int(rng.integers(2)), str(rng.choice(_AT_THE_HEAD)), build, rng)
        return False
    kinds = list(rng.choice(_OTHER_ARMS, 2))
    first = int(rng.integers(2))
    _arm(pose, first, kinds[0], build, rng)
    if kinds[0] == "any":
        while _is_active(pose, first):
            _arm(pose, first, "any", build, rng)
    if rng.random() < 0.4:
        _arm(pose, 1 - first, kinds[1], build, rng)
    return None


def _any_arms(pose: Pose, build: Build, rng: np.random.Generator) -> bool:
    """Any arms, of a posture that makes no motion; returns whether neither is one of a motion."""
    active = False
    for i in (0, 1):
        draw = rng.random()
        if draw < 0.2:
            _arm(pose, i, str(rng.choice(_ACTIVE)), build, rng)
            active = True
        elif draw < 0.45:
            _arm(pose, i, "thigh", build, rng)
        elif draw < 0.8:
            kind = str(rng.choice(_OTHER_ARMS))
            _arm(pose, i, kind, build, rng)
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
_POSTURE_WEIGHTS = (0.34, 0.14, 0.09, 0.1, 0.15, 0.06, 0.05, 0.07)


# The image ---------------------------------------------------------------------------------------


def _project(
    build: Build, pose: Pose, rng: np.random.Generator, turned: float
) -> tuple[np.ndarray, float]:
    """A body seen by a random camera: exact key points [18, 3], and the body's height in pixels.

    A `turned` body lies over to a random side. Parts of the face on the far side are missing.
    """
    # As dancers face an audience, or, less often, anywhere.
    yaw = 70 * rng.uniform(-1, 1) + 180 * (rng.random() < 0.15)
    if rng.random() < 0.4:
        yaw = rng.uniform(-180, 180)
    body = assemble(build, pose, (0.0, 0.0), float(yaw))
    distance = float(np.exp(rng.uniform(np.log(2.2), np.log(15))))
    height = rng.uniform(0.3, 2.6) if rng.random() < 0.8 else rng.uniform(0.3, 0.6) * distance
    camera = stage_camera(
        float(height), distance, 0.0, rng.uniform(0.6, 1.2), 100 * distance, (640, 480)
    )
    joints, head, skull = body.joints.copy(), body.head, body.skull
    _shift_hips(joints, build, rng)
    if turned:
        roll = _rotation(rng.uniform(0, 2 * np.pi), np.radians(turned))
        middle = joints[list(_HIPS)].mean(0)
        joints, head = (joints - middle) @ roll.T + middle, roll @ head
        skull = roll @ (skull - middle) + middle
    xy, _ = camera.project(joints)
    seen = _face(camera, head, skull)
    _self_occlusion(seen, body, camera, rng)
    lean = np.radians(rng.normal(0, 4))
    xy = (xy - 240) @ np.array([[np.cos(lean), np.sin(lean)], [-np.sin(lean), np.cos(lean)]]) + 240
    keypoints = np.concatenate([xy, np.ones((len(xy), 1))], 1)
    return keypoints * seen[:, None], 100 * build.height


def _shift_hips(joints: np.ndarray, build: Build, rng: np.random.Generator) -> None:
    """Moves hips and shoulders to where people and estimators mark them.

    In COCO and in OpenPose's skeletons the trunk is longer, the legs are shorter, the hips wider
    and the shoulders narrower than between the centers of the joints.
    """
    hips, shoulders = joints[list(_HIPS)], joints[list(_SHOULDERS)]
    down = hips.mean(0) - shoulders.mean(0)
    down *= rng.uniform(-0.005, 0.05) * build.height / np.linalg.norm(down)
    width = rng.uniform(0.9, 1.4)
    joints[list(_HIPS)] = hips.mean(0) + width * (hips - hips.mean(0)) + down
    width = rng.uniform(0.78, 1.05)
    joints[list(_SHOULDERS)] = shoulders.mean(0) + width * (shoulders - shoulders.mean(0))


def _rotation(direction: float, angle: float) -> np.ndarray:
    """The rotation [3, 3] about a horizontal axis."""
    axis = np.array([np.cos(direction), 0.0, np.sin(direction)])
    cross = np.array([[0, -axis[2], 0], [axis[2], 0, -axis[0]], [0, axis[0], 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _face(camera: Camera, head: np.ndarray, skull: np.ndarray) -> np.ndarray:
    seen = np.ones(skeleton.NUM_JOINTS, bool)
    towards = camera.position - skull
    towards /= np.linalg.norm(towards)
    for joint, outward, min_cosine in FACE:
        seen[joint] = head @ outward @ towards > min_cosine
    return seen


def _self_occlusion(seen: np.ndarray, body: Body, camera: Camera, rng: np.random.Generator) -> None:
    """Hides, now and then, the limbs on the far side of a body in profile."""
    right, left = (np.linalg.norm(camera.position - body.joints[j]) for j in _SHOULDERS)
    if abs(right - left) < 0.18:
        return
    far = int(left > right)
    for limb in (_ARMS[far], _LEGS[far]):
        if rng.random() < 0.35:
            seen[limb[int(rng.integers(3)) :]] = False


def degrade(
    exact: np.ndarray, unit: float, rng: np.random.Generator, cut: float = 0.25
) -> np.ndarray:
    """Key points [18, 3] as an estimator might find them: float32.

    Args:
        exact: where the joints are.
        unit: height of the upright body in pixels.
        rng: what to draw from.
        cut: probability that the body is cut off at the image's edge.
    """
    found = exact.copy()
    xy, score = found[:, :2], found[:, 2]
    if rng.random() < 0.06:  # mistaken sides, of all or of the legs alone
        swapped = skeleton.COCO18.flip.copy()
        if rng.random() < 0.6:
            swapped[[j for j in range(18) if j not in _LEGS]] = [
                j for j in range(18) if j not in _LEGS
            ]
        found[:] = found[swapped]
    for limb in (_ARMS, _LEGS):
        for depth in (1, 2):
            if rng.random() < 0.02:  # both of a pair on one side
                one = int(rng.integers(2))
                found[limb[one, depth]] = found[limb[1 - one, depth]]
    # Low scores are far off.
    sure = rng.uniform(0.4, 1.0, 18) * rng.uniform(0.7, 1.0)
    blur = unit * np.exp(rng.uniform(np.log(0.002), np.log(0.014)))
    xy += rng.normal(0, 1, (18, 2)) * (blur * (1.6 - sure))[:, None]
    wild = rng.random(18) < 0.004
    xy[wild] += rng.normal(0, 0.15 * unit, (int(wild.sum()), 2))
    score *= sure
    missing = rng.random(18) < rng.choice([0.0, 0.03, 0.12, 0.3], p=[0.4, 0.3, 0.2, 0.1])
    if rng.random() < 0.7:  # limbs grow from the trunk outwards
        for limb in (*_ARMS, *_LEGS):
            missing[limb] |= np.logical_or.accumulate(missing[limb])
    if rng.random() < 0.1:  # an arm or a leg behind something
        missing[(_ARMS, _LEGS)[rng.integers(2)][rng.integers(2)][rng.integers(3) :]] = True
    if rng.random() < cut:
        missing |= _beyond_edge(exact, rng)
    score[missing] = 0
    return skeleton.clean(found)


def _beyond_edge(exact: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which joints lie beyond the edge of an image: bool [18]."""
    x, y = exact[:, 0], exact[:, 1]
    edge = rng.choice(4, p=[0.6, 0.08, 0.16, 0.16])
    low, high = (y.min(), y.max()) if edge < 2 else (x.min(), x.max())
    depth = rng.uniform(0.02, (0.85, 0.25, 0.6, 0.6)[edge]) * (high - low)
    return np.array((y > high - depth, y < low + depth, x < low + depth, x > high - depth)[edge])


def shows(motion: str, exact: np.ndarray, seen: np.ndarray, unit: float) -> bool:
    """Whether the visible joints of a body in a motion show it.

    Args:
        motion: that the body is in.
        exact: its key points [18, 3].
        seen: bool [18], which joints are visible.
        unit: height of the upright body in pixels.
    """
    xy = exact[:, :2] / unit
    if not (seen[skeleton.NECK] or seen[list(_SHOULDERS)].all()):
        return False
    if motion in ("stand", "walk"):
        knees, ankles = _LEGS[:, 1], _LEGS[:, 2]
        stride = abs(xy[ankles[0]] - xy[ankles[1]])
        return bool(
            seen[[*knees, *ankles]].sum() >= 3
            and seen[list(_HIPS)].any()
            and (motion == "walk" or seen[_ARMS[:, 1:]].sum() >= 3)
            and (motion == "stand" or stride[0] > 0.15 or stride[1] > 0.1)
        )
    for i, (shoulder, elbow, wrist) in enumerate(_ARMS):
        if not seen[[shoulder, elbow, wrist]].all():
            continue
        arm = xy[wrist] - xy[shoulder]
        other = seen[_ARMS[1 - i, 1:]].all()
        along = arm / max(np.linalg.norm(arm), 1e-6)
        from_head = abs(xy[wrist, 0] - xy[skeleton.NECK, 0])
        bend = xy[elbow] - xy[shoulder]
        aside = abs(along[0] * bend[1] - along[1] * bend[0])  # the elbow's distance from the line
        if (
            (motion == "hold_high" and arm[1] < -0.2)
            or (motion == "single_arm_open" and other and np.linalg.norm(arm) > 0.2
                and abs(along[1]) < 0.64)
            or (motion == "wave" and other and arm[1] < 0 and from_head > 0.1
                and xy[elbow, 1] - xy[wrist, 1] > 0.07)
            or (motion == "akimbo" and aside > 0.06 and seen[_LEGS[i, 0]]
                and seen[_LEGS[:, 1]].any())
        ):  # fmt: skip
            return True
    return False


def _raised(keypoints: np.ndarray) -> bool:
    """Whether a raised arm is visible, which may show a motion after all."""
    for shoulder, elbow, wrist in _ARMS:
        if (keypoints[[shoulder, elbow, wrist], 2] > 0).all():
            y = keypoints[[shoulder, elbow, wrist], 1]
            if y[2] < y[0] or y[2] < y[1]:
                return True
    return False
