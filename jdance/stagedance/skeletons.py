"""Bare skeletons for a motion model of real people: six motions, and `unknown` for the rest.

Unlike the scenes of `stage`, which are exact, these are degraded as pose estimators degrade them:
joints are missing, displaced or on the wrong side, and bodies are cut off at the edge of the image.
A skeleton keeps the label of its motion only where its visible joints show that motion; `unknown`
also holds other postures, such as sitting, squatting, lying and holding a phone.
"""

import numpy as np

from jdance import skeleton
from jdance.stagedance import postures
from jdance.stagedance.body import (
    LIMITS,
    MOTIONS,
    Body,
    Build,
    Pose,
    assemble,
    random_build,
    random_pose,
)
from jdance.stagedance.camera import stage_camera
from jdance.stagedance.stage import face_visibility

PRESET = "dance6"
UNKNOWN = "unknown"
CLASSES = (*MOTIONS, UNKNOWN)

# Skeletons of each motion, and of unknown.
COUNTS = {"train": (5000, 30000), "val": (400, 2400), "test": (400, 2400)}

_SHOULDERS = (skeleton.R_SHOULDER, skeleton.L_SHOULDER)
_HIPS = (skeleton.R_HIP, skeleton.L_HIP)
ARMS = np.array([(2, 3, 4), (5, 6, 7)])  # shoulder, elbow, wrist
LEGS = np.array([(8, 9, 10), (11, 12, 13)])  # hip, knee, ankle


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
            postures.standing_arms(pose, build, rng)
    if motion == "wave" and rng.random() < 0.3:
        postures.wave_high(pose, rng)
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
        clear = postures.other_arms(pose, build, rng)
        turned, cut = 0.0, 0.3
    else:
        pose = random_pose("stand", build, rng)
        name = str(rng.choice(list(postures.POSTURES), p=postures.POSTURE_WEIGHTS))
        turned, cut = postures.POSTURES[name](pose, rng), 0.45
        clear = postures.any_arms(pose, build, rng)
        if name == "run" and rng.random() < 0.7:
            postures.set_arm(pose, 0, "running", build, rng)
            postures.set_arm(pose, 1, "running", build, rng)
            clear = False
    pose = {name: np.clip(pose[name], *limits) for name, limits in LIMITS.items()}
    exact, unit = _project(build, pose, rng, turned)
    keypoints = degrade(exact, unit, rng, cut)
    seen = keypoints[:, 2] > 0
    if kind < 0.55 and clear is not True:
        shown = clear is None and shows("single_arm_open", exact, seen, unit)
        return keypoints, bool(seen[ARMS].all()) and not shown
    # Without its legs a posture is the motion of its arms.
    return keypoints, clear or seen[LEGS[:, 1:]].sum() >= 3


# The image ---------------------------------------------------------------------------------------


class View:
    """How a random camera sees one body: upright, or `turned` over to a random side by degrees.

    Hips and shoulders are moved to where people and estimators mark them: in COCO and in OpenPose's
    skeletons the trunk is longer, the legs are shorter, the hips wider and the shoulders narrower
    than between the centers of the joints.

    Attributes:
        unit: height of the upright body in pixels.
    """

    def __init__(self, build: Build, rng: np.random.Generator, turned: float):
        # As dancers face an audience, or, less often, anywhere.
        yaw = 70 * rng.uniform(-1, 1) + 180 * (rng.random() < 0.15)
        if rng.random() < 0.4:
            yaw = rng.uniform(-180, 180)
        self._build, self._yaw = build, float(yaw)
        distance = float(np.exp(rng.uniform(np.log(2.2), np.log(15))))
        height = rng.uniform(0.3, 2.6) if rng.random() < 0.8 else rng.uniform(0.3, 0.6) * distance
        self._camera = stage_camera(
            float(height), distance, 0.0, rng.uniform(0.6, 1.2), 100 * distance, (640, 480)
        )
        self._lower = rng.uniform(-0.005, 0.05) * build.height
        self._widths = rng.uniform(0.9, 1.4), rng.uniform(0.78, 1.05)
        direction = rng.uniform(0, 2 * np.pi) if turned else 0.0
        self._roll = _rotation(direction, np.radians(turned)) if turned else None
        self.unit = 100 * build.height

    def project(
        self, pose: Pose, at: tuple[float, float] = (0.0, 0.0), turn: float = 0.0
    ) -> tuple[np.ndarray, Body]:
        """The exact key points [18, 3] of a pose; parts of the face on the far side are missing.

        Args:
            pose: angles.
            at: meters to the body's left and ahead, from the stage's center.
            turn: degrees to the body's left.
        """
        left, ahead = at
        sine, cosine = np.sin(np.radians(self._yaw)), np.cos(np.radians(self._yaw))
        place = (left * cosine + ahead * sine, ahead * cosine - left * sine)
        body = assemble(self._build, pose, place, self._yaw + turn)
        joints, head, skull = body.joints.copy(), body.head, body.skull
        self._shift(joints)
        if self._roll is not None:
            middle = joints[list(_HIPS)].mean(0)
            joints = (joints - middle) @ self._roll.T + middle
            head, skull = self._roll @ head, self._roll @ (skull - middle) + middle
        xy, _ = self._camera.project(joints)
        seen = face_visibility(self._camera, head, skull)
        return np.concatenate([xy, seen[:, None]], 1), body

    def _shift(self, joints: np.ndarray) -> None:
        hips, shoulders = joints[list(_HIPS)], joints[list(_SHOULDERS)]
        down = hips.mean(0) - shoulders.mean(0)
        down *= self._lower / np.linalg.norm(down)
        wide_hips, wide_shoulders = self._widths
        joints[list(_HIPS)] = hips.mean(0) + wide_hips * (hips - hips.mean(0)) + down
        joints[list(_SHOULDERS)] = shoulders.mean(0) + wide_shoulders * (
            shoulders - shoulders.mean(0)
        )

    def farther_arm(self, body: Body) -> int | None:
        """The side (0: right, 1: left) away from the camera of a body in profile, else None."""
        right, left = (np.linalg.norm(self._camera.position - body.joints[j]) for j in _SHOULDERS)
        return None if abs(right - left) < 0.18 else int(left > right)


def tilt(xy: np.ndarray, degrees: float) -> np.ndarray:
    """Turns pixels [..., 2] about a point of the image, as a tilted camera does."""
    lean = np.radians(degrees)
    return (xy - 240) @ np.array(
        [[np.cos(lean), np.sin(lean)], [-np.sin(lean), np.cos(lean)]]
    ) + 240


def _project(
    build: Build, pose: Pose, rng: np.random.Generator, turned: float
) -> tuple[np.ndarray, float]:
    """A body seen by a random camera: exact key points [18, 3], and the body's height in pixels."""
    view = View(build, rng, turned)
    exact, body = view.project(pose)
    far = view.farther_arm(body)
    if far is not None:  # hidden, now and then
        for limb in (ARMS[far], LEGS[far]):
            if rng.random() < 0.35:
                exact[limb[int(rng.integers(3)) :], 2] = 0
    exact[:, :2] = tilt(exact[:, :2], rng.normal(0, 4))
    exact[exact[:, 2] == 0] = 0
    return exact, view.unit


def _rotation(direction: float, angle: float) -> np.ndarray:
    """The rotation [3, 3] about a horizontal axis."""
    axis = np.array([np.cos(direction), 0.0, np.sin(direction)])
    cross = np.array([[0, -axis[2], 0], [axis[2], 0, -axis[0]], [0, axis[0], 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


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
            swapped[[j for j in range(18) if j not in LEGS]] = [
                j for j in range(18) if j not in LEGS
            ]
        found[:] = found[swapped]
    for limb in (ARMS, LEGS):
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
        for limb in (*ARMS, *LEGS):
            missing[limb] |= np.logical_or.accumulate(missing[limb])
    if rng.random() < 0.1:  # an arm or a leg behind something
        missing[(ARMS, LEGS)[rng.integers(2)][rng.integers(2)][rng.integers(3) :]] = True
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
        knees, ankles = LEGS[:, 1], LEGS[:, 2]
        stride = abs(xy[ankles[0]] - xy[ankles[1]])
        return bool(
            seen[[*knees, *ankles]].sum() >= 3
            and seen[list(_HIPS)].any()
            and (motion == "walk" or seen[ARMS[:, 1:]].sum() >= 3)
            and (motion == "stand" or stride[0] > 0.15 or stride[1] > 0.1)
        )
    for i, (shoulder, elbow, wrist) in enumerate(ARMS):
        if not seen[[shoulder, elbow, wrist]].all():
            continue
        arm = xy[wrist] - xy[shoulder]
        other = seen[ARMS[1 - i, 1:]].all()
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
            or (motion == "akimbo" and aside > 0.06 and seen[LEGS[i, 0]]
                and seen[LEGS[:, 1]].any())
        ):  # fmt: skip
            return True
    return False


def _raised(keypoints: np.ndarray) -> bool:
    """Whether a raised arm is visible, which may show a motion after all."""
    for shoulder, elbow, wrist in ARMS:
        if (keypoints[[shoulder, elbow, wrist], 2] > 0).all():
            y = keypoints[[shoulder, elbow, wrist], 1]
            if y[2] < y[0] or y[2] < y[1]:
                return True
    return False
