"""StageDance: a synthetic data set of dancers on stages, with exact key points and motions.

A *group* stands for one video: one stage, light, camera, crowd and troupe. A *scene* is one of
its frames, with one to six dancers, each in some moment of a motion. Everything but the pose is
drawn from random streams that do not know the motion, so that only the body can tell it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from jdance import skeleton
from jdance.data.stage_body import (
    MOTIONS,
    Body,
    Build,
    Camera,
    assemble,
    random_build,
    random_pose,
)
from jdance.data.stage_render import Layer, Outfit, draw_dancer
from jdance.data.stage_set import Stage, random_stage, troupe_width
from jdance.errors import UserError

MAX_DANCERS = 6

# Persons per split and motion.
PRESETS: dict[str, dict[str, dict[str, int]]] = {
    "paper": {
        "train": dict(zip(MOTIONS, (795, 470, 470, 250, 647, 568), strict=True)),
        "val": dict(zip(MOTIONS, (88, 51, 52, 27, 71, 61), strict=True)),
        "test": dict(zip(MOTIONS, (88, 51, 52, 27, 71, 61), strict=True)),
    },
    "quickstart": {
        "train": dict.fromkeys(MOTIONS, 300),
        "val": dict.fromkeys(MOTIONS, 40),
        "test": dict.fromkeys(MOTIONS, 60),
    },
}

# Whether the camera can see a part of the head: (joint, its outward direction, least cosine).
_FACE = (
    (skeleton.NOSE, (0.0, 0.0, 1.0), -0.2),
    (skeleton.R_EYE, (-0.3, 0.0, 0.95), 0.0),
    (skeleton.L_EYE, (0.3, 0.0, 0.95), 0.0),
    (skeleton.R_EAR, (-0.95, 0.0, 0.3), 0.0),
    (skeleton.L_EAR, (0.95, 0.0, 0.3), 0.0),
)


@dataclass(frozen=True)
class Dancer:
    """One dancer of a scene.

    Attributes:
        keypoints: float32 [18, 3], x and y in pixels of the scene, score 1. Joints behind the
            dancer's own body count. Joints outside the picture, behind another dancer or the crowd,
            and parts of the face on the far side of the head are missing: all zeros.
        visible: bool [18], whether the joint is in plain sight.
        label: index into MOTIONS.
        joints: float64 [18, 3], where the joints are on the stage, in metres.
        root: x and y in pixels, where the hips would be if the dancer stood upright.
        height: of the upright dancer, in pixels. Neither root nor height knows the pose.
    """

    keypoints: np.ndarray
    visible: np.ndarray
    label: int
    joints: np.ndarray
    root: tuple[float, float]
    height: float

    @property
    def motion(self) -> str:
        return MOTIONS[self.label]


@dataclass(frozen=True)
class Scene:
    """One picture: uint8 RGB [H, W, 3], the dancers in it, its camera and its group."""

    image: np.ndarray
    dancers: tuple[Dancer, ...]
    camera: Camera
    group: int


@dataclass(frozen=True)
class PlannedScene:
    """One scene of a plan; `motions` are labels, one a dancer."""

    split: str
    group: int
    index: int
    motions: tuple[int, ...]


def _stream(seed: int, group: int, *purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, group, *purpose])


# What the random streams are for. A stream has one purpose: so nothing else can tell the motion.
_STAGE, _TROUPE, _MOTIONS, _PLACES, _POSE, _PLAN = range(6)


def scene(
    seed: int,
    group: int,
    index: int,
    *,
    motions: Sequence[int] | None = None,
    width: int = 640,
    height: int = 480,
) -> Scene:
    """Renders one scene: a pure function of its arguments.

    Args:
        seed, group, index: not negative; which data set, which of its groups, which scene in it.
        motions: labels of the dancers, 1 to 6 of them; drawn if None.
        width, height: of the picture in pixels, at least 32.

    Raises:
        UserError: an argument is out of its range.
    """
    if min(seed, group, index) < 0:
        raise UserError(f"seed {seed}, group {group}, index {index}: none may be negative")
    if min(width, height) < 32:
        raise UserError(f"a scene of {width} x {height} pixels: both sides must be 32 or more")
    stage = _stage(seed, group, width, height)
    troupe = _troupe(seed, group)
    if motions is None:
        rng = _stream(seed, group, _MOTIONS, index)
        motions = rng.integers(len(MOTIONS), size=rng.integers(1, _troupe_size(seed, group) + 1))
    labels = [int(label) for label in motions]
    if not 1 <= len(labels) <= MAX_DANCERS or not all(0 <= m < len(MOTIONS) for m in labels):
        raise UserError(
            f"motions {labels}: expected 1 to {MAX_DANCERS} labels from 0 to {len(MOTIONS) - 1}"
        )

    rng = _stream(seed, group, _PLACES, index)
    cast = rng.permutation(MAX_DANCERS)[: len(labels)]
    places, yaws = _places(rng, len(labels), troupe_width(stage.camera, (width, height)))
    builds = [troupe[member][0] for member in cast]
    bodies = []
    for k, label in enumerate(labels):
        pose = random_pose(MOTIONS[label], builds[k], _stream(seed, group, _POSE, index, k))
        bodies.append(assemble(builds[k], pose, (places[k, 0], places[k, 1]), yaws[k]))
    layers = [
        draw_dancer(body, build, troupe[member][1], stage.camera, stage.light, (width, height))
        for body, build, member in zip(bodies, builds, cast, strict=True)
    ]
    image = _compose(stage, layers, bodies, int(rng.integers(1 << 16)), float(rng.normal(0, 6)))
    order = sorted(range(len(labels)), key=lambda k: places[k, 1])  # from far to near
    dancers = []
    for k, label in enumerate(labels):
        covers = [layers[n] for n in order[order.index(k) + 1 :]]
        dancers.append(_describe(stage, bodies[k], builds[k], layers[k], covers, label, places[k]))
    return Scene(image, tuple(dancers), stage.camera, group)


@lru_cache(maxsize=8)
def _stage(seed: int, group: int, width: int, height: int) -> Stage:
    return random_stage(
        _stream(seed, group, _STAGE), _troupe_size(seed, group), (width, height)
    )


def _troupe_size(seed: int, group: int) -> int:
    """How many dancers a group has at most."""
    return int(_stream(seed, group, _TROUPE, 0).integers(1, MAX_DANCERS + 1))


@lru_cache(maxsize=8)
def _troupe(seed: int, group: int) -> tuple[tuple[Build, Outfit], ...]:
    rng = _stream(seed, group, _TROUPE, 1)
    uniform = random_outfit(rng) if rng.random() < 0.35 else None  # dressed alike
    return tuple((random_build(rng), random_outfit(rng, uniform)) for _ in range(MAX_DANCERS))
