"""How StageDance is painted: shaded limbs with a depth buffer, in front of stages.

A limb is a tapered tube. Every pixel of it gets a normal, a depth and a place on the surface
(around, along), so that limbs cross correctly, light falls on them from a side, and cloth keeps its
pattern when the body turns. Colours are float32 RGB in 0..1 until an image is put together.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from jdance import skeleton
from jdance.stagedance.body import Body, Build, Camera

Colour = tuple[float, float, float]
# (angle around the axis from the front in radians, place along it 0..1, metres along it, beyond the
# ends too) -> RGB.
Paint = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

# Soft noise that makes cloth of flat colours; the same for everybody.
_CLOTH = np.random.default_rng(5).normal(0, 1, (64, 64)).astype(np.float32)
_CLOTH = cv2.GaussianBlur(_CLOTH, (0, 0), 1.6).astype(np.float32)
_CLOTH = _CLOTH / np.abs(_CLOTH).max()


@dataclass(frozen=True)
class Light:
    """The light on the dancers; directions are unit vectors (right, down, to the camera)."""

    ambient: Colour
    key: Colour
    direction: tuple[float, float, float]
    rim: Colour
    rim_direction: tuple[float, float, float]


@dataclass(frozen=True)
class Outfit:
    """What one dancer wears.

    Attributes:
        skin, hair, top, second, bottom, shoes: colours; `second` is that of the pattern.
        pattern: of the top (and the skirt): "plain", "stripes", "hoops", "checks", "dots", "sash".
        sleeve: 0 none .. 1 to the elbow .. 2 to the wrist.
        legs: how far trousers reach: 0 none .. 1 to the knee .. 2 to the ankle.
        skirt: length from the waist in shares of the leg, 0 for none.
        flare: how wide the skirt is at its hem.
        loose: extra thickness of the clothes, as a factor.
        haircut: "short", "bald", "bob", "long", "bun" or "tail".
        hat: its colour, or None.
    """

    skin: Colour
    hair: Colour
    top: Colour
    second: Colour
    bottom: Colour
    shoes: Colour
    pattern: str
    sleeve: float
    legs: float
    skirt: float
    flare: float
    loose: float
    haircut: str
    hat: Colour | None


@dataclass
class Layer:
    """One dancer's image, cut to its box: premultiplied colour, coverage and depth.

    Attributes:
        left, top: where it lies in the scene, in pixels; may be negative.
        colour: float32 [h, w, 3].
        cover: float32 [h, w].
        depth: float32 [h, w], in metres; infinite where nobody is.
    """

    left: int
    top: int
    colour: np.ndarray
    cover: np.ndarray
    depth: np.ndarray = field(repr=False)


class _Painter:
    """Draws the tubes of one dancer into one layer."""

    def __init__(self, camera: Camera, light: Light, layer: Layer):
        self.camera, self.light, self.layer = camera, light, layer

    def tube(
        self,
        start: np.ndarray,
        end: np.ndarray,
        radii: np.ndarray,
        paint: Paint | Colour,
        frame: np.ndarray | None = None,
        flatness: float = 1.0,
        cap: float = 1.0,
        shine: float = 0.0,
    ) -> None:
        """Draws a tube.

        Args:
            start, end: float [3], in metres.
            radii: float [K] half widths from start to end, in metres.
            paint: its colour.
            frame: float [3, 3], the part's axes (columns: left, up, front) where it has a front.
            flatness: depth over width, along the frame's front and left.
            cap: how blunt the ends are: 1 round, large flat.
            shine: strength of the highlight.
        """
        layer, light = self.layer, self.light
        ends, depths = self.camera.project(np.stack([start, end]))
        ends = ends - (layer.left, layer.top)
        scales = self.camera.focal / depths
        step = ends[1] - ends[0]
        length = max(float(np.hypot(*step)), 1e-3)
        ex, ey = step / length
        wide = thick = 1.0
        turn = 0.0
        if frame is not None:
            # The width and the thickness of the ellipse as the camera sees it.
            seen = self.camera.rotation @ frame
            across = np.array([-ey, ex, 0.0])
            lateral, front = across @ seen[:, 0], across @ seen[:, 2]
            wide = float(np.hypot(lateral, flatness * front))
            thick = float(np.hypot(seen[2, 0], flatness * seen[2, 2]))
            turn = float(np.arctan2(front, -seen[2, 2]))
        places = np.linspace(0, 1, 48)
        metres = np.interp(places, np.linspace(0, 1, len(radii)), radii).astype(np.float32)
        pixels = metres * (np.linspace(scales[0], scales[1], 48) * wide).astype(np.float32)

        # Only the box of the tube, with room for the shade around it.
        reach = float(pixels.max()) * 1.25 + 1
        height, width = layer.cover.shape
        x0, y0 = np.maximum(np.floor(ends.min(0) - reach).astype(int), 0)
        x1, y1 = np.minimum(np.ceil(ends.max(0) + reach).astype(int) + 1, (width, height))
        if x0 >= x1 or y0 >= y1:
            return
        dx = np.arange(x0, x1, dtype=np.float32)[None] - np.float32(ends[0, 0])
        dy = np.arange(y0, y1, dtype=np.float32)[:, None] - np.float32(ends[0, 1])
        along = dx * np.float32(ex) + dy * np.float32(ey)
        off = dy * np.float32(ex) - dx * np.float32(ey)
        inside = np.clip(along, 0, np.float32(length))
        over = (along - inside) * np.float32(cap)
        index = (inside * np.float32(47 / length)).astype(np.intp)
        radius = pixels[index]
        distance = np.sqrt(off * off + over * over)
        rows, columns = np.nonzero(distance < radius * 1.22 + 0.5)
        if not len(rows):
            return
        off, over, index = off[rows, columns], over[rows, columns], index[rows, columns]
        radius, distance = radius[rows, columns], distance[rows, columns]
        rows, columns = rows + y0, columns + x0

        u, v = off / radius, over / radius
        towards = np.sqrt(np.maximum(1 - u * u - v * v, 0))
        place = index * np.float32(1 / 47)
        depth = depths[0] + (depths[1] - depths[0]) * place - metres[index] * thick * towards
        behind = layer.depth[rows, columns]
        front_most = depth < behind
        alpha = np.clip(radius - distance + 0.5, 0, 1) * front_most

        nx, ny = v * ex - u * ey, v * ey + u * ex
        d, r = light.direction, light.rim_direction
        lit = np.maximum((nx * d[0] + ny * d[1] + towards * d[2] + 0.25) / 1.25, 0)
        edge = (1 - towards) ** 2 * np.maximum(nx * r[0] + ny * r[1] + 0.2, 0)
        shade = np.array(light.ambient, np.float32) + lit[:, None] * np.array(light.key, np.float32)
        if callable(paint):
            around = np.arcsin(np.clip(u, -1, 1)) - np.float32(turn)
            metres_along = place * np.float32(np.linalg.norm(end - start)) + v * metres[index]
            base = paint(around, place, metres_along)
        else:
            base = np.array(paint, np.float32)
        colour = base * shade + edge[:, None] * np.array(light.rim, np.float32)
        if shine:
            colour += (shine * lit**12)[:, None] * np.array(light.key, np.float32)

        # What lies close behind is a little darker around the tube.
        near = np.clip(1 - (distance - radius) / (0.22 * radius), 0, 1) * front_most
        near *= 1 - np.clip((behind - depth - 0.25) / 0.3, 0, 1)
        keep = (1 - alpha) * (1 - 0.38 * near)
        flat = rows * width + columns
        canvas = layer.colour.reshape(-1, 3)
        canvas[flat] = canvas[flat] * keep[:, None] + colour * alpha[:, None]
        cover = layer.cover.reshape(-1)
        cover[flat] = cover[flat] * (1 - alpha) + alpha
        layer.depth.reshape(-1)[flat] = np.where(alpha > 0.5, depth, behind)


def _woven(colour: Colour, second: Colour, pattern: str, rows: float) -> Paint:
    """Cloth: a pattern of two colours with soft folds."""
    one, two = np.array(colour, np.float32), np.array(second, np.float32)

    def paint(around: np.ndarray, place: np.ndarray, metres: np.ndarray) -> np.ndarray:
        if pattern == "stripes":
            mix = np.sin(around * 9) > 0.2
        elif pattern == "hoops":
            mix = np.sin(place * rows * 6.3) > 0.2
        elif pattern == "checks":
            mix = (np.sin(around * 7) > 0) ^ (np.sin(place * rows * 5) > 0)
        elif pattern == "dots":
            mix = np.sin(around * 8) * np.sin(place * rows * 7) > 0.45
        elif pattern == "sash":
            mix = np.abs(around * 0.45 + place - 0.5) < 0.13
        else:
            mix = np.zeros(len(around), bool)
        base = np.where(mix[:, None], two, one)
        fold = _CLOTH[(place * 40).astype(int) & 63, (around * 9 + 32).astype(int) & 63]
        return base * (1 + 0.16 * fold)[:, None]

    return paint


def _cut(at: float, above: Paint | Colour, below: Colour) -> Paint:
    """Cloth down to a share of a limb, and another colour beyond."""
    other = np.array(below, np.float32)

    def paint(around: np.ndarray, place: np.ndarray, metres: np.ndarray) -> np.ndarray:
        upper = above(around, place, metres) if callable(above) else np.array(above, np.float32)
        inside = np.clip((at - place) * 30, 0, 1)[:, None]
        return upper * inside + other * (1 - inside)

    return paint


def _face(outfit: Outfit, size: float) -> Paint:
    """Eyes, brows, mouth and the hairline, on a head drawn from its chin upward."""
    skin, hair = (np.array(c, np.float32) for c in (outfit.skin, outfit.hair))
    short = outfit.haircut in ("short", "bald", "bun", "tail")
    lips = skin * (0.80, 0.52, 0.50)

    def paint(around: np.ndarray, place: np.ndarray, metres: np.ndarray) -> np.ndarray:
        side = np.abs((around + np.pi) % (2 * np.pi) - np.pi)
        y = metres / size - 0.72  # half head widths over the eyes
        result = np.repeat(skin[None], len(y), 0)

        def put(colour: np.ndarray | Colour, strength: np.ndarray) -> None:
            strength = np.clip(strength, 0, 1)[:, None]
            result[:] = result * (1 - strength) + np.array(colour, np.float32) * strength

        put(skin * 0.86, 1.6 - np.hypot((side - 0.40) / 0.24, (y - 0.04) / 0.22) * 1.6)
        put((0.07, 0.05, 0.05), 2.2 - np.hypot((side - 0.40) / 0.17, (y - 0.02) / 0.13) * 2)
        put(hair * 0.7, 1.8 - np.hypot((side - 0.42) / 0.30, (y - 0.30) / 0.08) * 1.6)
        put(lips, 2 - np.hypot(side / 0.32, (y + 0.68) / 0.10) * 1.8)
        put(skin * 0.80, 1.5 - np.hypot(side / 0.16, (y + 0.34) / 0.09) * 1.5)
        if outfit.haircut != "bald":
            line = 0.70 - 0.25 * np.clip(side - 0.5, 0, 1)
            line = line - np.clip(side - (1.0 if short else 0.85), 0, 1) * (4.0 if short else 9.0)
            put(hair, (y - np.maximum(line, -0.75 if short else -9)) * 6)
        return result

    return paint


def _limb(radii: tuple[float, ...], girth: float) -> np.ndarray:
    return np.array(radii) * girth


def draw_dancer(body: Body, build: Build, outfit: Outfit, camera: Camera, light: Light,
                size: tuple[int, int]) -> Layer:  # fmt: skip
    """Paints one dancer.

    Args:
        body, build, outfit: who, and in what pose.
        camera, light: of the scene.
        size: width and height of the image; nothing outside it is painted.
    """
    hull, _ = camera.project(
        np.concatenate([body.joints, body.hands, body.heels, body.toes, [body.skull]])
    )
    # Wide enough for the head and for a skirt.
    _, depth = camera.project(body.joints[skeleton.NECK])
    margin = camera.focal / float(depth) * 0.32
    low = np.floor(np.maximum(hull.min(0) - margin, 0)).astype(int)
    high = np.ceil(np.minimum(hull.max(0) + margin, size)).astype(int)
    shape = tuple(np.maximum(high - low, 1)[::-1])
    layer = Layer(
        int(low[0]), int(low[1]), np.zeros((*shape, 3), np.float32), np.zeros(shape, np.float32),
        np.full(shape, np.inf, np.float32),
    )  # fmt: skip
    tube = _Painter(camera, light, layer).tube
    j, g = body.joints, build.girth
    up = body.chest[:, 1]
    skin = outfit.skin

    # The trunk, from the crotch to the shoulders.
    curve = build.curve
    hips = build.hip + 0.055 + 0.03 * curve
    waist = 0.138 - 0.022 * curve
    chest = build.shoulder - 0.022
    crotch = j[[skeleton.R_HIP, skeleton.L_HIP]].mean(0)
    top = _woven(outfit.top, outfit.second, outfit.pattern, 5)
    low_cloth = _woven(outfit.bottom, outfit.second, "plain", 3)
    belt = _cut(0.8, low_cloth, outfit.second)
    tube(
        crotch - body.pelvis[:, 1] * 0.03, body.waist, _limb((hips * 0.93, hips, waist), g), belt,
        body.pelvis, 0.74, cap=1.8,
    )  # fmt: skip
    collar = 0.5 + 0.35 * curve

    def shirt(around: np.ndarray, place: np.ndarray, metres: np.ndarray) -> np.ndarray:
        base = top(around, place, metres)
        opening = np.clip((place - 1.02 + 0.22 * collar - np.abs(around) * 0.28) * 25, 0, 1)
        return base * (1 - opening[:, None]) + np.array(skin, np.float32) * opening[:, None]

    shoulders = j[skeleton.NECK] - up * 0.02
    bust = chest * (1 - 0.06 * curve)
    tube(
        body.waist - body.pelvis[:, 1] * 0.05, shoulders,
        _limb((waist * 1.02, waist, bust, bust * 1.04, chest * 0.92, chest * 0.66), g), shirt,
        body.chest, 0.68, cap=1.5,
    )  # fmt: skip
    throat = body.skull - body.head[:, 1] * build.head * 0.75
    tube(shoulders, throat, _limb((0.066, 0.054, 0.052), g), skin)
    for i in range(2):
        slope = j[skeleton.L_SHOULDER if i else skeleton.R_SHOULDER]
        yoke: Paint | Colour = top if outfit.sleeve > 0 else skin
        tube(shoulders + up * 0.005, slope, _limb((0.054, 0.045), g), yoke)

    _draw_head(tube, body, build, outfit)
    for i in range(2):
        _draw_arm(tube, body, build, outfit, i)
        _draw_leg(tube, body, build, outfit, i)
    if outfit.skirt:
        _draw_skirt(tube, body, build, outfit, hips)
    return layer


def _draw_head(tube: Callable[..., None], body: Body, build: Build, outfit: Outfit) -> None:
    size, up, front = build.head, body.head[:, 1], body.head[:, 2]
    chin, crown = body.skull - up * size * 0.72, body.skull + up * size * 0.45
    tube(
        chin, crown, size * np.array([0.62, 0.84, 0.96, 1.0, 1.0, 0.97]), _face(outfit, size),
        body.head, 1.25,
    )  # fmt: skip
    nose = body.joints[skeleton.NOSE]
    tube(nose + (up * 0.9 - front * 0.35) * size * 0.4, nose - front * size * 0.12,
         size * np.array([0.10, 0.15, 0.19]), outfit.skin)  # fmt: skip
    for ear in (skeleton.R_EAR, skeleton.L_EAR):
        at = body.joints[ear] - front * size * 0.08
        if outfit.haircut in ("short", "bald", "bun", "tail"):
            tube(at + up * size * 0.2, at - up * size * 0.2, size * np.array([0.2, 0.15]),
                 outfit.skin)  # fmt: skip
    back = body.skull - front * size * 0.55
    if outfit.haircut == "bob":
        tube(back + up * size * 0.4, back - up * size * 0.75, size * np.array([1.0, 1.06, 1.08]),
             outfit.hair, body.head, 0.7, cap=2.0)  # fmt: skip
    elif outfit.haircut == "long":
        fall = body.joints[skeleton.NECK] - body.chest[:, 2] * 0.12 - body.chest[:, 1] * 0.13
        tube(back + up * size * 0.4, fall, size * np.array([1.0, 1.08, 1.05, 0.9, 0.5]),
             outfit.hair, body.head, 0.6)  # fmt: skip
    elif outfit.haircut == "bun":
        knot = body.skull + up * size * 1.15 - front * size * 0.75
        tube(knot, knot + up * size * 0.1, size * np.array([0.48, 0.45]), outfit.hair)
    elif outfit.haircut == "tail":
        root = body.skull + up * size * 0.55 - front * size * 1.2
        tip = root - np.array([0.0, 2.6, 0.0]) * size - front * size * 0.5
        tube(root, tip, size * np.array([0.34, 0.40, 0.36, 0.12]), outfit.hair)
    if outfit.hat is not None:
        rim = body.skull + up * size * 0.72
        tube(rim, rim + up * size * 0.45, size * np.array([1.08, 1.04, 0.9]), outfit.hat,
             body.head, 1.2, cap=1.6)  # fmt: skip
        tube(rim + front * size, rim + front * size * 1.7 - up * size * 0.15,
             size * np.array([0.6, 0.4]), outfit.hat, body.head, 0.2, cap=1.4)  # fmt: skip


def _draw_arm(tube: Callable[..., None], body: Body, build: Build, outfit: Outfit, i: int) -> None:
    start = skeleton.L_SHOULDER if i else skeleton.R_SHOULDER
    shoulder, elbow, wrist = body.joints[start : start + 3]
    g, skin, sleeve = build.girth, outfit.skin, outfit.sleeve
    cloth = _woven(outfit.top, outfit.second, "plain" if outfit.pattern == "sash" else
                   outfit.pattern, 3)  # fmt: skip
    thick = 1 + 0.4 * (outfit.loose - 1)
    upper = _cut(min(sleeve, 1.1), cloth, skin) if sleeve > 0 else skin
    tube(shoulder, elbow, _limb((0.046, 0.051, 0.049, 0.045, 0.041), g * thick), upper)
    lower = _cut(sleeve - 1, cloth, skin) if sleeve > 1 else skin
    cuff = thick * (1.15 if sleeve > 1.5 else 1)
    tube(elbow, wrist, _limb((0.041, 0.043, 0.037, 0.029 * cuff, 0.026 * cuff), g), lower)
    reach = body.hands[i] - wrist
    tube(wrist, wrist + reach * 0.85, _limb((0.024, 0.036, 0.040, 0.036, 0.022), g), skin)
    ahead = reach / max(np.linalg.norm(reach), 1e-6)
    inward = body.chest[:, 0] * (1 if i == 0 else -1)
    inward = inward - ahead * (inward @ ahead)
    inward /= max(np.linalg.norm(inward), 1e-6)
    tube(wrist + reach * 0.25, wrist + reach * 0.62 + inward * 0.042, _limb((0.016, 0.012), g),
         skin)  # fmt: skip


def _draw_leg(tube: Callable[..., None], body: Body, build: Build, outfit: Outfit, i: int) -> None:
    start = skeleton.L_HIP if i else skeleton.R_HIP
    hip, knee, ankle = body.joints[start : start + 3]
    g, skin, legs = build.girth, outfit.skin, outfit.legs
    loose = outfit.loose
    cloth = _woven(outfit.bottom, outfit.second, "plain", 4)
    thick = loose if legs >= 1 else 1.0
    if outfit.skirt:  # where a thigh lifts the skirt, it is the skirt that shows
        cloth = _woven(outfit.bottom, outfit.second, outfit.pattern, 4)
        legs = outfit.skirt * 2
    thigh = _limb((0.080, 0.083, 0.077, 0.067, 0.057), g * thick)
    tube(hip, knee, thigh, _cut(min(legs, 1.1), cloth, skin) if legs > 0 else skin)
    shin = np.array([0.057, 0.061, 0.055, 0.043, 0.036]) * g
    if outfit.legs > 1:
        shin *= np.linspace(loose, 1 + 2.2 * (loose - 1), 5)
    tube(knee, ankle, shin, _cut((legs - 1) * 0.98, cloth, skin) if legs > 1 else skin)
    heel, toe = body.heels[i], body.toes[i]
    shoe = outfit.shoes
    tube(heel, toe, np.array([0.036, 0.038, 0.040, 0.043, 0.034]), shoe, shine=0.25)
    tube(ankle, (heel + toe) / 2, _limb((0.037, 0.036), g), shoe)


def _draw_skirt(
    tube: Callable[..., None], body: Body, build: Build, outfit: Outfit, hips: float
) -> None:
    j = body.joints
    knees = j[[skeleton.R_KNEE, skeleton.L_KNEE]].mean(0)
    ankles = j[[skeleton.R_ANKLE, skeleton.L_ANKLE]]
    middle = ankles.mean(0)
    share = outfit.skirt
    belt = body.waist - body.pelvis[:, 1] * 0.03
    # Down to the knees with them, then hanging.
    hem = belt + (knees - belt) * min(share * 2, 1) + (middle - knees) * max(share * 2 - 1, 0)
    apart = float(np.linalg.norm(ankles[0] - ankles[1])) / 2
    hips = max(hips, build.hip + 0.085)
    width = max(hips * 1.1 + outfit.flare, apart * share * 0.9 + 0.06)
    waist = 0.136 - 0.020 * build.curve
    cloth = _woven(outfit.bottom, outfit.second, outfit.pattern, 4)

    def folds(around: np.ndarray, place: np.ndarray, metres: np.ndarray) -> np.ndarray:
        drape = 1 + 0.16 * place * np.sin(around * 11 + np.sin(around * 3.7) * 1.5)
        return cloth(around, place, metres) * drape[:, None]

    profile = np.array([waist, hips * 1.05, hips * 1.08 + (width - hips) * 0.5, width])
    tube(belt, hem, profile * build.girth, folds, body.pelvis, 0.85, cap=5.0)


_SKINS = ((0.96, 0.80, 0.69), (0.90, 0.71, 0.57), (0.78, 0.58, 0.43), (0.60, 0.41, 0.29),
          (0.44, 0.29, 0.21))  # fmt: skip
_HAIRS = ((0.07, 0.06, 0.06), (0.20, 0.12, 0.08), (0.40, 0.25, 0.14), (0.75, 0.58, 0.32),
          (0.50, 0.20, 0.10), (0.60, 0.60, 0.62))  # fmt: skip
_PATTERNS = ("plain", "plain", "plain", "stripes", "hoops", "checks", "dots", "sash")
_HAIRCUTS = ("short", "short", "bald", "bob", "long", "bun", "tail", "long")


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """HSV, all 0..1, to RGB."""
    wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    red, green, blue = value * (1 - saturation * (1 - wheel))
    return float(red), float(green), float(blue)


def random_outfit(rng: np.random.Generator, clothes: Outfit | None = None) -> Outfit:
    """Clothes, hair and skin; with `clothes`, those of a troupe dressed alike."""
    skin = _SKINS[rng.integers(len(_SKINS))]
    hair = _HAIRS[rng.integers(len(_HAIRS))]
    haircut = str(rng.choice(_HAIRCUTS))
    if clothes is not None:
        return replace(clothes, skin=skin, hair=hair, haircut=haircut)
    hue = rng.uniform(0, 1)
    light, dark = rng.uniform(0.55, 0.98), rng.uniform(0.12, 0.75)
    skirted = rng.random() < 0.4
    hat = hsv(rng.uniform(0, 1), rng.uniform(0, 0.8), rng.uniform(0.15, 0.9))
    return Outfit(
        skin=skin,
        hair=hair,
        top=hsv(hue, rng.uniform(0, 0.85), light),
        second=hsv((hue + rng.uniform(0.2, 0.8)) % 1, rng.uniform(0, 0.9), rng.uniform(0.15, 1)),
        bottom=hsv((hue + rng.choice([0, 0.1, 0.5])) % 1, rng.uniform(0, 0.8), dark),
        shoes=hsv(rng.uniform(0, 1), rng.uniform(0, 0.7), rng.uniform(0.1, 0.9)),
        pattern=str(rng.choice(_PATTERNS)),
        sleeve=float(rng.choice([0, 0.45, 0.8, 1.5, 2.0])),
        legs=float(rng.choice([0, 0.4] if skirted else [0.75, 1.3, 1.92, 1.96, 2.0])),
        skirt=float(rng.uniform(0.35, 0.95)) if skirted else 0.0,
        flare=float(rng.uniform(0.02, 0.16)),
        loose=float(rng.uniform(1.0, 1.3)),
        haircut=haircut,
        hat=hat if rng.random() < 0.15 else None,
    )
