"""Videos of StageDance: dancers that change from motion to motion at known times."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jdance.errors import UserError
from jdance.stagedance import stage
from jdance.stagedance.body import MOTIONS, Build, Pose, assemble, random_pose

_VIDEO = 6  # purpose of the random stream, after those in `stage`
_TRANSITION = 0.5  # seconds
_PACE = 2 * np.pi * 0.9  # of steps and waves, radians per second
_SWAY = 2.5  # amplitude of slow noise on every angle, degrees


class MotionSpan(NamedTuple):
    """A motion (label) of one dancer from `start` to `end`, in seconds."""

    start: float
    end: float
    motion: int


class StageVideo:
    """A video of one group; its frames are a pure function of the arguments and the time.

    Args:
        seed, group: as for `stage.render_scene`.
        dancers: number of dancers, 1 to 6.
        seconds: length of the video.
        width, height: in pixels, at least 32.

    Attributes:
        spans: the motions of each dancer, in the order of the scenes' dancers.
    """

    def __init__(
        self,
        seed: int,
        group: int,
        *,
        dancers: int = 3,
        seconds: float = 20.0,
        width: int = 640,
        height: int = 480,
    ):
        if not 1 <= dancers <= stage.MAX_DANCERS or seconds <= 0 or min(width, height) < 32:
            raise UserError(
                f"{dancers} dancers, {seconds} s, {width} x {height} pixels: expected 1 to "
                f"{stage.MAX_DANCERS} dancers, a length above 0, and sides of 32 pixels or more"
            )
        self._seed, self._group, self._size = seed, group, (width, height)
        self._stage = stage.get_stage(seed, group, width, height)
        rng = stage.stream(seed, group, _VIDEO, 0)
        members = rng.permutation(stage.MAX_DANCERS)[:dancers]
        self._cast = [stage.get_troupe(seed, group)[member] for member in members]
        visible = self._stage.camera.stage_width(width)
        self._positions, self._yaws = stage.place_dancers(rng, dancers, visible)
        self.spans = [_draw_spans(rng, seconds) for _ in range(dancers)]

    def render(self, time: float) -> stage.Scene:
        """Renders the scene at a time in seconds."""
        bodies, labels = [], []
        for k, (build, _) in enumerate(self._cast):
            number, pose = self._pose(k, build, time)
            at = (self._positions[k, 0], self._positions[k, 1])
            bodies.append(assemble(build, pose, at, self._yaws[k]))
            labels.append(self.spans[k][number].motion)
        noise = stage.stream(self._seed, self._group, _VIDEO, 1, round(time * 1000))
        return stage.compose_scene(
            self._stage, bodies, self._cast, labels, self._positions, self._group, self._size, noise
        )

    def frames(self, fps: float) -> Iterator[tuple[float, stage.Scene]]:
        """Yields the times in seconds and scenes of all frames."""
        for i in range(round(self.spans[0][-1].end * fps)):
            yield i / fps, self.render(i / fps)

    def _pose(self, dancer: int, build: Build, time: float) -> tuple[int, Pose]:
        """The index of the current span, and the pose, blended with the neighboring span's."""
        spans = self.spans[dancer]
        number = max(i for i, span in enumerate(spans) if i == 0 or span.start <= time)
        pose = self._span_pose(dancer, number, build, time)
        for other, edge in ((number - 1, spans[number].start), (number + 1, spans[number].end)):
            distance = abs(time - edge) / (_TRANSITION / 2)
            if distance < 1 and 0 <= other < len(spans):
                neighbor = self._span_pose(dancer, other, build, time)
                weight = 0.5 * (1 - distance) ** 1.5  # 0.5 at the edge
                pose = {n: (1 - weight) * pose[n] + weight * neighbor[n] for n in pose}
        return number, pose

    def _span_pose(self, dancer: int, number: int, build: Build, time: float) -> Pose:
        rng = stage.stream(self._seed, self._group, _VIDEO, 2, dancer, number)
        motion = MOTIONS[self.spans[dancer][number].motion]
        pose = random_pose(motion, build, rng, phase=_PACE * time)
        speeds, starts = rng.uniform(0.3, 0.8, len(pose)), rng.uniform(0, 2 * np.pi, len(pose))
        sway = _SWAY * np.sin(2 * np.pi * speeds * time + starts)
        return {n: pose[n] + s for (n, s) in zip(pose, sway, strict=True)}


def _draw_spans(rng: np.random.Generator, seconds: float) -> list[MotionSpan]:
    """Draws motions of 2.5 to 5 s, never the same twice in a row."""
    spans: list[MotionSpan] = []
    start = 0.0
    while start < seconds:
        end = start + rng.uniform(2.5, 5)
        if seconds - end < 2:  # no short span at the end
            end = seconds
        others = [m for m in range(len(MOTIONS)) if not spans or m != spans[-1].motion]
        spans.append(MotionSpan(start, end, int(rng.choice(others))))
        start = end
    return spans
