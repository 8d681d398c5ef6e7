"""Skin, hair and clothes of the dancers of StageDance, and how they are painted on limbs."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from jdance.stagedance.lighting import Color, hsv

# Surface coordinates -> RGB [N, 3]: angle around the limb's axis from the front in radians, and
# position along it relative to its length and in meters (also beyond the ends).
Paint = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

# Smooth noise for folds, shared by all clothes.
_CLOTH = np.random.default_rng(5).normal(0, 1, (64, 64)).astype(np.float32)
_CLOTH = cv2.GaussianBlur(_CLOTH, (0, 0), 1.6).astype(np.float32)
_CLOTH = _CLOTH / np.abs(_CLOTH).max()


@dataclass(frozen=True)
class Outfit:
    """Appearance of one dancer.

    Attributes:
        skin, hair, top, second, bottom, shoes: colors; `second` is the pattern's second color.
        pattern: of the top and the skirt: "plain", "stripes", "hoops", "checks", "dots", "sash".
        sleeve: sleeve length; 0 none, 1 to the elbow, 2 to the wrist.
        legs: trouser length; 0 none, 1 to the knee, 2 to the ankle.
        skirt: skirt length from the waist as a fraction of the leg; 0 none.
        flare: extra width of the skirt's hem in meters.
        loose: thickness of the clothes as a factor of the body's.
        haircut: "short", "bald", "bob", "long", "bun" or "tail".
        hat: its color, or None.
    """

    skin: Color
    hair: Color
    top: Color
    second: Color
    bottom: Color
    shoes: Color
    pattern: str
    sleeve: float
    legs: float
    skirt: float
    flare: float
    loose: float
    haircut: str
    hat: Color | None


def woven(color: Color, second: Color, pattern: str, rows: float) -> Paint:
    """Cloth with a pattern of two colors and soft folds; `rows` scales the pattern along a limb."""
    one, two = np.array(color, np.float32), np.array(second, np.float32)

    def paint(around: np.ndarray, position: np.ndarray, meters: np.ndarray) -> np.ndarray:
        if pattern == "stripes":
            mix = np.sin(around * 9) > 0.2
        elif pattern == "hoops":
            mix = np.sin(position * rows * 6.3) > 0.2
        elif pattern == "checks":
            mix = (np.sin(around * 7) > 0) ^ (np.sin(position * rows * 5) > 0)
        elif pattern == "dots":
            mix = np.sin(around * 8) * np.sin(position * rows * 7) > 0.45
        elif pattern == "sash":
            mix = np.abs(around * 0.45 + position - 0.5) < 0.13
        else:
            mix = np.zeros(len(around), bool)
        base = np.where(mix[:, None], two, one)
        fold = _CLOTH[(position * 40).astype(int) & 63, (around * 9 + 32).astype(int) & 63]
        return base * (1 + 0.16 * fold)[:, None]

    return paint


def cut_off(at: float, above: Paint | Color, below: Color) -> Paint:
    """`above` up to position `at` (0..1) of a limb, then the color `below`."""
    other = np.array(below, np.float32)

    def paint(around: np.ndarray, position: np.ndarray, meters: np.ndarray) -> np.ndarray:
        upper = above(around, position, meters) if callable(above) else np.array(above, np.float32)
        inside = np.clip((at - position) * 30, 0, 1)[:, None]
        return upper * inside + other * (1 - inside)

    return paint


def face(outfit: Outfit, size: float) -> Paint:
    """Eyes, brows, mouth and hairline of a head that is drawn from the chin up.

    `size` is half the width of the head in meters.
    """
    skin, hair = (np.array(c, np.float32) for c in (outfit.skin, outfit.hair))
    short = outfit.haircut in ("short", "bald", "bun", "tail")
    lips = skin * (0.80, 0.52, 0.50)

    def paint(around: np.ndarray, position: np.ndarray, meters: np.ndarray) -> np.ndarray:
        side = np.abs((around + np.pi) % (2 * np.pi) - np.pi)
        y = meters / size - 0.72  # half head widths above the eyes
        result = np.repeat(skin[None], len(y), 0)

        def put(color: np.ndarray | Color, strength: np.ndarray) -> None:
            strength = np.clip(strength, 0, 1)[:, None]
            result[:] = result * (1 - strength) + np.array(color, np.float32) * strength

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


_SKINS = ((0.96, 0.80, 0.69), (0.90, 0.71, 0.57), (0.78, 0.58, 0.43), (0.60, 0.41, 0.29),
          (0.44, 0.29, 0.21))  # fmt: skip
_HAIRS = ((0.07, 0.06, 0.06), (0.20, 0.12, 0.08), (0.40, 0.25, 0.14), (0.75, 0.58, 0.32),
          (0.50, 0.20, 0.10), (0.60, 0.60, 0.62))  # fmt: skip
_PATTERNS = ("plain", "plain", "plain", "stripes", "hoops", "checks", "dots", "sash")
_HAIRCUTS = ("short", "short", "bald", "bob", "long", "bun", "tail", "long")


def random_outfit(rng: np.random.Generator, clothes: Outfit | None = None) -> Outfit:
    """Draws an outfit; skin, hair and haircut alone if the troupe wears the same `clothes`."""
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
