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
from jdance.errors import UserError
from jdance.stagedance.backdrop import Stage, random_stage, stage_width
from jdance.stagedance.body import MOTIONS, Body, Build, Camera, assemble, random_build, random_pose
from jdance.stagedance.render import Layer, Outfit, draw_dancer, random_outfit

NAME = "StageDance"
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
    "pose": {  # to train a pose network
        "train": dict.fromkeys(MOTIONS, 2400),
        "val": dict.fromkeys(MOTIONS, 50),
        "test": dict.fromkeys(MOTIONS, 150),
    },
    "tiny": {
        "train": dict.fromkeys(MOTIONS, 6),
        "val": dict.fromkeys(MOTIONS, 2),
        "test": dict.fromkeys(MOTIONS, 2),
    },
}

_TURNED = 0.15  # share of dancers who turn their backs to the audience

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
            dancer's own body count. Joints outside the image, behind another dancer or the crowd,
            and parts of the face on the far side of the head are missing: all zeros.
        visible: bool [18], whether the joint is in plain sight.
        label: index into MOTIONS.
        joints: float64 [18, 3], where the joints are on the stage, in metres.
        root: x and y in pixels, where the hips would be if the dancer stood upright.
        height: of the upright dancer, in pixels. Neither root nor height knows the pose.
        area: how many pixels of the scene show the dancer.
    """

    keypoints: np.ndarray
    visible: np.ndarray
    label: int
    joints: np.ndarray
    root: tuple[float, float]
    height: float
    area: float

    @property
    def motion(self) -> str:
        return MOTIONS[self.label]


@dataclass(frozen=True)
class Scene:
    """One image: uint8 RGB [H, W, 3], the dancers in it, its camera and its group."""

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


def stream(seed: int, group: int, *purpose: int) -> np.random.Generator:
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
        width, height: of the image in pixels, at least 32.

    Raises:
        UserError: an argument is out of its range.
    """
    if min(seed, group, index) < 0:
        raise UserError(f"seed {seed}, group {group}, index {index}: none may be negative")
    if min(width, height) < 32:
        raise UserError(f"a scene of {width} x {height} pixels: both sides must be 32 or more")
    stage = stage_of(seed, group, width, height)
    troupe = troupe_of(seed, group)
    if motions is None:
        rng = stream(seed, group, _MOTIONS, index)
        count = rng.integers(1, _troupe_size(seed, group) + 1)
        motions = rng.integers(len(MOTIONS), size=count).tolist()
    labels = [int(label) for label in motions]
    if not 1 <= len(labels) <= MAX_DANCERS or not all(0 <= m < len(MOTIONS) for m in labels):
        raise UserError(
            f"motions {labels}: expected 1 to {MAX_DANCERS} labels from 0 to {len(MOTIONS) - 1}"
        )

    rng = stream(seed, group, _PLACES, index)
    cast = rng.permutation(MAX_DANCERS)[: len(labels)]
    places, yaws = place_dancers(rng, len(labels), stage_width(stage.camera, (width, height)))
    builds = [troupe[member][0] for member in cast]
    bodies = []
    for k, label in enumerate(labels):
        pose = random_pose(MOTIONS[label], builds[k], stream(seed, group, _POSE, index, k))
        bodies.append(assemble(builds[k], pose, (places[k, 0], places[k, 1]), yaws[k]))
    wear = [troupe[member] for member in cast]
    return paint(stage, bodies, wear, labels, places, group, (width, height), rng)


def paint(
    stage: Stage,
    bodies: list[Body],
    wear: list[tuple[Build, Outfit]],
    labels: list[int],
    places: np.ndarray,
    group: int,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> Scene:
    """Paints posed bodies [K] on a stage; the rng is for noise."""
    layers = [
        draw_dancer(body, build, outfit, stage.camera, stage.light, size)
        for body, (build, outfit) in zip(bodies, wear, strict=True)
    ]
    image = _compose(stage, layers, bodies, int(rng.integers(1 << 16)), float(rng.normal(0, 6)))
    order = sorted(range(len(labels)), key=lambda k: places[k, 1])  # from far to near
    dancers = []
    for k, label in enumerate(labels):
        covers = [layers[n] for n in order[order.index(k) + 1 :]]
        dancers.append(_describe(stage, bodies[k], wear[k][0], layers[k], covers, label, places[k]))
    return Scene(image, tuple(dancers), stage.camera, group)


@lru_cache(maxsize=8)
def stage_of(seed: int, group: int, width: int, height: int) -> Stage:
    return random_stage(stream(seed, group, _STAGE), _troupe_size(seed, group), (width, height))


def _troupe_size(seed: int, group: int) -> int:
    """How many dancers a group has at most."""
    return int(stream(seed, group, _TROUPE, 0).integers(1, MAX_DANCERS + 1))


@lru_cache(maxsize=8)
def troupe_of(seed: int, group: int) -> tuple[tuple[Build, Outfit], ...]:
    rng = stream(seed, group, _TROUPE, 1)
    uniform = random_outfit(rng) if rng.random() < 0.35 else None  # dressed alike
    return tuple((random_build(rng), random_outfit(rng, uniform)) for _ in range(MAX_DANCERS))


def place_dancers(
    rng: np.random.Generator, count: int, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where the dancers stand, x and z [count, 2] in metres, and where they face, in degrees."""
    gap = min((width - 1.1) / count, rng.uniform(0.85, 1.5))
    x = (np.arange(count) - (count - 1) / 2) * gap + rng.uniform(-0.12, 0.12, count) * gap
    slack = max(0.0, 0.5 * width - 0.75 - np.abs(x).max())
    x += rng.uniform(-1, 1) * slack
    # Two rows, so that nobody stands inside a neighbour.
    row = (np.arange(count) + rng.integers(2)) % 2 * 2 - 1
    z = row * rng.uniform(0.15, 0.6, count) + rng.uniform(-0.35, 0.15)
    # Profiles are harder than front views, and a little more frequent.
    yaw = 70 * rng.choice([-1, 1], count) * rng.uniform(0, 1, count) ** 0.68
    yaw += 180 * (rng.random(count) < _TURNED)
    return np.stack([x, z], 1), yaw


def _compose(
    stage: Stage, layers: list[Layer], bodies: list[Body], roll: int, exposure: float
) -> np.ndarray:
    """Puts shadows, dancers, haze, crowd and noise on the empty stage."""
    image = stage.backdrop.astype(np.float32)
    order = np.argsort([body.joints[skeleton.NECK, 2] for body in bodies])
    for k in order:
        _shadow(image, stage, bodies[k])
    for k in order:
        _mirror(image, stage, layers[k], bodies[k])
    for k in order:
        layer = layers[k]
        part = _window(image, layer)
        part *= (1 - layer.cover)[..., None]
        part += np.minimum(layer.colour, 1) * 255
    image += stage.haze
    image *= (1 - 0.93 * stage.crowd)[..., None]
    image += np.roll(stage.grain, roll) + exposure
    return np.clip(image, 0, 255).astype(np.uint8)


def _shadow(image: np.ndarray, stage: Stage, body: Body) -> None:
    """Darkens the floor under a dancer and under each foot."""
    camera, (lx, _, lz) = stage.camera, stage.light.direction
    middle = body.joints[[skeleton.R_HIP, skeleton.L_HIP]].mean(0) * [1, 0, 1]
    feet = (body.heels + body.toes) / 2 * [1, 0, 1]
    spots = [
        (middle - [0.22 * lx, 0, 0.1 * lz], 0.42, 0.6),
        (feet[0], 0.15, 0.8),
        (feet[1], 0.15, 0.8),
    ]
    for at, radius, dark in spots:
        point, depth = camera.project(at)
        a = radius * camera.focal / float(depth)
        b = a * camera.position[1] / float(depth)
        reach = np.array([2 * a, 2 * b])
        x0, y0 = np.maximum(np.floor(point - reach).astype(int), 0)
        x1, y1 = np.ceil(point + reach).astype(int) + 1
        part = image[y0 : max(y1, 0), x0 : max(x1, 0)]
        if not part.size:
            continue
        x = (np.arange(x0, x0 + part.shape[1], dtype=np.float32) - point[0]) / a
        y = (np.arange(y0, y0 + part.shape[0], dtype=np.float32) - point[1]) / b
        part *= (1 - stage.shade * dark * np.exp(-1.6 * (x[None] ** 2 + y[:, None] ** 2)))[
            ..., None
        ]


def _mirror(image: np.ndarray, stage: Stage, layer: Layer, body: Body) -> None:
    """Mirrors the feet and shins in a polished floor."""
    base, depth = stage.camera.project(
        body.joints[[skeleton.R_HIP, skeleton.L_HIP]].mean(0) * [1, 0, 1]
    )
    row = int(base[1]) - layer.top
    deep = int(0.42 * stage.camera.focal / float(depth))
    deep = min(deep, row, image.shape[0] - layer.top - row)
    if stage.gloss < 0.02 or deep < 4:
        return
    h = min(row, layer.cover.shape[0])
    cover, colour = (a[max(h - deep, 0) : h][::-1] for a in (layer.cover, layer.colour))
    fade = stage.gloss * np.linspace(1, 0, len(cover), dtype=np.float32)[:, None]
    cover, colour = (cv2.blur(a, (3, 7)) for a in (cover * fade, colour * fade[..., None]))
    top = layer.top + row
    part = image[top : top + len(cover), layer.left : layer.left + cover.shape[1]]
    part *= (1 - cover)[..., None]
    part += np.minimum(colour, 1) * 255


def _describe(
    stage: Stage, body: Body, build: Build, layer: Layer, covers: list[Layer], label: int,
    place: np.ndarray,
) -> Dancer:  # fmt: skip
    """The truth about one painted dancer; `covers` are the layers in front of it."""
    camera = stage.camera
    xy, depth = camera.project(body.joints)
    height, width = stage.crowd.shape
    present = ((xy >= 0) & (xy <= (width - 1, height - 1))).all(-1)
    last = (width - 1, height - 1)
    x, y = np.clip(np.round(xy).astype(int), 0, last).T
    # Hidden is a joint when everything within a limb's radius of it is covered.
    around = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]) * 0.055 * camera.focal
    near = xy[:, None] + around / depth[:, None, None]
    near_x, near_y = np.moveaxis(np.clip(np.round(near).astype(int), 0, last), -1, 0)
    covered = stage.crowd[near_y, near_x] > 0.5
    for cover in covers:
        covered |= _at(cover, cover.cover, near_x, near_y, 0.0) > 0.5
    present &= ~covered.all(-1)
    towards = camera.position - body.skull
    towards /= np.linalg.norm(towards)
    for joint, outward, least in _FACE:
        present[joint] &= body.head @ outward @ towards > least
    # A joint lies inside its limb: the surface over it may be nearer by the limb's radius.
    visible = present & (_at(layer, layer.depth, x, y, np.inf) > depth - 0.17 * build.girth)
    keypoints = np.concatenate([xy, np.ones((len(xy), 1))], 1) * present[:, None]
    seen = 1 - stage.crowd
    for cover in covers:
        _window(seen, cover)[:] *= 1 - cover.cover
    upright = np.array([[place[0], 0.53 * build.height, place[1]]])
    root, away = camera.project(upright)
    return Dancer(
        keypoints=keypoints.astype(np.float32),
        visible=visible,
        label=label,
        joints=body.joints,
        root=(float(root[0, 0]), float(root[0, 1])),
        height=build.height * camera.focal / float(away[0]),
        area=float((_window(seen, layer) * layer.cover).sum()),
    )


def _window(image: np.ndarray, layer: Layer) -> np.ndarray:
    """The part of an image [H, W, ...] that a layer lies on."""
    h, w = layer.cover.shape
    return image[layer.top : layer.top + h, layer.left : layer.left + w]


def _at(
    layer: Layer, values: np.ndarray, x: np.ndarray, y: np.ndarray, outside: float
) -> np.ndarray:
    """The layer's values [h, w] at pixels of the scene."""
    h, w = values.shape
    column, line = x - layer.left, y - layer.top
    inside = (column >= 0) & (column < w) & (line >= 0) & (line < h)
    return np.where(inside, values[np.clip(line, 0, h - 1), np.clip(column, 0, w - 1)], outside)


def plan(preset: str, seed: int) -> list[PlannedScene]:
    """The scenes of a data set: every split has exactly the preset's persons of each motion.

    A group belongs to one split and has 8 to 15 scenes (the last of a split may have fewer).

    Args:
        preset: a name in PRESETS.
        seed: not negative; the same seed that `scene` is called with.

    Raises:
        UserError: unknown preset, negative seed.
    """
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}: expected one of {', '.join(sorted(PRESETS))}")
    if seed < 0:
        raise UserError(f"seed {seed}: may not be negative")
    planned, group = [], 0
    for number, (split, counts) in enumerate(PRESETS[preset].items()):
        labels = np.repeat([MOTIONS.index(m) for m in counts], list(counts.values()))
        stream(seed, number, _PLAN, 0).shuffle(labels)
        rng = stream(seed, number, _PLAN, 1)  # knows no label
        start = 0
        while start < len(labels):
            troupe = _troupe_size(seed, group)
            for index in range(rng.integers(8, 16)):
                count = int(rng.integers(1, troupe + 1))
                motions = tuple(int(m) for m in labels[start : start + count])
                if motions:
                    planned.append(PlannedScene(split, group, index, motions))
                start += count
            group += 1
    return planned
