"""Empty stages of StageDance: floor, backdrop, props, lamps and crowd.

Every pixel is traced to a point on the floor (y = 0) or on the backdrop (a plane behind the
dancers), so that floor boards, curtains and pools of light agree with the camera. Colors are
float32 RGB in 0..1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from jdance.stagedance.camera import Camera, random_camera, trace_pixels
from jdance.stagedance.lighting import Light, hsv, random_lamp, random_light, rgb
from jdance.stagedance.props import draw_crowd, draw_light_cone, draw_props, tint

_DARK = ("theater", "concert", "city", "arena")


@dataclass(frozen=True)
class Stage:
    """An empty stage with everything that is needed to add dancers.

    Attributes:
        kind: one of KINDS.
        camera, light: shared by all scenes of a group.
        backdrop: uint8 [H, W, 3], the image without dancers.
        haze: uint8 [H, W, 3], light cones to add over the dancers.
        crowd: float32 [H, W], coverage by the silhouettes of the audience.
        gloss: reflectivity of the floor.
        shade: darkness of the shadows, 0..1.
        grain: int16 [H, W, 1], camera noise.
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
    """Draws a stage with room for `troupe` dancers; `size` is width and height in pixels."""
    width, height = size
    camera = random_camera(rng, troupe, size)
    kind = KINDS[rng.integers(len(KINDS))]
    dark = kind in _DARK
    wall = float(rng.uniform(2.2, 4.0))
    x, y, z, is_floor = trace_pixels(camera, wall, size)

    floor, backdrop = _floor(x, z, kind, rng), _BACKDROPS[kind](x, y, rng)
    image = np.where(is_floor[..., None], floor, backdrop).astype(np.float32)
    # Darker where the floor meets the backdrop.
    image *= (1 - 0.35 * np.exp(-((np.where(is_floor, (z + wall) * 0.8, y) / 0.35) ** 2)))[
        ..., None
    ]
    draw_props(image, camera, wall, dark, rng)

    lamps = [random_lamp(rng, dark) for _ in range(rng.integers(3, 7))]
    pools = np.zeros_like(image)
    haze = np.zeros((height // 2, width // 2, 3), np.float32)
    for k, color in enumerate(lamps):
        at = np.array([(k + 0.5) / len(lamps) * 2 - 1, 0, 0]) * camera.stage_width(width) * 0.45
        at += [rng.normal(0, 0.3), 0, rng.uniform(-1.1, 0.6)]
        radius = rng.uniform(0.6, 1.2)
        near = ((x - at[0]) ** 2 + (z - at[2]) ** 2) / radius**2
        pool = np.where(is_floor, 1 / (1 + np.exp((np.sqrt(near) - 1) * 7)), 0)
        pools += pool[..., None].astype(np.float32) * np.array(color, np.float32)
        draw_light_cone(haze, camera, at, radius, color, rng)
    strength = rng.uniform(0.35, 0.6) if dark else rng.uniform(0.05, 0.15)
    image *= 1 + 1.6 * strength * pools
    image += 0.28 * strength * pools
    blurred = cv2.GaussianBlur(haze, (0, 0), 5 * width / 640)
    haze = np.asarray(cv2.resize(blurred, size), np.float32)
    haze *= rng.uniform(0.6, 1.0) if dark else rng.uniform(0.0, 0.12)
    image += haze * 0.75
    center = np.hypot(
        (np.arange(width) - width / 2)[None] / width,
        (np.arange(height) - height / 2)[:, None] / height,
    )
    image *= (1 - (0.75 if dark else 0.35) * np.maximum(center - 0.25, 0))[..., None]

    crowd = np.zeros((height, width), np.float32)
    if rng.random() < 0.45:
        crowd = draw_crowd(camera, size, rng)
    return Stage(
        kind=kind,
        camera=camera,
        light=random_light(lamps, dark, rng),
        backdrop=_to_uint8(image),
        haze=_to_uint8(haze * 0.35),
        crowd=crowd,
        gloss=float(rng.uniform(0.0, 0.12) if kind == "open_air" else rng.uniform(0.05, 0.4)),
        shade=float(rng.uniform(0.45, 0.7)),
        grain=rng.normal(0, rng.uniform(0.5, 3.5), (height, width, 1)).astype(np.int16),
    )


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def _tones(index: np.ndarray, rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Draws a tone for each integer (modulo 256)."""
    return rng.uniform(low, high, 256).astype(np.float32)[index.astype(int) & 255]


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], cells: tuple[int, int]) -> np.ndarray:
    """Draws smooth noise in 0..1, interpolated from `cells` (rows, columns) values."""
    coarse = rng.uniform(0, 1, cells).astype(np.float32)
    return np.clip(cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC), 0, 1)


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
    return tint(tone, hue)


def _theater(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Curtain with a valance."""
    hue = rng.choice([0.98, 0.0, 0.6, 0.75, 0.45, 0.1])
    wide = rng.uniform(0.25, 0.5)
    phase = x / wide * 2 * np.pi + 0.9 * np.sin(x * 1.9 + rng.uniform(0, 6)) + 0.15 * np.sin(y * 2)
    fold = 0.5 + 0.5 * np.sin(phase)
    tone = 0.28 + 0.72 * fold**1.4
    tone *= 0.75 + 0.25 * np.clip(y / 2, 0, 1)
    result = tint(tone, hsv(float(hue) % 1, 0.85, 0.5))
    bottom = rng.uniform(2.5, 3.1)
    swag = bottom - 0.28 * np.abs(np.sin(np.pi * x / 1.3))
    gold = np.abs(y - swag) < 0.05
    result = np.where(
        (y > swag)[..., None], tint(0.5 + 0.5 * fold, hsv(float(hue) % 1, 0.85, 0.38)), result
    )
    return np.where(gold[..., None], tint(0.6 + 0.4 * fold, (0.85, 0.65, 0.2)), result)


def _concert(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light wall of bars, squares or rays."""
    style = rng.integers(3)
    hue = rng.uniform(0, 1)
    one, two = (rgb(*hsv((hue + d) % 1, 0.75, 0.8)) for d in (0, rng.uniform(0.08, 0.4)))
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
    """Sky, clouds, hills, trees, a railing and bunting."""
    rise = np.clip(y / 4, 0, 1)[..., None]
    sky = rgb(*hsv(rng.uniform(0.54, 0.6), rng.uniform(0.35, 0.6), 0.95))
    result = (1 - rise) * rgb(0.88, 0.92, 0.95) + rise * sky
    cloud = _smooth(rng, x.shape, (6, 5)) * 0.6 + _smooth(rng, x.shape, (16, 12)) * 0.4
    result += (np.clip((cloud - 0.5) * 3, 0, 1) * np.clip(y - 1, 0, 1))[..., None] * (0.98 - result)
    for k in range(2):  # hills, the distance one paler
        ridge = 1.5 - 0.45 * k + 0.28 * np.sin(x * (0.6 + 0.5 * k) + rng.uniform(0, 6))
        ridge = ridge + 0.12 * np.sin(x * 2.1 + rng.uniform(0, 6))
        green = rgb(*hsv(rng.uniform(0.25, 0.38), 0.35 + 0.15 * k, 0.62 - 0.14 * k))
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
        crown, tint(0.55 + 0.5 * leaf, hsv(rng.uniform(0.24, 0.36), 0.6, 0.5)), result
    )
    rail = (np.abs(y - 0.72) < 0.035) | ((y < 0.72) & ((x / 0.9) % 1 < 0.07))
    result = np.where(rail[..., None], rgb(0.82, 0.8, 0.76), result)
    string = rng.uniform(2.3, 2.9) - 0.22 * np.cos(x * 0.9)
    i = np.floor(x / 0.32)
    inside = np.abs(x / 0.32 - i - 0.5) < 0.42 * np.clip(1 - (string - y) / 0.3, 0, 1)
    flag = inside & (y < string)
    hues = np.array([hsv(h, 0.7, 0.9) for h in rng.uniform(0, 1, 4)], np.float32)[i.astype(int) & 3]
    return np.where(flag[..., None], hues, result)


def _hall(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rehearsal hall: a wall with tall windows or mirrors, and a barre."""
    wall = rgb(*hsv(rng.uniform(0, 1), rng.uniform(0.05, 0.28), rng.uniform(0.6, 0.88)))
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
    result = np.where(pane[..., None], tint(glow, glass), result)
    result = np.where(bars[..., None], wall * 0.5, result)
    skirting = y < 0.16
    result = np.where(skirting[..., None], wall * 0.5, result)
    barre = np.abs(y - 1.02) < 0.022
    return np.where(barre[..., None], rgb(0.5, 0.34, 0.2), result)


def _city(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """City at night: moon, stars, and a skyline with lit windows."""
    hue = rng.uniform(0.58, 0.82)
    rise = np.clip(y / 4, 0, 1)[..., None]
    result = (1 - rise) * rgb(*hsv(hue + 0.12, 0.6, 0.45)) + rise * np.array(hsv(hue, 0.8, 0.14))
    a, b = np.floor(x / 0.025), np.floor(y / 0.025)
    star = _tones(a * 31 + np.floor(b * 1.7) * 57 + a * b, rng, 0, 1) > 0.994
    result += (star * _tones(a + b, rng, 0.2, 0.8))[..., None]
    distance = np.hypot(x - rng.uniform(-2, 2), y - rng.uniform(2.0, 2.9))
    size = rng.uniform(0.25, 0.5)
    moon = np.clip((size - distance) * 40, 0, 1)[..., None]
    result = result * (1 - moon) + moon * rgb(0.98, 0.95, 0.8)
    result += np.exp(-((distance / (size * 2)) ** 2))[..., None] * 0.22
    for k in range(2):
        wide = rng.uniform(0.5, 0.9)
        i = np.floor(x / wide)
        roof = _tones(i + 40 * k, rng, 0.9, 2.5 - 0.7 * k)
        house = (y < roof)[..., None]
        result = np.where(house, rgb(*hsv(hue, 0.5, 0.16 - 0.06 * k)), result)
        a, b = np.floor(x / 0.14), np.floor(y / 0.18)
        pane = (np.abs(x / 0.14 - a - 0.5) < 0.28) & (np.abs(y / 0.18 - b - 0.5) < 0.3)
        lit = pane & (_tones(a * 17 + b * 29 + k, rng, 0, 1) > 0.72) & (y < roof - 0.1)
        result = np.where(lit[..., None], rgb(0.95, 0.78, 0.4), result)
    return result


def _arena(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Audience in rising rows behind the stage."""
    hue = rng.uniform(0, 1)
    row = np.floor(y / 0.42)
    shift = x / 0.5 + 0.5 * (row % 2) + _tones(row, rng, 0, 1)
    i = np.floor(shift)
    person = i * 11 + row * 53
    dx, dy = (shift - i - 0.5) * 0.5 - _tones(person + 3, rng, -0.08, 0.08), y - row * 0.42
    head = np.hypot(dx, dy - 0.27 - _tones(person + 7, rng, -0.05, 0.05)) < 0.085
    trunk = (np.abs(dx) < 0.17 - 0.1 * np.clip(dy - 0.1, 0, 1)) & (dy < 0.2)
    clothes = rng.uniform(0.15, 0.8, (256, 3)).astype(np.float32)[person.astype(int) & 255]
    result = np.zeros((*x.shape, 3), np.float32) + rgb(*hsv(hue, 0.4, 0.14))
    result = np.where(trunk[..., None], clothes * 0.55, result)
    tone = _tones(person + 11, rng, 0.35, 0.75)
    result = np.where(head[..., None], tint(tone, (0.85, 0.62, 0.5)), result)
    haze = rgb(*hsv(hue, 0.35, 0.9))
    result = cv2.GaussianBlur(result, (0, 0), 1.5) * haze * 0.62
    edge = rgb(*hsv(rng.uniform(0, 1), 0.6, 0.35))
    return np.where((y < 0.62)[..., None], edge * (0.7 + 0.5 * np.abs(y - 0.31))[..., None], result)


def _studio(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Plain wall with large painted shapes."""
    hue = rng.uniform(0, 1)
    base = rgb(*hsv(hue, rng.uniform(0.15, 0.55), rng.uniform(0.6, 0.9)))
    result = base * (0.75 + 0.25 * np.clip(y / 3, 0, 1))[..., None]
    for _ in range(rng.integers(2, 6)):
        distance = np.hypot(x - rng.uniform(-3, 3), y - rng.uniform(0.3, 3))
        radius = rng.uniform(0.3, 1.1)
        ring = (distance < radius) & ((distance > radius * 0.7) | (rng.random() < 0.5))
        shape = rgb(*hsv((hue + rng.uniform(-0.2, 0.5)) % 1, 0.5, 0.85))
        result = np.where(ring[..., None], result * 0.35 + shape * 0.65, result)
    return result


# Backdrop coordinates x, y [H, W] in meters and an rng -> RGB [H, W, 3].
_BACKDROPS: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]] = {
    "theater": _theater, "concert": _concert, "open_air": _open_air, "hall": _hall,
    "city": _city, "arena": _arena, "studio": _studio,
}  # fmt: skip
KINDS = tuple(_BACKDROPS)
