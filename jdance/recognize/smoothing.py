"""Smooths the motions of tracks over time by a linear-chain conditional random field (CRF).

A sequence of motions y has the score

    evidence * sum_t dt[t] * log p[t, y[t]] - change * #{t: y[t] != y[t - 1]}

where p are the probabilities of each frame and dt is the time since the frame before, so the frame
rate does not matter. `fit` learns both parameters by maximum conditional likelihood.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from jdance.recognize.recognizer import confidence
from jdance.recognize.stream import TrackedFrame, TrackedPerson
from jdance.train.calibration import UNKNOWN

MAX_STEP = 0.5  # seconds; after a longer gap, a frame counts for no more than this
_FLOOR = 0.02  # of probabilities: detected joints can be wrong for long


class Smoothing(NamedTuple):
    """Parameters of the CRF.

    Attributes:
        evidence: weight of the frames' log probabilities, per second.
        change: cost of changing from a motion to another.
    """

    evidence: float
    change: float


# Chosen on six StageDance videos (launch/stage.py --video --seed=2001) with a lag of a second. The
# likelihood alone (launch/score_videos.py --fit) gives the same cost of a change, 5.9, but an
# evidence of 0.5, since the errors of key points last for seconds, and then needs a longer lag.
DEFAULT = Smoothing(evidence=4.0, change=6.0)
# The threshold of single frames is too strict for the evidence of seconds.
MAX_THRESHOLD = 0.5


def log_evidence(
    probabilities: np.ndarray, unknown: int | None = None, min_confidence: float = 0.0
) -> np.ndarray:
    """Log probabilities [..., M] of frames, in which the threshold counts for `unknown`.

    Args:
        probabilities: float [..., M], or [..., M - 1] if `unknown` is M - 1 and no class.
        unknown: index of `unknown`.
        min_confidence: in a frame by itself, `unknown` wins if all other motions are below it.
    """
    result = np.log(np.maximum(probabilities, _FLOOR))
    if unknown is None:
        return result
    if unknown == probabilities.shape[-1]:
        result = np.concatenate([result, np.full_like(result[..., :1], np.log(_FLOOR))], -1)
    if min_confidence > 0:
        best = np.delete(result, unknown, -1).max(-1)
        rest = np.log(np.maximum(1 - np.exp(best), _FLOOR))
        odds = np.log(min_confidence / np.maximum(1 - min_confidence, _FLOOR))
        result[..., unknown] = np.maximum(result[..., unknown], rest + odds)
    return result


def _step(message: np.ndarray, change: float) -> np.ndarray:
    """Passes log messages [..., M] from one frame to the next."""
    top = message.max(-1, keepdims=True)
    weights = np.exp(message - top)
    stay, leave = 1.0, np.exp(-change)
    return top + np.log((stay - leave) * weights + leave * weights.sum(-1, keepdims=True))


def marginals(
    scores: np.ndarray,
    change: float,
    before: np.ndarray | None = None,
    present: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Log messages of the first of T frames: forward, and with the later frames' evidence.

    Args:
        scores: weighted log probabilities float [T, ..., M] of one or several tracks.
        change: see `Smoothing`.
        before: forward messages [..., M] of the frame before; None at the start.
        present: bool [T, ...], which frames the tracks have, the first one among them; None: all.

    Returns:
        The forward messages [..., M] of the first frame, normalized; unnormalized log marginals
        [..., M].
    """
    forward = scores[0] + (0 if before is None else _step(before, change))
    forward = forward - forward.max(-1, keepdims=True)
    # Probabilities instead of their logarithms, scaled in each step: this loop is the smoother's
    # cost.
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    leave = np.exp(-change)
    backward = np.ones_like(forward)
    for t in range(len(scores) - 1, 0, -1):
        product = weights[t] * backward
        total = product.sum(-1, keepdims=True)
        message = product * ((1 - leave) / total) + leave
        if present is None or present[t].all():
            backward = message
        else:
            backward = np.where(present[t][..., None], message, backward)
    return forward, forward + np.log(backward)


class MotionSmoother:
    """Decides every person's motion, from the frames before and up to `lag` seconds after.

    Args:
        classes: names of the motions.
        smoothing: parameters of the CRF.
        lag: seconds by which the output is delayed.
        min_confidence: see `log_evidence`.
    """

    def __init__(
        self,
        classes: Sequence[str],
        smoothing: Smoothing,
        *,
        lag: float = 1.0,
        min_confidence: float = 0.0,
    ):
        self._names, self._unknown = list(classes), None
        if UNKNOWN in classes or min_confidence > 0:
            self._names += [UNKNOWN] * (UNKNOWN not in classes)
            self._unknown = self._names.index(UNKNOWN)
        self._smoothing, self._lag, self._min_confidence = smoothing, lag, min_confidence
        self._pending: deque[tuple[TrackedFrame, dict[int, np.ndarray]]] = deque()
        self._forward: dict[int, tuple[float, np.ndarray]] = {}  # by track, until `time`
        self._last: dict[int, float] = {}  # time of each track's newest frame

    def add(self, frame: TrackedFrame) -> Iterator[TrackedFrame]:
        """Adds a frame, and yields frames in which every person has a `motion`."""
        scores = {}
        for person in frame.people:
            step = min(frame.time - self._last.get(person.track, -np.inf), MAX_STEP)
            self._last[person.track] = frame.time
            log = log_evidence(person.probabilities, self._unknown, self._min_confidence)
            scores[person.track] = self._smoothing.evidence * step * log
        self._pending.append((frame, scores))
        while self._pending and frame.time - self._pending[0][0].time >= self._lag - 1e-3:
            yield self._complete()

    def flush(self) -> Iterator[TrackedFrame]:
        """Yields the remaining frames."""
        while self._pending:
            yield self._complete()

    def _complete(self) -> TrackedFrame:
        frame = self._pending[0][0]
        people = self._decide(frame) if frame.people else []
        self._pending.popleft()
        newest = frame.time - 10.0
        self._forward = {k: v for k, v in self._forward.items() if v[0] > newest}
        self._last = {k: time for k, time in self._last.items() if time > newest}
        return replace(frame, people=people)

    def _decide(self, frame: TrackedFrame) -> list[TrackedPerson]:
        """Decides the motions of all people in the oldest frame."""
        tracks = [person.track for person in frame.people]
        none = np.zeros(len(self._names))
        scores = np.array([[own.get(k, none) for k in tracks] for _, own in self._pending])
        present = np.array([[k in own for k in tracks] for _, own in self._pending])
        # A message of zeros is that of no frame before.
        before = np.array([self._forward.get(k, (0.0, none))[1] for k in tracks])
        forward, logs = marginals(scores, self._smoothing.change, before, present)
        people = []
        for person, message, best in zip(frame.people, forward, logs.argmax(-1), strict=True):
            self._forward[person.track] = frame.time, message
            probabilities = person.probabilities
            motion = self._names[int(best)]
            certainty = confidence(probabilities, motion, self._names[: len(probabilities)])
            people.append(replace(person, motion=motion, confidence=certainty))
        return people


def fit(tracks: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Smoothing:
    """Learns the parameters by maximum conditional likelihood of the true motions.

    Args:
        tracks: each with times float [T] in seconds, log probabilities float [T, M], and true
            motions int [T].
    """
    steps = [
        np.minimum(np.diff(times, prepend=times[0] - MAX_STEP), MAX_STEP) for times, _, _ in tracks
    ]

    def loss(parameters: np.ndarray) -> float:
        evidence, change = np.exp(parameters)
        total = 0.0
        for step, (_, logs, labels) in zip(steps, tracks, strict=True):
            scores = evidence * step[:, None] * logs
            score = (
                scores[np.arange(len(labels)), labels].sum() - change * (np.diff(labels) != 0).sum()
            )
            message = scores[0]
            for later in scores[1:]:
                message = later + _step(message, change)
            total += logsumexp(message) - score
        return total / sum(map(len, steps))

    found = minimize(loss, np.log([4.0, 4.0]), method="Nelder-Mead", options={"xatol": 0.02})
    evidence, change = np.exp(found.x)
    return Smoothing(float(evidence), float(change))
