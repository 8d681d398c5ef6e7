"""How many frames a second the whole way from an image to everybody's motion takes."""

import os
import time
from collections.abc import Sequence

import jax
import numpy as np

from jdance import skeleton
from jdance.recognize.recognizer import Recognizer
from jdance.stagedance import stage

PEOPLE = (1, 5, 20)
_SECONDS, _LEAST = 3.0, 3  # of measuring, and repetitions


def frames_per_second(recognizer: Recognizer, people: Sequence[int] = PEOPLE) -> dict[str, float]:
    """Frames of 640 x 480 a second, one at a time, by the number of people in them.

    With an estimator the pose network and the decode are part of it; the people whose motions are
    then named are known ones all the same, so that their number is certain.
    """
    scene = stage.render_scene(0, 0, 0)
    person = np.ones((skeleton.NUM_JOINTS, 3), np.float32)
    person[:, :2] = np.random.default_rng(0).uniform(0, 100, (skeleton.NUM_JOINTS, 2))
    result = {}
    for count in people:
        group = np.tile(person, (count, 1, 1))
        group[:, :, 0] += np.linspace(0, scene.image.shape[1] - 110, count)[:, None]
        group[:, :, 1] += 200

        def frame(group: np.ndarray = group) -> None:
            if recognizer.estimator is not None:
                recognizer.estimator.people(scene.image)
            recognizer(scene.image, group)

        frame()  # compiles
        spans: list[float] = []
        while len(spans) < _LEAST or sum(spans) < _SECONDS:
            start = time.monotonic()
            frame()
            spans.append(time.monotonic() - start)
        result[str(count)] = round(1 / float(np.median(spans)), 3)
    return result


def machine() -> str:
    """What was measured on, in words."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"{os.cpu_count()} CPU cores"
    return f"{jax.device_count()} x {device.device_kind}"
