"""The stages of StageDance: floor, backdrop, props, lamps and crowd, all without a dancer.

Every pixel of the empty stage is a point of the floor (y = 0) or of the backdrop (a plane behind
the dancers), found by following the camera's ray; so floor boards, curtains and pools of light
agree with the camera. Colours are float32 RGB in 0..1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from jdance.stagedance.body import Camera, camera_at
from jdance.stagedance.render import Colour, Light, hsv

KINDS = ("theatre", "concert", "open_air", "hall", "city", "arena", "studio")
_DARK = ("theatre", "concert", "city", "arena")


@dataclass(frozen=True)
class Stage:
    """An empty stage and what it needs to receive dancers.

    Attributes:
        kind: one of KINDS.
        camera, light: of the whole group.
        backdrop: uint8 [H, W, 3], the image without dancers.
        haze: uint8 [H, W, 3], light cones to be added over the dancers.
        crowd: float32 [H, W], how much the silhouettes of the audience cover.
        gloss: how strongly the floor mirrors.
        shade: darkness of the shadows, 0..1.
        grain: int16 [H, W, 1], the camera's noise.
    """

    kind: str
    camera: Camera
    light: Light
    backdrop: np.ndarray
    haze: np.ndarray
    crowd: np.ndarray
    gloss: float
    shade: float
    grain: np.ndarray


def random_stage(rng: np.random.Generator, troupe: int, size: tuple[int, int]) -> Stage:
    """A stage with room for `troupe` dancers, in an image of `size` (width, height) pixels."""
    width, height = size
    camera = _random_camera(rng, troupe, size)
    kind = KINDS[rng.integers(len(KINDS))]
    dark = kind in _DARK
    wall = float(rng.uniform(2.2, 4.0))
    x, y, z, is_floor = _rays(camera, wall, size)

    floor, backdrop = _floor(x, z, kind, rng), _BACKDROPS[kind](x, y, rng)
    image = np.where(is_floor[..., None], floor, backdrop).astype(np.float32)
    # Darker towards the foot of the backdrop, where the floor meets it.
    image *= (1 - 0.35 * np.exp(-((np.where(is_floor, (z + wall) * 0.8, y) / 0.35) ** 2)))[
        ..., None
    ]
    _props(image, camera, wall, dark, rng)

    lamps = [_lamp_colour(rng, dark) for _ in range(rng.integers(3, 7))]
    pools = np.zeros_like(image)
    haze = np.zeros((height // 2, width // 2, 3), np.float32)
    for k, colour in enumerate(lamps):
        at = np.array([(k + 0.5) / len(lamps) * 2 - 1, 0, 0]) * stage_width(camera, size) * 0.45
        at += [rng.normal(0, 0.3), 0, rng.uniform(-1.1, 0.6)]
        radius = rng.uniform(0.6, 1.2)
        near = ((x - at[0]) ** 2 + (z - at[2]) ** 2) / radius**2
        pool = np.where(is_floor, 1 / (1 + np.exp((np.sqrt(near) - 1) * 7)), 0)
        pools += pool[..., None].astype(np.float32) * np.array(colour, np.float32)
        _cone(haze, camera, at, radius, colour, rng)
    strength = rng.uniform(0.35, 0.6) if dark else rng.uniform(0.05, 0.15)
    image *= 1 + 1.6 * strength * pools
    image += 0.28 * strength * pools
    haze = _enlarge(cv2.GaussianBlur(haze, (0, 0), 5 * width / 640), size)
    haze *= rng.uniform(0.6, 1.0) if dark else rng.uniform(0.0, 0.12)
    image += haze * 0.75
    centre = np.hypot(
        (np.arange(width) - width / 2)[None] / width,
        (np.arange(height) - height / 2)[:, None] / height,
    )
    image *= (1 - (0.75 if dark else 0.35) * np.maximum(centre - 0.25, 0))[..., None]

    crowd = (
        _crowd(camera, size, rng) if rng.random() < 0.45 else np.zeros((height, width), np.float32)
    )
    return Stage(
        kind=kind,
        camera=camera,
        light=_random_light(lamps, dark, rng),
        backdrop=_to_bytes(image),
        haze=_to_bytes(haze * 0.35),
        crowd=crowd,
        gloss=float(rng.uniform(0.0, 0.12) if kind == "open_air" else rng.uniform(0.05, 0.4)),
        shade=float(rng.uniform(0.45, 0.7)),
        grain=rng.normal(0, rng.uniform(0.5, 3.5), (height, width, 1)).astype(np.int16),
    )


def _enlarge(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(cv2.resize(image, size), np.float32)


def stage_width(camera: Camera, size: tuple[int, int]) -> float:
    """How many metres of the stage's middle line the image shows."""
    return size[0] * float(np.hypot(camera.position[0], camera.position[2])) / camera.focal


def _random_camera(rng: np.random.Generator, troupe: int, size: tuple[int, int]) -> Camera:
    tall = max(2.5, 0.40 * troupe + 1.3) * rng.uniform(1.0, 1.22)  # metres that the image shows
    tall = max(tall, (0.78 * troupe + 1.1) * size[1] / size[0])
    focal = size[1] / (2 * np.tan(np.radians(rng.uniform(17, 27))))
    distance = tall * focal / size[1]
    return camera_at(
        height=rng.uniform(0.9, 2.5), distance=distance, pan=rng.uniform(-12, 12),
        tilt=0.92 + 0.07 * (tall - 2.4) + rng.uniform(-0.05, 0.12), focal=float(focal), size=size,
    )  # fmt: skip


def _random_light(lamps: list[Colour], dark: bool, rng: np.random.Generator) -> Light:
    side = rng.uniform(-1, 1)
    key = np.array([side, -rng.uniform(0.35, 0.9), rng.uniform(0.5, 1.0)])
    rim = np.array([-np.sign(side) * rng.uniform(0.4, 1), -rng.uniform(0.1, 0.8), 0])
    tint = np.array(lamps[0]) * 0.25 + 0.75 if dark else np.array([1.0, 0.97, 0.92])
    ambient = np.array(lamps[-1]) * 0.12 + 0.22 if dark else _rgb(0.40, 0.42, 0.46)
    edge = np.array(lamps[len(lamps) // 2]) * (rng.uniform(0.5, 1.0) if dark else 0.25)
    return Light(
        ambient=tuple(ambient * rng.uniform(0.9, 1.25)),
        key=tuple(tint * (rng.uniform(0.75, 1.0) if dark else rng.uniform(0.6, 0.75))),
        direction=tuple(key / np.linalg.norm(key)),
        rim=tuple(edge),
        rim_direction=tuple(rim / np.linalg.norm(rim)),
    )


def _lamp_colour(rng: np.random.Generator, dark: bool) -> Colour:
    if not dark or rng.random() < 0.35:
        return (1.0, 0.92, 0.75)
    return hsv(float(rng.uniform(0, 1)), 0.7, 1.0)


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def _rays(camera: Camera, wall: float, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """What each pixel sees: x, y and z in metres, and whether it is the floor: all [H, W]."""
    u = (np.arange(size[0]) - camera.centre[0]) / camera.focal
    v = (np.arange(size[1]) - camera.centre[1]) / camera.focal
    right, down, ahead = camera.rotation
    ray = right * u[None, :, None] + down * v[:, None, None] + ahead
    to_wall = (-wall - camera.position[2]) / ray[..., 2]
    to_floor = -camera.position[1] / np.minimum(ray[..., 1], -1e-6)
    is_floor = to_floor < to_wall
    x, y, z = np.moveaxis(camera.position + ray * np.minimum(to_floor, to_wall)[..., None], -1, 0)
    return x.astype(np.float32), y.astype(np.float32), z.astype(np.float32), is_floor


def _tones(index: np.ndarray, rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """A random tone for each integer."""
    return rng.uniform(low, high, 256).astype(np.float32)[index.astype(int) & 255]


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise 0..1 of some cells (down, across)."""
    coarse = rng.uniform(0, 1, cells).astype(np.float32)
    return np.clip(cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC), 0, 1)


def _rgb(red: float, green: float, blue: float) -> np.ndarray:
    return np.array([red, green, blue], np.float32)


def _paint(tone: np.ndarray, colour: Colour) -> np.ndarray:
    return tone[..., None] * _rgb(*colour)


def _floor(x: np.ndarray, z: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    style = rng.integers(3)
    dark = kind in _DARK
    if style == 0:  # boards
        wide = rng.uniform(0.12, 0.3)
        along, across = (x, z) if rng.random() < 0.3 else (z, x)
        board = np.floor(across / wide)
        tone = _tones(board * 7 + np.floor((along + board * 0.77) / 1.9), rng, 0.82, 1.05)
        seam = np.abs(across / wide - board - 0.5)
        tone *= 1 - 0.45 * np.clip((seam - 0.47) * 40, 0, 1)
        hue = hsv(rng.uniform(0.04, 0.10), rng.uniform(0.35, 0.65), 0.32 if dark else 0.68)
    elif style == 1:  # tiles
        side = rng.uniform(0.5, 1.0)
        odd = (np.floor(x / side) + np.floor(z / side)) % 2
        tone = 1 - rng.uniform(0.08, 0.4) * odd
        hue = hsv(rng.uniform(0, 1), rng.uniform(0.0, 0.25), 0.24 if dark else 0.66)
    else:  # dance mat
        tone = np.ones_like(x) * (1 - 0.2 * ((x / 1.5) % 1 < 0.012))
        hue = hsv(rng.uniform(0, 1), rng.uniform(0.05, 0.4), 0.2 if dark else 0.58)
    tone = tone * (0.78 + 0.22 * np.clip((z + 3) / 4, 0, 1))
    return _paint(tone, hue)


def _theatre(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A curtain with a valance."""
    hue = rng.choice([0.98, 0.0, 0.6, 0.75, 0.45, 0.1])
    wide = rng.uniform(0.25, 0.5)
    phase = x / wide * 2 * np.pi + 0.9 * np.sin(x * 1.9 + rng.uniform(0, 6)) + 0.15 * np.sin(y * 2)
    fold = 0.5 + 0.5 * np.sin(phase)
    tone = 0.28 + 0.72 * fold**1.4
    tone *= 0.75 + 0.25 * np.clip(y / 2, 0, 1)
    result = _paint(tone, hsv(float(hue) % 1, 0.85, 0.5))
    bottom = rng.uniform(2.5, 3.1)
    swag = bottom - 0.28 * np.abs(np.sin(np.pi * x / 1.3))
    gold = np.abs(y - swag) < 0.05
    result = np.where(
        (y > swag)[..., None], _paint(0.5 + 0.5 * fold, hsv(float(hue) % 1, 0.85, 0.38)), result
    )
    return np.where(gold[..., None], _paint(0.6 + 0.4 * fold, (0.85, 0.65, 0.2)), result)


def _concert(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A wall of light: bars, squares or rays."""
    style = rng.integers(3)
    hue = rng.uniform(0, 1)
    one, two = (_rgb(*hsv((hue + d) % 1, 0.75, 0.8)) for d in (0, rng.uniform(0.08, 0.4)))
    rise = np.clip(y / 3.5, 0, 1)[..., None]
    base = (one * (1 - rise) + two * rise) * 0.28
    if style == 0:
        wide = rng.uniform(0.3, 0.7)
        light = np.exp(-(((x / wide) % 1 - 0.5) ** 2) / 0.006)
        light *= _tones(np.floor(x / wide), rng, 0.2, 1.0)
    elif style == 1:
        cell = rng.uniform(0.18, 0.4)
        i, k = np.floor(x / cell), np.floor(y / cell)
        inside = np.maximum(np.abs(x / cell - i - 0.5), np.abs(y / cell - k - 0.5)) < 0.42
        light = inside * _tones(i * 13 + k * 37, rng, 0, 1) ** 2 * 0.8
    else:
        angle = np.arctan2(x - rng.uniform(-1, 1), y - rng.uniform(0.5, 2.0))
        light = (0.5 + 0.5 * np.sin(angle * rng.integers(8, 18))) ** 3 * 0.6
    return base + light[..., None] * (one * rise + two * (1 - rise)) * 0.75


def _open_air(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sky, clouds, hills, trees, a rail and a string of flags."""
    rise = np.clip(y / 4, 0, 1)[..., None]
    sky = _rgb(*hsv(rng.uniform(0.54, 0.6), rng.uniform(0.35, 0.6), 0.95))
    result = (1 - rise) * _rgb(0.88, 0.92, 0.95) + rise * sky
    cloud = _smooth(rng, x.shape, (6, 5)) * 0.6 + _smooth(rng, x.shape, (16, 12)) * 0.4
    result += (np.clip((cloud - 0.5) * 3, 0, 1) * np.clip(y - 1, 0, 1))[..., None] * (0.98 - result)
    for k in range(2):  # hills, the far one paler
        ridge = 1.5 - 0.45 * k + 0.28 * np.sin(x * (0.6 + 0.5 * k) + rng.uniform(0, 6))
        ridge = ridge + 0.12 * np.sin(x * 2.1 + rng.uniform(0, 6))
        green = _rgb(*hsv(rng.uniform(0.25, 0.38), 0.35 + 0.15 * k, 0.62 - 0.14 * k))
        leaves = _smooth(rng, x.shape, (60, 80))[..., None] * 0.3 + 0.82
        result = np.where((y < ridge)[..., None], green * leaves, result)
    wide = rng.uniform(0.9, 1.6)
    i = np.floor(x / wide)
    tree = np.hypot(
        (x / wide - i - 0.5) * wide, (y - _tones(i, rng, 0.9, 2.0)) * 0.8
    ) + 0.10 * _smooth(rng, x.shape, (50, 60))
    crown = (tree < _tones(i + 50, rng, 0.15, 0.55))[..., None]
    leaf = _smooth(rng, x.shape, (70, 90))
    result = np.where(
        crown, _paint(0.55 + 0.5 * leaf, hsv(rng.uniform(0.24, 0.36), 0.6, 0.5)), result
    )
    rail = (np.abs(y - 0.72) < 0.035) | ((y < 0.72) & ((x / 0.9) % 1 < 0.07))
    result = np.where(rail[..., None], _rgb(0.82, 0.8, 0.76), result)
    string = rng.uniform(2.3, 2.9) - 0.22 * np.cos(x * 0.9)
    i = np.floor(x / 0.32)
    inside = np.abs(x / 0.32 - i - 0.5) < 0.42 * np.clip(1 - (string - y) / 0.3, 0, 1)
    flag = inside & (y < string)
    hues = np.array([hsv(h, 0.7, 0.9) for h in rng.uniform(0, 1, 4)], np.float32)[i.astype(int) & 3]
    return np.where(flag[..., None], hues, result)


def _hall(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A practice hall: a wall with tall windows or mirrors over a wainscot."""
    wall = _rgb(*hsv(rng.uniform(0, 1), rng.uniform(0.05, 0.28), rng.uniform(0.6, 0.88)))
    result = wall * (0.86 + 0.14 * np.clip(y / 3, 0, 1))[..., None]
    wide = rng.uniform(1.2, 2.0)
    shift = x / wide + rng.uniform(0, 1)
    cell = np.abs(shift % 1 - 0.5)
    low = rng.uniform(0.5, 1.0)
    frame = (cell < 0.36) & (y > low) & (y < 2.9)
    pane = (cell < 0.33) & (y > low + 0.06) & (y < 2.84)
    bars = pane & ((np.abs(cell) < 0.012) | (np.abs((y - low) / 0.62 % 1 - 0.5) < 0.025))
    glow = 0.80 + 0.2 * np.clip(y / 3, 0, 1)
    glass = hsv(rng.uniform(0.5, 0.62), rng.uniform(0.08, 0.25), 0.97)
    result = np.where(frame[..., None], wall * 0.55, result)
    result = np.where(pane[..., None], _paint(glow, glass), result)
    result = np.where(bars[..., None], wall * 0.5, result)
    skirting = y < 0.16
    result = np.where(skirting[..., None], wall * 0.5, result)
    barre = np.abs(y - 1.02) < 0.022
    return np.where(barre[..., None], _rgb(0.5, 0.34, 0.2), result)


def _city(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A painted night: moon, stars, a skyline with lit windows."""
    hue = rng.uniform(0.58, 0.82)
    rise = np.clip(y / 4, 0, 1)[..., None]
    result = (1 - rise) * _rgb(*hsv(hue + 0.12, 0.6, 0.45)) + rise * np.array(hsv(hue, 0.8, 0.14))
    a, b = np.floor(x / 0.025), np.floor(y / 0.025)
    star = _tones(a * 31 + np.floor(b * 1.7) * 57 + a * b, rng, 0, 1) > 0.994
    result += (star * _tones(a + b, rng, 0.2, 0.8))[..., None]
    far = np.hypot(x - rng.uniform(-2, 2), y - rng.uniform(2.0, 2.9))
    size = rng.uniform(0.25, 0.5)
    moon = np.clip((size - far) * 40, 0, 1)[..., None]
    result = result * (1 - moon) + moon * _rgb(0.98, 0.95, 0.8)
    result += np.exp(-((far / (size * 2)) ** 2))[..., None] * 0.22
    for k in range(2):
        wide = rng.uniform(0.5, 0.9)
        i = np.floor(x / wide)
        roof = _tones(i + 40 * k, rng, 0.9, 2.5 - 0.7 * k)
        house = (y < roof)[..., None]
        result = np.where(house, _rgb(*hsv(hue, 0.5, 0.16 - 0.06 * k)), result)
        a, b = np.floor(x / 0.14), np.floor(y / 0.18)
        pane = (np.abs(x / 0.14 - a - 0.5) < 0.28) & (np.abs(y / 0.18 - b - 0.5) < 0.3)
        lit = pane & (_tones(a * 17 + b * 29 + k, rng, 0, 1) > 0.72) & (y < roof - 0.1)
        result = np.where(lit[..., None], _rgb(0.95, 0.78, 0.4), result)
    return result


def _arena(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An audience in rising rows behind the stage."""
    hue = rng.uniform(0, 1)
    row = np.floor(y / 0.42)
    shift = x / 0.5 + 0.5 * (row % 2) + _tones(row, rng, 0, 1)
    i = np.floor(shift)
    person = i * 11 + row * 53
    dx, dy = (shift - i - 0.5) * 0.5 - _tones(person + 3, rng, -0.08, 0.08), y - row * 0.42
    head = np.hypot(dx, dy - 0.27 - _tones(person + 7, rng, -0.05, 0.05)) < 0.085
    trunk = (np.abs(dx) < 0.17 - 0.1 * np.clip(dy - 0.1, 0, 1)) & (dy < 0.2)
    clothes = rng.uniform(0.15, 0.8, (256, 3)).astype(np.float32)[person.astype(int) & 255]
    result = np.zeros((*x.shape, 3), np.float32) + _rgb(*hsv(hue, 0.4, 0.14))
    result = np.where(trunk[..., None], clothes * 0.55, result)
    tone = _tones(person + 11, rng, 0.35, 0.75)
    result = np.where(head[..., None], _paint(tone, (0.85, 0.62, 0.5)), result)
    tint = _rgb(*hsv(hue, 0.35, 0.9))
    result = cv2.GaussianBlur(result, (0, 0), 1.5) * tint * 0.62
    edge = _rgb(*hsv(rng.uniform(0, 1), 0.6, 0.35))
    return np.where((y < 0.62)[..., None], edge * (0.7 + 0.5 * np.abs(y - 0.31))[..., None], result)


def _studio(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A plain set with large painted shapes."""
    hue = rng.uniform(0, 1)
    base = _rgb(*hsv(hue, rng.uniform(0.15, 0.55), rng.uniform(0.6, 0.9)))
    result = base * (0.75 + 0.25 * np.clip(y / 3, 0, 1))[..., None]
    for _ in range(rng.integers(2, 6)):
        far = np.hypot(x - rng.uniform(-3, 3), y - rng.uniform(0.3, 3))
        radius = rng.uniform(0.3, 1.1)
        ring = (far < radius) & ((far > radius * 0.7) | (rng.random() < 0.5))
        shape = _rgb(*hsv((hue + rng.uniform(-0.2, 0.5)) % 1, 0.5, 0.85))
        result = np.where(ring[..., None], result * 0.35 + shape * 0.65, result)
    return result


_BACKDROPS: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]] = {
    "theatre": _theatre,
    "concert": _concert,
    "open_air": _open_air,
    "hall": _hall,
    "city": _city,
    "arena": _arena,
    "studio": _studio,
}


def _polygon(image: np.ndarray, points: np.ndarray, colour: np.ndarray) -> None:
    """Fills a polygon of pixels [N, 2] with a colour [3] (or a tone [1]), with smooth edges."""
    fixed = np.round(np.clip(points, -9999, 9999) * 16).astype(np.int32)
    cv2.fillConvexPoly(image, fixed, [float(c) for c in colour], cv2.LINE_AA, 4)


def _box(
    image: np.ndarray, camera: Camera, x: float, z: float, size: Sequence[float], tone: np.ndarray
) -> None:
    """A box on the floor, size (wide, high, deep) in metres: top, side and front."""
    w, h, d = size
    xs, ys, zs = np.meshgrid([x - w / 2, x + w / 2], [0, h], [z - d, z], indexing="ij")
    p = camera.project(np.stack([xs, ys, zs], -1))[0]  # [x, y, z, 2]
    side = p[1 if x < camera.position[0] else 0]
    _polygon(image, np.array([p[0, 1, 0], p[1, 1, 0], p[1, 1, 1], p[0, 1, 1]]), tone * 1.25)
    _polygon(image, np.array([side[0, 0], side[1, 0], side[1, 1], side[0, 1]]), tone * 0.6)
    _polygon(image, np.array([p[0, 0, 1], p[0, 1, 1], p[1, 1, 1], p[1, 0, 1]]), tone)


def _circle(radius_x: float, radius_y: float) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 28)
    return np.stack([np.cos(turn) * radius_x, np.sin(turn) * radius_y], 1)


def _disc(
    image: np.ndarray, camera: Camera, at: Sequence[float], radius: float, colour: np.ndarray,
    squash: float = 1.0,
) -> None:  # fmt: skip
    """A disc of some metres that faces the camera."""
    point, depth = camera.project(np.array(at))
    pixels = radius * camera.focal / float(depth)
    _polygon(image, _circle(pixels, pixels * squash) + point, colour)


def _props(
    image: np.ndarray, camera: Camera, wall: float, dark: bool, rng: np.random.Generator
) -> None:
    """Loudspeakers, plants, steps, columns and crates along the backdrop."""
    half = stage_width(camera, (image.shape[1], image.shape[0])) / 2 * 1.25
    dim = 0.55 if dark else 1.0
    for _ in range(rng.integers(0, 6)):
        x = float(rng.choice([-1, 1]) * rng.uniform(0.25, 1.05) * half)
        z = -wall + float(rng.uniform(0.3, 0.8))
        kind = rng.integers(5)
        if kind == 0:
            high = float(rng.uniform(0.9, 1.7))
            _box(image, camera, x, z, (0.6, high, 0.4), _rgb(0.10, 0.10, 0.11))
            for share, radius in ((0.28, 0.22), (0.62, 0.18), (0.86, 0.08)):
                _disc(image, camera, (x, high * share, z), radius, _rgb(0.2, 0.2, 0.21))
                _disc(image, camera, (x, high * share, z), radius / 2, _rgb(0.05, 0.05, 0.06))
        elif kind == 1:
            _box(image, camera, x, z, (0.34, 0.36, 0.3), _rgb(0.5, 0.3, 0.2) * dim)
            for _leaf in range(40):
                rise = rng.uniform(0, 1)
                at = (x + rng.normal(0, 0.06 + 0.2 * rise * (1.2 - rise)), 0.38 + 0.8 * rise, z)
                green = _rgb(*hsv(rng.uniform(0.25, 0.38), 0.6, rng.uniform(0.35, 0.6)))
                _disc(image, camera, at, rng.uniform(0.04, 0.09), green * dim, 0.6)
        elif kind == 2:
            tone = _rgb(*hsv(rng.uniform(0, 1), 0.2, 0.7)) * dim
            for step in range(3, 0, -1):
                _box(image, camera, x, z - 0.3 * step + 0.6, (1.5, 0.2 * step, 0.3), tone)
        elif kind == 3:
            tone = _rgb(0.85, 0.82, 0.76) * dim
            for k, share in enumerate(np.linspace(-1, 1, 7)):
                flute = tone * (0.95 - 0.3 * abs(share) - 0.06 * (k % 2))
                _box(image, camera, x + share * 0.14, z, (0.05, 3.6, 0.05), flute)
            _box(image, camera, x, z, (0.46, 0.2, 0.3), tone * 0.9)
        else:
            tone = _rgb(*hsv(rng.uniform(0, 1), rng.uniform(0.2, 0.7), 0.65)) * dim
            _box(image, camera, x, z, rng.uniform(0.35, 0.8, 3).tolist(), tone)


def _cone(
    haze: np.ndarray, camera: Camera, at: np.ndarray, radius: float, colour: Colour,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Light in the haze from a lamp over the image's upper edge to a pool on the floor.

    The haze is drawn at half the image's size.
    """
    height, width = haze.shape[:2]
    foot, depth = camera.project(at)
    foot = foot / 2
    spread = radius * camera.focal / float(depth) / 2
    lamp = np.array([foot[0] + rng.normal(0, 0.12) * width, -0.04 * height])
    cone = np.zeros((height, width), np.float32)
    for share, tone in ((1.0, 0.5), (0.6, 0.8), (0.3, 1.0)):  # brighter in the middle
        wide = np.array([spread * share, 0])
        source = np.array([2.0, 0])
        corners = np.array([lamp - source, lamp + source, foot + wide, foot - wide])
        _polygon(cone, corners, np.array([tone]))
    fall = np.clip(1 - (np.arange(height) - lamp[1]) / (foot[1] - lamp[1]), 0, 1) ** 0.8
    haze += 0.32 * _paint((cone * fall[:, None]).astype(np.float32), colour)
    _polygon(haze, lamp + _circle(9, 9) * width / 640, np.minimum(_rgb(*colour) + 0.6, 2))


def _crowd(camera: Camera, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Heads of the audience along the lower edge, under the feet of the first row of dancers."""
    width, height = size
    row = float(camera.project(np.array([0.0, 0.0, 1.0]))[0][1])
    cover = np.zeros((height, width), np.float32)
    head = height * rng.uniform(0.022, 0.04)
    x = -head
    while x < width + head:
        y = max(row + head * 1.2, height - head * 2.6) + head * rng.uniform(0, 0.9)
        _polygon(cover, _circle(0.8 * head, head) + (x, y), np.ones(1))
        _polygon(cover, _circle(1.9 * head, 1.5 * head) + (x, y + 2.4 * head), np.ones(1))
        x += head * rng.uniform(2.4, 4.5)
    return cv2.GaussianBlur(cover, (0, 0), 1.2 * width / 640)
