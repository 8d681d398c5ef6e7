"""Colors and lights of StageDance."""

from dataclasses import dataclass

import numpy as np

Color = tuple[float, float, float]  # RGB in 0..1


def hsv(hue: float, saturation: float, value: float) -> Color:
    """Converts HSV (each 0..1) to RGB."""
    wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    red, green, blue = value * (1 - saturation * (1 - wheel))
    return float(red), float(green), float(blue)


def rgb(red: float, green: float, blue: float) -> np.ndarray:
    """A color as a float32 array [3]."""
    return np.array([red, green, blue], np.float32)


@dataclass(frozen=True)
class Light:
    """Ambient, key and rim light; directions are unit vectors (right, down, to the camera)."""

    ambient: Color
    key: Color
    direction: tuple[float, float, float]
    rim: Color
    rim_direction: tuple[float, float, float]


def random_light(lamps: list[Color], dark: bool, rng: np.random.Generator) -> Light:
    """Draws the dancers' light, tinted by the lamps on dark stages."""
    side = rng.uniform(-1, 1)
    key = np.array([side, -rng.uniform(0.35, 0.9), rng.uniform(0.5, 1.0)])
    rim = np.array([-np.sign(side) * rng.uniform(0.4, 1), -rng.uniform(0.1, 0.8), 0])
    tint = np.array(lamps[0]) * 0.25 + 0.75 if dark else np.array([1.0, 0.97, 0.92])
    ambient = np.array(lamps[-1]) * 0.12 + 0.22 if dark else rgb(0.40, 0.42, 0.46)
    edge = np.array(lamps[len(lamps) // 2]) * (rng.uniform(0.5, 1.0) if dark else 0.25)
    return Light(
        ambient=tuple(ambient * rng.uniform(0.9, 1.25)),
        key=tuple(tint * (rng.uniform(0.75, 1.0) if dark else rng.uniform(0.6, 0.75))),
        direction=tuple(key / np.linalg.norm(key)),
        rim=tuple(edge),
        rim_direction=tuple(rim / np.linalg.norm(rim)),
    )


def random_lamp(rng: np.random.Generator, dark: bool) -> Color:
    """Draws a lamp's color: warm white, or any hue on dark stages."""
    if not dark or rng.random() < 0.35:
        return (1.0, 0.92, 0.75)
    return hsv(float(rng.uniform(0, 1)), 0.7, 1.0)
