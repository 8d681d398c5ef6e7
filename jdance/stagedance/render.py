"""Software renderer of StageDance: shaded limbs with a depth buffer.

A limb is a tapered tube. Every pixel has a normal, a depth and surface coordinates (around, along),
so that limbs occlude each other, are lit from one side, and keep their pattern when the body turns.
Colors are float32 RGB in 0..1.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from jdance import skeleton
from jdance.stagedance.body import Body, Build
from jdance.stagedance.camera import Camera
from jdance.stagedance.clothes import Outfit, Paint, cut_off, face, woven
from jdance.stagedance.lighting import Color, Light


@dataclass
class Layer:
    """One dancer's rendered bounding box.

    Attributes:
        left, top: position in the scene, in pixels.
        color: float32 [h, w, 3], premultiplied by the coverage.
        coverage: float32 [h, w].
        depth: float32 [h, w], in meters; infinite where nothing is drawn.
    """

    left: int
    top: int
    color: np.ndarray
    coverage: np.ndarray
    depth: np.ndarray = field(repr=False)


class _Painter:
    """Draws tubes into the layer of one dancer."""

    def __init__(self, camera: Camera, light: Light, layer: Layer):
        self.camera, self.light, self.layer = camera, light, layer

    def tube(
        self,
        start: np.ndarray,
        end: np.ndarray,
        radii: np.ndarray,
        paint: Paint | Color,
        frame: np.ndarray | None = None,
        flatness: float = 1.0,
        cap: float = 1.0,
        shine: float = 0.0,
    ) -> None:
        """Draws a tube.

        Args:
            start, end: float [3], in meters.
            radii: half widths from start to end, float [K] in meters.
            paint: color, constant or by surface coordinates.
            frame: body part axes (columns: left, up, front), float [3, 3]; None: a round tube.
            flatness: ratio of depth to width, along the frame's front and left.
            cap: bluntness of the ends; 1 is round, larger is flatter.
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
            # Apparent width and thickness of the elliptical cross-section.
            seen = self.camera.rotation @ frame
            across = np.array([-ey, ex, 0.0])
            lateral, front = across @ seen[:, 0], across @ seen[:, 2]
            wide = float(np.hypot(lateral, flatness * front))
            thick = float(np.hypot(seen[2, 0], flatness * seen[2, 2]))
            turn = float(np.arctan2(front, -seen[2, 2]))
        positions = np.linspace(0, 1, 48)
        meters = np.interp(positions, np.linspace(0, 1, len(radii)), radii).astype(np.float32)
        pixels = meters * (np.linspace(scales[0], scales[1], 48) * wide).astype(np.float32)

        # Bounding box of the tube and the shade around it.
        reach = float(pixels.max()) * 1.25 + 1
        height, width = layer.coverage.shape
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
        position = index * np.float32(1 / 47)
        depth = depths[0] + (depths[1] - depths[0]) * position - meters[index] * thick * towards
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
            meters_along = position * np.float32(np.linalg.norm(end - start)) + v * meters[index]
            base = paint(around, position, meters_along)
        else:
            base = np.array(paint, np.float32)
        color = base * shade + edge[:, None] * np.array(light.rim, np.float32)
        if shine:
            color += (shine * lit**12)[:, None] * np.array(light.key, np.float32)

        # Ambient occlusion: surfaces close behind the tube are darker around it.
        near = np.clip(1 - (distance - radius) / (0.22 * radius), 0, 1) * front_most
        near *= 1 - np.clip((behind - depth - 0.25) / 0.3, 0, 1)
        keep = (1 - alpha) * (1 - 0.38 * near)
        flat = rows * width + columns
        canvas = layer.color.reshape(-1, 3)
        canvas[flat] = canvas[flat] * keep[:, None] + color * alpha[:, None]
        coverage = layer.coverage.reshape(-1)
        coverage[flat] = coverage[flat] * (1 - alpha) + alpha
        layer.depth.reshape(-1)[flat] = np.where(alpha > 0.5, depth, behind)


def _limb(radii: tuple[float, ...], girth: float) -> np.ndarray:
    return np.array(radii) * girth


def draw_dancer(body: Body, build: Build, outfit: Outfit, camera: Camera, light: Light,
                size: tuple[int, int]) -> Layer:  # fmt: skip
    """Renders one dancer.

    Args:
        body, build, outfit: posed joints, proportions and clothes.
        camera, light: of the scene.
        size: width and height of the image in pixels.
    """
    hull, _ = camera.project(
        np.concatenate([body.joints, body.hands, body.heels, body.toes, [body.skull]])
    )
    # The margin leaves room for the head and a skirt.
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
    top = woven(outfit.top, outfit.second, outfit.pattern, 5)
    low_cloth = woven(outfit.bottom, outfit.second, "plain", 3)
    belt = cut_off(0.8, low_cloth, outfit.second)
    tube(
        crotch - body.pelvis[:, 1] * 0.03, body.waist, _limb((hips * 0.93, hips, waist), g), belt,
        body.pelvis, 0.74, cap=1.8,
    )  # fmt: skip
    collar = 0.5 + 0.35 * curve

    def shirt(around: np.ndarray, position: np.ndarray, meters: np.ndarray) -> np.ndarray:
        base = top(around, position, meters)
        opening = np.clip((position - 1.02 + 0.22 * collar - np.abs(around) * 0.28) * 25, 0, 1)
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
        yoke: Paint | Color = top if outfit.sleeve > 0 else skin
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
        chin, crown, size * np.array([0.62, 0.84, 0.96, 1.0, 1.0, 0.97]), face(outfit, size),
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
    cloth = woven(outfit.top, outfit.second, "plain" if outfit.pattern == "sash" else
                   outfit.pattern, 3)  # fmt: skip
    thick = 1 + 0.4 * (outfit.loose - 1)
    upper = cut_off(min(sleeve, 1.1), cloth, skin) if sleeve > 0 else skin
    tube(shoulder, elbow, _limb((0.046, 0.051, 0.049, 0.045, 0.041), g * thick), upper)
    lower = cut_off(sleeve - 1, cloth, skin) if sleeve > 1 else skin
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
    cloth = woven(outfit.bottom, outfit.second, "plain", 4)
    thick = loose if legs >= 1 else 1.0
    if outfit.skirt:  # a raised thigh shows the skirt
        cloth = woven(outfit.bottom, outfit.second, outfit.pattern, 4)
        legs = outfit.skirt * 2
    thigh = _limb((0.080, 0.083, 0.077, 0.067, 0.057), g * thick)
    tube(hip, knee, thigh, cut_off(min(legs, 1.1), cloth, skin) if legs > 0 else skin)
    shin = np.array([0.057, 0.061, 0.055, 0.043, 0.036]) * g
    if outfit.legs > 1:
        shin *= np.linspace(loose, 1 + 2.2 * (loose - 1), 5)
    tube(knee, ankle, shin, cut_off((legs - 1) * 0.98, cloth, skin) if legs > 1 else skin)
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
    length = outfit.skirt
    belt = body.waist - body.pelvis[:, 1] * 0.03
    # Follows the thighs down to the knees, then hangs.
    hem = belt + (knees - belt) * min(length * 2, 1) + (middle - knees) * max(length * 2 - 1, 0)
    apart = float(np.linalg.norm(ankles[0] - ankles[1])) / 2
    hips = max(hips, build.hip + 0.085)
    width = max(hips * 1.1 + outfit.flare, apart * length * 0.9 + 0.06)
    waist = 0.136 - 0.020 * build.curve
    cloth = woven(outfit.bottom, outfit.second, outfit.pattern, 4)

    def folds(around: np.ndarray, position: np.ndarray, meters: np.ndarray) -> np.ndarray:
        drape = 1 + 0.16 * position * np.sin(around * 11 + np.sin(around * 3.7) * 1.5)
        return cloth(around, position, meters) * drape[:, None]

    profile = np.array([waist, hips * 1.05, hips * 1.08 + (width - hips) * 0.5, width])
    tube(belt, hem, profile * build.girth, folds, body.pelvis, 0.85, cap=5.0)
