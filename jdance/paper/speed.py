"""Speed of the whole pipeline from an image to motions, in frames per second."""

import os
import time
from collections.abc import Sequence

import jax
import numpy as np

from jdance import skeleton
from jdance.recognize.recognizer import Recognizer
from jdance.stagedance import stage

PEOPLE = (1, 5, 20)
_MIN_SECONDS, _MIN_REPETITIONS = 3.0, 3


def frames_per_second(recognizer: Recognizer, people: Sequence[int] = PEOPLE) -> dict[str, float]:
    """Measures frames of 640 x 480 per second at batch size 1, by number of people.

    With an estimator, pose network and decoding are included; the classifier always gets a fixed
    group of people, so that their number is exact.
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
        times: list[float] = []
        while len(times) < _MIN_REPETITIONS or sum(times) < _MIN_SECONDS:
            start = time.monotonic()
            frame()
            times.append(time.monotonic() - start)
        result[str(count)] = round(1 / float(np.median(times)), 3)
    return result


def machine() -> str:
    """Describes the hardware."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"{os.cpu_count()} CPU cores"
    return f"{jax.device_count()} x {device.device_kind}"
