"""A quick stand-in for a pose network: red, green and blue spots are people."""

from contextlib import closing

import cv2
import jax.numpy as jnp
import numpy as np

from jdance.data import images, videos
from jdance.pose.decode import People
from jdance.recognize import packed
from jdance.recognize.recognizer import Recognizer

# A standing person in units of the person's height, relative to the center.
_PERSON = np.array([
    (0, -.45), (0, -.35), (-.1, -.35), (-.13, -.2), (-.15, -.05), (.1, -.35), (.13, -.2),
    (.15, -.05), (-.07, 0), (-.07, .25), (-.07, .5), (.07, 0), (.07, .25), (.07, .5), (-.03, -.48),
    (.03, -.48), (-.06, -.46), (.06, -.46),
])  # fmt: skip
_HEIGHT = 40  # of a person, in pixels of the network's input


class SpotPose:
    """Has the interface of `PoseEstimator` that `Recognizer` uses."""

    variables = ()
    size = 96

    def pure_people(self, variables, squares, min_joints):
        pixels = jnp.asarray(squares, jnp.float32)  # [B, 96, 96, 3]
        others = pixels[..., [1, 2, 0]] + pixels[..., [2, 0, 1]]
        spots = (pixels > 150) & (others < 150)  # [B, 96, 96, 3]
        count = spots.sum((1, 2))
        row = jnp.arange(self.size, dtype=jnp.float32)
        y = (spots * row[:, None, None]).sum((1, 2)) / jnp.maximum(count, 1)
        x = (spots * row[None, :, None]).sum((1, 2)) / jnp.maximum(count, 1)
        valid = count > 4
        center = jnp.stack([x, y], -1)[:, :, None]  # [B, 3, 1, 2]
        xy = center + jnp.asarray(_PERSON * _HEIGHT, jnp.float32)
        keypoints = jnp.concatenate([xy, jnp.full_like(xy[..., :1], 0.9)], -1)
        keypoints = jnp.where(valid[..., None, None], keypoints, 0)
        return People(keypoints, valid, valid.astype(jnp.float32))


def recognizer():
    """Returns a recognizer with the motions of dance6."""
    model = packed.load("dance6", "newest")
    return Recognizer(
        model.config, model.classes, model.variables, SpotPose(), temperature=model.temperature
    )  # type: ignore[arg-type]


def image(centers, size=(144, 192)):
    """Draws up to three people at centers (x, y): uint8 RGB [H, W, 3]."""
    result = np.full((*size, 3), 40, np.uint8)
    for channel, center in enumerate(centers):
        color = tuple(255 if i == channel else 0 for i in range(3))
        cv2.circle(result, center, 12, color, -1)
    return result


def jpeg(centers, size=(144, 192)):
    return images.encode_jpeg(image(centers, size))


def video(path, frames=24, fps=8.0):
    """Writes a video in which one person moves to the right, and another one stands."""
    with closing(videos.VideoWriter(path, fps)) as writer:
        for i in range(frames):
            writer.write(i / fps, image([(40 + 2 * i, 70), (150, 70)]))
