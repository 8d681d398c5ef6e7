"""Videos of StageDance: dancers who go from one motion to the next, at known times."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jdance.errors import UserError
from jdance.stagedance import stage
from jdance.stagedance.body import MOTIONS, Build, Pose, assemble, random_pose

_FILM = 6  # the purpose of the random stream, after those of `stage`
_CHANGE = 0.5  # seconds from one motion to the next
_PACE = 2 * np.pi * 0.9  # of steps and waves, radians a second
_SWAY = 2.5  # degrees, of everything, slowly


class MotionSpan(NamedTuple):
    """What one dancer does from `start` to `end`, in seconds; `motion` is a label."""

    start: float
    end: float
    motion: int


class StageVideo:
    """A video of one group: a pure function of its arguments and the time.

    Args:
        seed, group: as for `stage.scene`.
        dancers: how many, 1 to 6.
        seconds: length.
        width, height: in pixels, at least 32.

    Attributes:
        parts: for each dancer, in the order of the scenes' dancers, what they do when.
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
                f"{stage.MAX_DANCERS} dancers, some time, and sides of 32 pixels or more"
            )
        self._seed, self._group, self._size = seed, group, (width, height)
        self._stage = stage.stage_of(seed, group, width, height)
        rng = stage.stream(seed, group, _FILM, 0)
        cast = rng.permutation(stage.MAX_DANCERS)[:dancers]
        self._wear = [stage.troupe_of(seed, group)[member] for member in cast]
        room = stage.stage_width(self._stage.camera, self._size)
        self._places, self._yaws = stage.place_dancers(rng, dancers, room)
        self.parts = [_parts(rng, seconds) for _ in range(dancers)]

    def scene(self, when: float) -> stage.Scene:
        """The moment `when`, in seconds."""
        bodies, labels = [], []
        for k, (build, _) in enumerate(self._wear):
            number, pose = self._pose(k, build, when)
            at = (self._places[k, 0], self._places[k, 1])
            bodies.append(assemble(build, pose, at, self._yaws[k]))
            labels.append(self.parts[k][number].motion)
        noise = stage.stream(self._seed, self._group, _FILM, 1, round(when * 1000))
        return stage.paint(
            self._stage, bodies, self._wear, labels, self._places, self._group, self._size, noise
        )

    def frames(self, fps: float) -> Iterator[tuple[float, stage.Scene]]:
        """All moments, `fps` a second, with their times."""
        end = self.parts[0][-1].end
        for i in range(round(end * fps)):
            yield i / fps, self.scene(i / fps)

    def _pose(self, dancer: int, build: Build, when: float) -> tuple[int, Pose]:
        """The number of the part and the pose; halfway through a change the next part begins."""
        parts = self.parts[dancer]
        number = max(i for i, part in enumerate(parts) if i == 0 or part.start <= when)
        pose = self._of_part(dancer, number, build, when)
        for other, edge in ((number - 1, parts[number].start), (number + 1, parts[number].end)):
            apart = abs(when - edge) / (_CHANGE / 2)
            if apart < 1 and 0 <= other < len(parts):
                beside = self._of_part(dancer, other, build, when)
                share = 0.5 * (1 - apart) ** 1.5  # a half at the edge itself
                pose = {n: (1 - share) * pose[n] + share * beside[n] for n in pose}
        return number, pose

    def _of_part(self, dancer: int, number: int, build: Build, when: float) -> Pose:
        rng = stage.stream(self._seed, self._group, _FILM, 2, dancer, number)
        motion = MOTIONS[self.parts[dancer][number].motion]
        pose = random_pose(motion, build, rng, phase=_PACE * when)
        speeds, starts = rng.uniform(0.3, 0.8, len(pose)), rng.uniform(0, 2 * np.pi, len(pose))
        sway = _SWAY * np.sin(2 * np.pi * speeds * when + starts)
        return {n: pose[n] + s for (n, s) in zip(pose, sway, strict=True)}


def _parts(rng: np.random.Generator, seconds: float) -> list[MotionSpan]:
    """Motions of 2.5 to 5 s, no motion twice in a row."""
    parts: list[MotionSpan] = []
    start = 0.0
    while start < seconds:
        end = start + rng.uniform(2.5, 5)
        if seconds - end < 2:  # no stump at the end
            end = seconds
        others = [m for m in range(len(MOTIONS)) if not parts or m != parts[-1].motion]
        parts.append(MotionSpan(start, end, int(rng.choice(others))))
        start = end
    return parts
