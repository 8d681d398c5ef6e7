"""Dancers of StageDance: body proportions, poses within human joint limits, and their joints.

Lengths are in meters, angles in degrees. Body axes: x to the body's left, y up, z forward. Stage
axes: x to the right of the image, y up, z towards the camera; the floor is y = 0. In pairs, index 0
is the right side, 1 the left.
"""

from dataclasses import dataclass

import numpy as np

from jdance import skeleton

MOTIONS = ("akimbo", "hold_high", "single_arm_open", "wave", "walk", "stand")

# Range of each angle of a pose. All zeros stand at attention.
LIMITS = {
    "pelvis_pitch": (-20, 30),  # forward
    "pelvis_roll": (-15, 15),
    "spine_pitch": (-25, 60),  # forward
    "spine_side": (-30, 30),
    "spine_twist": (-40, 40),
    "neck_pitch": (-45, 50),  # forward
    "neck_yaw": (-75, 75),
    "neck_roll": (-35, 35),
    "shoulder_elevation": (0, 180),  # hanging, horizontal, straight up
    "shoulder_plane": (-90, 135),  # raised backward -90, sideways 0, forward 90
    "shoulder_rotation": (-110, 110),  # direction in which the elbow bends: down -90, up 90
    "elbow": (0, 150),
    "wrist": (-50, 50),  # sideways
    "hip_flexion": (-25, 120),
    "hip_abduction": (-20, 50),
    "hip_rotation": (-30, 50),  # outward
    "knee": (0, 150),
}
_PAIRS = tuple(LIMITS)[8:]

# Angles by name, in degrees: float64 [] for the trunk and [2] (right, left) for the limbs.
Pose = dict[str, np.ndarray]


@dataclass(frozen=True)
class Build:
    """Proportions of one body, in meters; widths are half widths."""

    height: float
    trunk: float  # mid-hip to mid-shoulder
    shoulder: float
    hip: float
    upper_arm: float
    forearm: float
    hand: float
    thigh: float
    shank: float
    ankle: float  # height above the floor
    neck: float  # shoulders to the center of the head
    head: float  # half the width of the head
    girth: float  # thickness factor of all limbs, about 1
    curve: float  # 0: straight trunk; 1: narrow waist and wide hips


@dataclass(frozen=True)
class Body:
    """A posed body on the stage, in meters.

    Attributes:
        joints: float64 [18, 3].
        pelvis, chest, head: rotations from body to stage axes, float64 [3, 3].
        waist, skull: float64 [3], the bend of the spine and the center of the head.
        hands, heels, toes: end points, float64 [2, 3].
    """

    joints: np.ndarray
    pelvis: np.ndarray
    chest: np.ndarray
    head: np.ndarray
    waist: np.ndarray
    skull: np.ndarray
    hands: np.ndarray
    heels: np.ndarray
    toes: np.ndarray


def random_build(rng: np.random.Generator) -> Build:
    """Draws an adult of 1.50 to 1.95 m; limb proportions vary by about 4 %."""
    height = float(np.clip(rng.normal(1.70, 0.10), 1.50, 1.95))
    curve = float(rng.uniform(0, 1))

    def part(fraction: float) -> float:
        return height * fraction * float(np.clip(rng.normal(1, 0.04), 0.9, 1.1))

    return Build(
        height=height,
        trunk=part(0.288),
        shoulder=part(0.112 - 0.012 * curve),
        hip=part(0.055 + 0.005 * curve),
        upper_arm=part(0.172),
        forearm=part(0.148),
        hand=part(0.095),
        thigh=part(0.243),
        shank=part(0.243),
        ankle=0.045 * height,
        neck=part(0.128),
        head=0.076 * float(rng.uniform(0.94, 1.06)),
        girth=float(np.clip(rng.normal(1, 0.10), 0.82, 1.3)),
        curve=curve,
    )


def _turn(axis: int, degrees: float | np.ndarray) -> np.ndarray:
    """Right-handed rotation matrix [3, 3] about one axis."""
    angle = np.radians(degrees)
    result = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    result[i, i] = result[j, j] = np.cos(angle)
    result[j, i] = np.sin(angle)
    result[i, j] = -result[j, i]
    return result


def _arm_axes(elevation: float, plane: float, side: int) -> tuple[np.ndarray, ...]:
    """Unit vectors along the upper arm and towards higher elevation and plane, in chest axes."""
    e, p = np.radians([elevation, plane])
    along = np.array([side * np.sin(e) * np.cos(p), -np.cos(e), np.sin(e) * np.sin(p)])
    rise = np.array([side * np.cos(e) * np.cos(p), np.sin(e), np.cos(e) * np.sin(p)])
    swing = np.array([-side * np.sin(p), 0.0, np.cos(p)])
    return along, rise, swing


def _bend_spine(build: Build, pose: Pose) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Waist [3], chest rotation [3, 3] and shoulders [2, 3] in pelvis axes."""
    chest = (
        _turn(1, pose["spine_twist"]) @ _turn(0, pose["spine_pitch"]) @ _turn(2, pose["spine_side"])
    )
    waist = np.array([0.0, 0.36 * build.trunk, 0.0])
    top = waist + chest[:, 1] * (0.64 * build.trunk)
    # The shoulder blade rises when an arm is lifted above the horizontal.
    lift = np.clip((pose["shoulder_elevation"] - 80) / 100, 0, 1)
    shoulders = [
        top + chest @ [side * build.shoulder * (1 - 0.18 * up), 0.035 * build.height * up, 0.0]
        for side, up in zip((-1, 1), lift, strict=True)
    ]
    return waist, chest, np.array(shoulders)


def assemble(build: Build, pose: Pose, at: tuple[float, float], yaw: float) -> Body:
    """Computes a body's joints by forward kinematics, with the lower foot on the floor.

    Args:
        build, pose: lengths and angles.
        at: x and z of the mid-hip on the stage, in meters.
        yaw: in degrees; 0 faces along z, positive turns to the right of the image.
    """
    pelvis = _turn(1, yaw) @ _turn(0, pose["pelvis_pitch"]) @ _turn(2, pose["pelvis_roll"])
    waist, spine, shoulders = _bend_spine(build, pose)
    chest = pelvis @ spine
    joints = np.zeros((skeleton.NUM_JOINTS, 3))
    hands, heels, toes = np.zeros((3, 2, 3))
    shoulders = shoulders @ pelvis.T
    joints[skeleton.NECK] = shoulders.mean(0)
    for i, side in enumerate((-1, 1)):
        along, rise, swing = _arm_axes(
            pose["shoulder_elevation"][i], pose["shoulder_plane"][i], side
        )
        bend, rotation = np.radians([pose["elbow"][i], pose["shoulder_rotation"][i]])
        hinge = np.cos(rotation) * swing + np.sin(rotation) * rise
        forearm = np.cos(bend) * along + np.sin(bend) * hinge
        across = np.cross(forearm, [0.0, 0.0, 1.0])
        across /= max(np.linalg.norm(across), 1e-6)
        flick = np.radians(pose["wrist"][i])
        hand = np.cos(flick) * forearm + np.sin(flick) * across
        elbow = shoulders[i] + chest @ along * build.upper_arm
        wrist = elbow + chest @ forearm * build.forearm
        hands[i] = wrist + chest @ hand * build.hand
        shoulder_joint = skeleton.L_SHOULDER if i else skeleton.R_SHOULDER
        joints[shoulder_joint : shoulder_joint + 3] = shoulders[i], elbow, wrist

        thigh = (
            pelvis
            @ _turn(2, side * pose["hip_abduction"][i])
            @ _turn(0, -pose["hip_flexion"][i])
            @ _turn(1, side * pose["hip_rotation"][i])
        )
        shank = thigh @ _turn(0, pose["knee"][i])
        hip = pelvis[:, 0] * side * build.hip
        knee = hip - thigh[:, 1] * build.thigh
        ankle = knee - shank[:, 1] * build.shank
        hip_joint = skeleton.L_HIP if i else skeleton.R_HIP
        joints[hip_joint : hip_joint + 3] = hip, knee, ankle
        toes[i] = shank[:, 2]

    ankles = joints[[skeleton.R_ANKLE, skeleton.L_ANKLE]]
    floor = ankles[:, 1].min() - build.ankle
    for i in range(2):
        # A foot in the air points down; a foot on the floor lies flat.
        ahead = toes[i] * [1, 0, 1]
        ahead /= max(np.linalg.norm(ahead), 1e-6)
        drop = min(ankles[i, 1] - floor - build.ankle, 0.10)
        heels[i] = ankles[i] - ahead * 0.025 * build.height
        heels[i, 1] -= build.ankle * 0.55
        toes[i] = ankles[i] + ahead * 0.10 * build.height
        toes[i, 1] -= build.ankle * 0.65 + drop

    head = chest @ _turn(1, pose["neck_yaw"]) @ _turn(0, pose["neck_pitch"])
    head = head @ _turn(2, pose["neck_roll"])
    throat = joints[skeleton.NECK] + chest[:, 1] * 0.35 * build.neck
    skull = throat + head @ [0.0, 0.65 * build.neck, 0.012]
    size = build.head
    face = np.zeros((5, 3))  # nose, right eye, left eye, right ear, left ear
    face[:, 0] = size * np.array([0, -0.42, 0.42, -0.98, 0.98])
    face[:, 1] = size * np.array([-0.25, 0.10, 0.10, -0.10, -0.10])
    face[:, 2] = size * np.array([1.35, 1.10, 1.10, -0.05, -0.05])
    order = [skeleton.NOSE, skeleton.R_EYE, skeleton.L_EYE, skeleton.R_EAR, skeleton.L_EAR]
    joints[order] = skull + face @ head.T

    move = np.array([at[0], -floor, at[1]])
    return Body(
        joints=joints + move,
        pelvis=pelvis,
        chest=chest,
        head=head,
        waist=pelvis @ waist + move,
        skull=skull + move,
        hands=hands + move,
        heels=heels + move,
        toes=toes + move,
    )


def random_pose(
    motion: str, build: Build, rng: np.random.Generator, phase: float | None = None
) -> Pose:
    """Draws a pose of a motion, with every angle within LIMITS.

    `phase` in radians replaces the drawn phase of the periodic motions (walk, wave); all other
    random numbers stay the same.
    """
    pose: Pose = {name: np.zeros(2 if name in _PAIRS else ()) for name in LIMITS}
    lean = 5 if motion in ("walk", "stand") else 9
    for name, mean, deviation in (
        ("pelvis_pitch", 2, 3),
        ("pelvis_roll", 0, 3.5),
        ("spine_pitch", 2, lean),
        ("spine_side", 0, lean),
        ("spine_twist", 0, 8),
        ("neck_pitch", 4, 8),
        ("neck_yaw", 0, 20),
        ("neck_roll", 0, 6),
    ):
        pose[name] = np.array(rng.normal(mean, deviation))
    pose["wrist"] = rng.normal(0, 10, 2)
    pose["hip_rotation"] = rng.normal(12, 8, 2)
    side = int(rng.integers(2))  # for one-sided motions
    if motion == "walk":
        _walk(pose, rng, phase)
    else:
        _step(pose, rng, calm=motion == "stand")
        for i in range(2):
            _hang(pose, i, rng)
        _pose_arms(pose, motion, side, build, rng, phase)
    return {name: np.clip(pose[name], *limits) for name, limits in LIMITS.items()}


def _step(pose: Pose, rng: np.random.Generator, calm: bool) -> None:
    """Draws legs independently of the motion: weight on one leg, a wide stance, a small step."""
    kind = rng.choice(5, p=[0.5, 0.4, 0.1, 0, 0] if calm else [0.2, 0.15, 0.2, 0.27, 0.18])
    free = int(rng.integers(2))
    bend = abs(rng.normal(0, 3.5 if calm else 10)) + 2
    knees = np.full(2, bend) + rng.uniform(0, 4, 2)
    abduction = rng.uniform(2, 8, 2)
    stride = rng.normal(0, 1.5 if calm else 2.5)
    if kind == 1:  # weight on one leg
        knees[free] += rng.uniform(4, 11 if calm else 34)
        pose["pelvis_roll"] += (1 if free == 0 else -1) * rng.uniform(0, 5)
    elif kind == 2:  # a wide stance
        abduction += rng.uniform(5, 9 if calm else 22)
    elif kind == 3:  # a step
        stride += rng.uniform(8, 28)
    pose["hip_flexion"] = knees * 0.5 + np.where(np.arange(2) == free, stride, -stride)
    if kind == 4:  # a foot off the floor
        pose["hip_flexion"][free] += rng.uniform(15, 45)
        knees[free] += rng.uniform(25, 70)
    pose["hip_abduction"], pose["knee"] = abduction, knees


def _walk(pose: Pose, rng: np.random.Generator, given: float | None) -> None:
    """Draws a gait, the arms swinging against the legs; `given` replaces the drawn phase."""
    drawn = rng.uniform(0, 2 * np.pi)
    phase = (drawn if given is None else given) + np.array([0, np.pi])
    length = rng.uniform(0.9, 1.45)
    pose["hip_flexion"] = 5 + 22 * length * np.sin(phase)
    swing_leg = np.maximum(np.cos(phase + 0.5), 0) ** 1.5
    pose["knee"] = rng.uniform(4, 12) + (44 + 16 * length) * swing_leg
    pose["hip_abduction"] = rng.uniform(-5, 0.5, 2)  # feet nearly on one line
    pose["spine_twist"] += 6 * length * np.sin(phase[0])
    pose["spine_pitch"] += 3
    arms = rng.uniform(0.8, 1.7)
    for i in range(2):
        forward = rng.normal(2, 4) - 22 * arms * np.sin(phase[i])
        _swing_arm(pose, i, forward, rng.uniform(4, 12))
        pose["elbow"][i] = rng.uniform(20, 44) + max(forward, 0) * rng.uniform(0.6, 1.8)


def _swing_arm(pose: Pose, i: int, forward: float, outward: float) -> None:
    """Lowers an arm, swung forward (or backward, if negative) and outward by degrees."""
    a, b = np.radians([forward, outward])
    x, y, z = np.sin(b), np.cos(a) * np.cos(b), np.sin(a) * np.cos(b)
    pose["shoulder_elevation"][i] = np.degrees(np.arccos(y))
    pose["shoulder_plane"][i] = np.degrees(np.arctan2(z, x))
    pose["shoulder_rotation"][i] = pose["shoulder_plane"][i]  # the elbow bends forward


def _hang(pose: Pose, i: int, rng: np.random.Generator) -> None:
    """Draws a relaxed arm; the farther the elbow is outward, the more the forearm hangs inward."""
    outward = rng.uniform(4, 32)
    _swing_arm(pose, i, rng.normal(0, 7), outward)
    bend = rng.uniform(4, 24) if rng.random() < 0.7 else rng.uniform(24, 60)
    pose["elbow"][i] = bend + max(outward - 10, 0) * rng.uniform(0.2, 1.3)
    pose["shoulder_rotation"][i] += rng.normal(-10, 20) - max(outward - 10, 0) * rng.uniform(0, 3.5)


def reach(
    pose: Pose, i: int, build: Build, target: np.ndarray, pole: tuple[float, float, float]
) -> None:
    """Moves a wrist to `target` [3] in pelvis axes by inverse kinematics.

    The elbow points to `pole` (out, up, forward).
    """
    side = (-1, 1)[i]
    _, chest, shoulders = _bend_spine(build, pose)
    to = target - shoulders[i]
    # Within the arm's length, and not nearer than the elbow can bend.
    upper, fore = build.upper_arm, build.forearm
    nearest = np.sqrt(upper**2 + fore**2 - 2 * upper * fore * np.cos(np.radians(40)))
    distance = float(np.clip(np.linalg.norm(to), nearest, 0.995 * (upper + fore)))
    to /= np.linalg.norm(to)
    out = np.array(pole) * [side, 1, 1]
    out -= to * (out @ to)
    out /= np.linalg.norm(out)
    cosine = (upper**2 + distance**2 - fore**2) / (2 * upper * distance)
    elbow = upper * (cosine * to + np.sqrt(1 - cosine**2) * out)
    along = chest.T @ (elbow / upper)
    forearm = chest.T @ ((distance * to - elbow) / fore)
    elevation = np.degrees(np.arccos(np.clip(-along[1], -1, 1)))
    plane = np.degrees(np.arctan2(along[2], side * along[0]))
    _, rise, swing = _arm_axes(elevation, plane, side)
    pose["shoulder_elevation"][i], pose["shoulder_plane"][i] = elevation, plane
    pose["shoulder_rotation"][i] = np.degrees(np.arctan2(forearm @ rise, forearm @ swing))
    pose["elbow"][i] = np.degrees(np.arccos(np.clip(along @ forearm, -1, 1)))


def _set_arm(pose: Pose, i: int, **angles: float) -> None:
    for name, value in angles.items():
        pose[name if name in LIMITS else f"shoulder_{name}"][i] = value


def _pose_arms(
    pose: Pose,
    motion: str,
    side: int,
    build: Build,
    rng: np.random.Generator,
    given: float | None,
) -> None:
    """Draws the arms of every motion except walk; arms that it leaves alone hang."""
    both = (0, 1)
    height = build.height
    if motion == "akimbo":
        # The hands lie on the crests of the hips.
        back = rng.uniform(-0.7, 0.35)
        for i in both if rng.random() < 0.82 else (side,):
            target = [
                (-1, 1)[i] * (0.098 + rng.uniform(-0.012, 0.018)) * height,
                rng.uniform(0.03, 0.075) * height,
                rng.uniform(-0.035, 0.04) * height,
            ]
            reach(pose, i, build, np.array(target), (1.0, 0.1, back + rng.normal(0, 0.1)))
            pose["wrist"][i] = (-1, 1)[i] * rng.uniform(0, 30)
    elif motion == "hold_high":
        round_arms = rng.random() < 0.25
        elevation, plane = rng.uniform(134, 174), rng.uniform(-5, 70)
        for i in both if rng.random() < 0.50 else (side,):
            if round_arms:
                _set_arm(
                    pose, i, elevation=rng.uniform(132, 155), plane=rng.uniform(0, 35),
                    rotation=rng.uniform(50, 100), elbow=rng.uniform(25, 60),
                )  # fmt: skip
            else:
                _set_arm(
                    pose, i, elevation=elevation + rng.normal(0, 6), plane=plane,
                    rotation=rng.uniform(0, 100), elbow=rng.uniform(2, 32),
                )  # fmt: skip
    elif motion == "single_arm_open":
        _set_arm(
            pose, side, elevation=rng.uniform(64, 110), plane=rng.uniform(-15, 38),
            rotation=rng.uniform(-40, 80), elbow=rng.uniform(2, 26),
        )  # fmt: skip
        if rng.random() < 0.4:
            _rest(pose, (1 - side,), build, rng)
    elif motion == "wave":
        drawn = rng.uniform(0, 2 * np.pi)
        phase = drawn if given is None else given
        if rng.random() < 0.35:  # with the elbow at the side
            elevation, elbow = rng.uniform(18, 48), rng.uniform(112, 134)
        else:
            elevation, elbow = rng.uniform(56, 112), rng.uniform(66, 112)
        _set_arm(
            pose, side, elevation=elevation, plane=rng.uniform(-8, 45),
            rotation=88 + 22 * np.cos(phase) * rng.uniform(0.2, 1) + rng.normal(-8, 6),
            elbow=elbow + 16 * np.sin(phase), wrist=25 * np.sin(phase),
        )  # fmt: skip
        if rng.random() < 0.4:
            _rest(pose, (1 - side,), build, rng)
    elif motion == "stand" and rng.random() < 0.6:
        _rest(pose, both if rng.random() < 0.9 else (side,), build, rng)


def _rest(pose: Pose, sides: tuple[int, ...], build: Build, rng: np.random.Generator) -> None:
    """Draws hands that rest in front of the body, at one height."""
    up = rng.uniform(-0.06, 0.03)
    for i in sides:
        target = np.array([(-1, 1)[i] * rng.uniform(0.005, 0.05), up, rng.uniform(0.085, 0.12)])
        reach(pose, i, build, target * build.height, (1.0, -0.2, -0.5))
