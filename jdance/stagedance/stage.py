"""StageDance: a synthetic data set of dancers on stages, with exact key points and motions.

A *group* stands for one video: one stage, light, camera, crowd and troupe. A *scene* is one of its
frames with one to six dancers. Everything except the pose is drawn from random streams that are
independent of the motion, so that only the pose reveals the motion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from jdance import skeleton
from jdance.errors import UserError
from jdance.stagedance.backdrop import Stage, random_stage
from jdance.stagedance.body import MOTIONS, Body, Build, assemble, random_build, random_pose
from jdance.stagedance.camera import Camera
from jdance.stagedance.clothes import Outfit, random_outfit
from jdance.stagedance.render import Layer, draw_dancer

NAME = "StageDance"
MAX_DANCERS = 6

# People per split and motion.
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
    "pose": {  # for pose networks
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

_TURNED = 0.15  # fraction of dancers with their backs to the audience

# Visibility of parts of the head: (joint, outward direction, min. cosine to the camera).
_FACE = (
    (skeleton.NOSE, (0.0, 0.0, 1.0), -0.2),
    (skeleton.R_EYE, (-0.3, 0.0, 0.95), 0.0),
    (skeleton.L_EYE, (0.3, 0.0, 0.95), 0.0),
    (skeleton.R_EAR, (-0.95, 0.0, 0.3), 0.0),
    (skeleton.L_EAR, (0.95, 0.0, 0.3), 0.0),
)


def face_visibility(camera: Camera, head: np.ndarray, skull: np.ndarray) -> np.ndarray:
    """Which joints of the head face the camera: bool [18], True for all others.

    Args:
        camera: of the scene.
        head: orientation of the head, a rotation [3, 3].
        skull: center of the head [3].
    """
    visible = np.ones(skeleton.NUM_JOINTS, bool)
    towards = camera.position - skull
    towards /= np.linalg.norm(towards)
    for joint, outward, min_cosine in _FACE:
        visible[joint] = head @ outward @ towards > min_cosine
    return visible


@dataclass(frozen=True)
class Dancer:
    """Ground truth of one dancer.

    Attributes:
        keypoints: float32 [18, 3], x and y in pixels of the scene, score 1. Joints outside the
            image, behind another dancer or the crowd, and parts of the face on the far side of the
            head are all zeros. Joints behind the dancer's own body are present.
        visible: bool [18], False for joints behind the dancer's own body, too.
        label: index into MOTIONS.
        joints: float64 [18, 3], on the stage, in meters.
        root: x and y in pixels of the hips if the dancer stood upright.
        height: of the upright dancer in pixels. Root and height are independent of the pose.
        area: visible area in pixels.
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
    """An image, uint8 RGB [H, W, 3], with its dancers, camera and group."""

    image: np.ndarray
    dancers: tuple[Dancer, ...]
    camera: Camera
    group: int


@dataclass(frozen=True)
class PlannedScene:
    """A scene to render; `motions` has one label per dancer."""

    split: str
    group: int
    index: int
    motions: tuple[int, ...]


def stream(seed: int, group: int, *purpose: int) -> np.random.Generator:
    """Random numbers of a group, independent for each purpose."""
    return np.random.default_rng([seed, group, *purpose])


# One random stream per purpose, so that nothing except the pose depends on the motion.
_STAGE, _TROUPE, _MOTIONS, _PLACES, _POSE, _PLAN = range(6)


def render_scene(
    seed: int,
    group: int,
    index: int,
    *,
    motions: Sequence[int] | None = None,
    width: int = 640,
    height: int = 480,
) -> Scene:
    """Renders one scene; a pure function of its arguments.

    Args:
        seed, group, index: of the data set, the group in it and the scene in that; not negative.
        motions: 1 to 6 labels, one per dancer; drawn if None.
        width, height: image size in pixels, at least 32.

    Raises:
        UserError: an argument is out of its range.
    """
    if min(seed, group, index) < 0:
        raise UserError(f"seed {seed}, group {group}, index {index}: none may be negative")
    if min(width, height) < 32:
        raise UserError(f"a scene of {width} x {height} pixels: both sides must be 32 or more")
    stage = get_stage(seed, group, width, height)
    troupe = get_troupe(seed, group)
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
    cast = [troupe[member] for member in rng.permutation(MAX_DANCERS)[: len(labels)]]
    positions, yaws = place_dancers(rng, len(labels), stage.camera.stage_width(width))
    bodies = []
    for k, (label, (build, _)) in enumerate(zip(labels, cast, strict=True)):
        pose = random_pose(MOTIONS[label], build, stream(seed, group, _POSE, index, k))
        bodies.append(assemble(build, pose, (positions[k, 0], positions[k, 1]), yaws[k]))
    return compose_scene(stage, bodies, cast, labels, positions, group, (width, height), rng)


def compose_scene(
    stage: Stage,
    bodies: list[Body],
    cast: list[tuple[Build, Outfit]],
    labels: list[int],
    positions: np.ndarray,
    group: int,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> Scene:
    """Renders K posed bodies on a stage.

    Args:
        stage: the empty stage.
        bodies, cast, labels: of K dancers.
        positions: x and z of the dancers in meters, float [K, 2].
        group: of the scene.
        size: width and height of the image in pixels.
        rng: draws noise and exposure.
    """
    layers = [
        draw_dancer(body, build, outfit, stage.camera, stage.light, size)
        for body, (build, outfit) in zip(bodies, cast, strict=True)
    ]
    image = _compose(stage, layers, bodies, int(rng.integers(1 << 16)), float(rng.normal(0, 6)))
    order = sorted(range(len(labels)), key=lambda k: positions[k, 1])  # far to near
    dancers = []
    for k, label in enumerate(labels):
        nearer = [layers[n] for n in order[order.index(k) + 1 :]]
        dancers.append(
            _ground_truth(stage, bodies[k], cast[k][0], layers[k], nearer, label, positions[k])
        )
    return Scene(image, tuple(dancers), stage.camera, group)


@lru_cache(maxsize=8)
def get_stage(seed: int, group: int, width: int, height: int) -> Stage:
    """The stage of a group at an image size in pixels."""
    return random_stage(stream(seed, group, _STAGE), _troupe_size(seed, group), (width, height))


def _troupe_size(seed: int, group: int) -> int:
    """Maximum number of dancers in a group's scenes."""
    return int(stream(seed, group, _TROUPE, 0).integers(1, MAX_DANCERS + 1))


@lru_cache(maxsize=8)
def get_troupe(seed: int, group: int) -> tuple[tuple[Build, Outfit], ...]:
    """The MAX_DANCERS members of a group's troupe."""
    rng = stream(seed, group, _TROUPE, 1)
    uniform = random_outfit(rng) if rng.random() < 0.35 else None
    return tuple((random_build(rng), random_outfit(rng, uniform)) for _ in range(MAX_DANCERS))


def place_dancers(
    rng: np.random.Generator, count: int, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draws positions x and z [count, 2] in meters and yaws [count] in degrees.

    `width` is the visible width of the stage in meters.
    """
    gap = min((width - 1.1) / count, rng.uniform(0.85, 1.5))
    x = (np.arange(count) - (count - 1) / 2) * gap + rng.uniform(-0.12, 0.12, count) * gap
    slack = max(0.0, 0.5 * width - 0.75 - np.abs(x).max())
    x += rng.uniform(-1, 1) * slack
    # Two rows, so that neighbors do not intersect.
    row = (np.arange(count) + rng.integers(2)) % 2 * 2 - 1
    z = row * rng.uniform(0.15, 0.6, count) + rng.uniform(-0.35, 0.15)
    # Profiles are harder than front views, so they are slightly more frequent.
    yaw = 70 * rng.choice([-1, 1], count) * rng.uniform(0, 1, count) ** 0.68
    yaw += 180 * (rng.random(count) < _TURNED)
    return np.stack([x, z], 1), yaw


def _compose(
    stage: Stage, layers: list[Layer], bodies: list[Body], roll: int, exposure: float
) -> np.ndarray:
    """Adds shadows, reflections, dancers, haze, crowd and noise to the empty stage."""
    image = stage.backdrop.astype(np.float32)
    order = np.argsort([body.joints[skeleton.NECK, 2] for body in bodies])
    for k in order:
        _shadow(image, stage, bodies[k])
    for k in order:
        _reflect(image, stage, layers[k], bodies[k])
    for k in order:
        layer = layers[k]
        window = _window(image, layer)
        window *= (1 - layer.coverage)[..., None]
        window += np.minimum(layer.color, 1) * 255
    image += stage.haze
    image *= (1 - 0.93 * stage.crowd)[..., None]
    image += np.roll(stage.grain, roll) + exposure
    return np.clip(image, 0, 255).astype(np.uint8)


def _shadow(image: np.ndarray, stage: Stage, body: Body) -> None:
    """Darkens the floor under a dancer and each foot."""
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
        window = image[y0 : max(y1, 0), x0 : max(x1, 0)]
        if not window.size:
            continue
        x = (np.arange(x0, x0 + window.shape[1], dtype=np.float32) - point[0]) / a
        y = (np.arange(y0, y0 + window.shape[0], dtype=np.float32) - point[1]) / b
        blob = np.exp(-1.6 * (x[None] ** 2 + y[:, None] ** 2))
        window *= (1 - stage.shade * dark * blob)[..., None]


def _reflect(image: np.ndarray, stage: Stage, layer: Layer, body: Body) -> None:
    """Adds the reflection of feet and shins in a polished floor."""
    base, depth = stage.camera.project(
        body.joints[[skeleton.R_HIP, skeleton.L_HIP]].mean(0) * [1, 0, 1]
    )
    row = int(base[1]) - layer.top
    deep = int(0.42 * stage.camera.focal / float(depth))
    deep = min(deep, row, image.shape[0] - layer.top - row)
    if stage.gloss < 0.02 or deep < 4:
        return
    h = min(row, layer.coverage.shape[0])
    coverage, color = (a[max(h - deep, 0) : h][::-1] for a in (layer.coverage, layer.color))
    fade = stage.gloss * np.linspace(1, 0, len(coverage), dtype=np.float32)[:, None]
    coverage, color = (cv2.blur(a, (3, 7)) for a in (coverage * fade, color * fade[..., None]))
    top = layer.top + row
    window = image[top : top + len(coverage), layer.left : layer.left + coverage.shape[1]]
    window *= (1 - coverage)[..., None]
    window += np.minimum(color, 1) * 255


def _ground_truth(
    stage: Stage, body: Body, build: Build, layer: Layer, nearer: list[Layer], label: int,
    position: np.ndarray,
) -> Dancer:  # fmt: skip
    """Ground truth of one rendered dancer; `nearer` are the layers in front of it."""
    camera = stage.camera
    xy, depth = camera.project(body.joints)
    height, width = stage.crowd.shape
    present = ((xy >= 0) & (xy <= (width - 1, height - 1))).all(-1)
    last = (width - 1, height - 1)
    x, y = np.clip(np.round(xy).astype(int), 0, last).T
    # A joint is hidden if everything within a limb's radius is covered.
    around = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]) * 0.055 * camera.focal
    near = xy[:, None] + around / depth[:, None, None]
    near_x, near_y = np.moveaxis(np.clip(np.round(near).astype(int), 0, last), -1, 0)
    covered = stage.crowd[near_y, near_x] > 0.5
    for other in nearer:
        covered |= _at(other, other.coverage, near_x, near_y, 0.0) > 0.5
    present &= ~covered.all(-1)
    present &= face_visibility(camera, body.head, body.skull)
    # The surface over a joint may be nearer by the limb's radius.
    visible = present & (_at(layer, layer.depth, x, y, np.inf) > depth - 0.17 * build.girth)
    keypoints = np.concatenate([xy, np.ones((len(xy), 1))], 1) * present[:, None]
    seen = 1 - stage.crowd
    for other in nearer:
        _window(seen, other)[:] *= 1 - other.coverage
    upright = np.array([[position[0], 0.53 * build.height, position[1]]])
    root, away = camera.project(upright)
    return Dancer(
        keypoints=keypoints.astype(np.float32),
        visible=visible,
        label=label,
        joints=body.joints,
        root=(float(root[0, 0]), float(root[0, 1])),
        height=build.height * camera.focal / float(away[0]),
        area=float((_window(seen, layer) * layer.coverage).sum()),
    )


def _window(image: np.ndarray, layer: Layer) -> np.ndarray:
    """View of an image [H, W, ...] under a layer."""
    h, w = layer.coverage.shape
    return image[layer.top : layer.top + h, layer.left : layer.left + w]


def _at(
    layer: Layer, values: np.ndarray, x: np.ndarray, y: np.ndarray, outside: float
) -> np.ndarray:
    """Samples a layer's values [h, w] at pixels of the scene."""
    h, w = values.shape
    column, line = x - layer.left, y - layer.top
    inside = (column >= 0) & (column < w) & (line >= 0) & (line < h)
    return np.where(inside, values[np.clip(line, 0, h - 1), np.clip(column, 0, w - 1)], outside)


def plan_scenes(preset: str, seed: int) -> list[PlannedScene]:
    """Plans the scenes of a data set with exactly the preset's number of people per motion.

    A group belongs to one split and has 8 to 15 scenes (fewer at the end of a split).

    Args:
        preset: a name in PRESETS.
        seed: not negative; pass the same to `render_scene`.

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
        rng = stream(seed, number, _PLAN, 1)  # independent of the labels
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
