"""Examples for sequence networks from labeled videos: windows of people's tracks."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from jdance.data import crop, temporal, videos
from jdance.data.items import Given, Item, LabeledPerson, Source
from jdance.data.prepare import MIN_OVERLAP, Estimator, overlap
from jdance.errors import UserError
from jdance.progress import Progress
from jdance.recognize.tracking import Tracker

_MIN_FRAMES = 3  # of a window in which the person is detected


@dataclass
class TrackedPath:
    """One person in a video.

    Attributes:
        times: of the T frames with the person, in seconds, increasing.
        keypoints: float32 [18, 3] in each of them, in pixels, smoothed.
        positions: index from the left in each of them.
    """

    times: list[float] = field(default_factory=list)
    keypoints: list[np.ndarray] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def between(self, start: float, end: float) -> range:
        """Indices of the frames from `start` to `end`, inclusive."""
        first, last = np.searchsorted(self.times, [start - 1e-3, end + 1e-3])
        return range(int(first), int(last))


def from_videos(
    source: Source, estimator: Estimator, *, window: float, per_second: float
) -> Source:
    """Divides the labeled parts of videos into windows of the people's tracks.

    The label of a window is that of the moment in its middle, as `launch/recognize.py` classifies
    the moments of a video: from what lies before and after them.

    Args:
        source: items with a `span`, see `sources.open_source`.
        estimator: detects people in frames.
        window: length in seconds.
        per_second: windows per second of a labeled part, at least one for each part.

    Returns:
        A source of sequences float32 [T, 18, 3], evenly spaced at the video's frame rate; parts
        without a track of the labeled person are skipped with a reason.

    Raises:
        UserError: an item is no part of a video.
    """
    by_file: dict[Path, list[Item]] = defaultdict(list)
    for item in source.items:
        if item.span is None:
            raise UserError(f"{item.name}: holds key points; --window is for videos")
        by_file[item.span.file].append(item)
    items, skipped = [], list(source.skipped)
    progress = Progress("tracking", len(by_file))
    for done, (file, parts) in enumerate(by_file.items(), start=1):
        try:
            fps, tracks, problem = _track(file, parts, estimator, window / 2)
        except UserError as error:
            skipped.append((parts[0].name, str(error)))
        else:
            if problem and all(name != parts[0].name for name, _ in skipped):
                skipped.append((parts[0].name, problem))
            for part in parts:
                try:
                    items += _windows(part, tracks, fps, window, per_second)
                except UserError as error:
                    skipped.append((part.name, str(error)))
        progress.update(done)
    return replace(
        source, items=items, skipped=skipped, sequences=True, layout="coco18", needs_pose=False
    )


def _track(
    file: Path, parts: Sequence[Item], estimator: Estimator, margin: float
) -> tuple[float, list[TrackedPath], str]:
    """The frame rate of a video, the tracks around its labeled parts, and a problem or ""."""
    spans = [part.span for part in parts if part.span is not None]
    start = max(min(span.start for span in spans) - margin, 0.0)
    end = max(span.end for span in spans) + margin
    tracker = Tracker()
    tracks: dict[int, TrackedPath] = {}
    confirmed = {}
    with closing(videos.Video(file, start=start, end=end)) as video:
        for frame in video:
            people = estimator(frame.image)
            for detection in tracker.update(frame.time, people):
                key = id(detection.track)
                confirmed[key] = detection.track  # also keeps the id in use
                path = tracks.setdefault(key, TrackedPath())
                path.times.append(frame.time)
                path.keypoints.append(detection.keypoints)
                path.positions.append(detection.members[0])
        fps, problem = video.fps, video.problem
    kept = [path for key, path in tracks.items() if confirmed[key].number is not None]
    return fps, kept, problem


def _windows(
    part: Item, tracks: Sequence[TrackedPath], fps: float, window: float, per_second: float
) -> list[Item]:
    """The windows of a labeled part.

    Raises:
        UserError: the labeled person has no track there.
    """
    (person,), span = part.people, part.span
    assert span is not None
    items = []
    for path in _select(person, tracks, span.start, span.end):
        inside = path.between(span.start, span.end)
        first, last = path.times[inside[0]], path.times[inside[-1]]
        count = max(round((last - first) * per_second), 1)
        middles = first + (last - first) * (np.arange(count) + 0.5) / count
        even = np.linspace(-window / 2, window / 2, max(round(window * fps) + 1, 4))
        for middle in middles:
            near = path.between(middle - window / 2, middle + window / 2)
            if len(near) < _MIN_FRAMES:
                continue
            times = np.array([path.times[i] for i in near])
            keypoints = np.stack([path.keypoints[i] for i in near])
            clip = temporal.resample_times(keypoints, times, middle + even)
            items.append(
                Item(
                    f"{part.name} at {middle:.2f} s",
                    (LabeledPerson(person.label),),
                    Given(clip),
                    part.split,
                    part.group,
                )
            )
    if not items:
        raise UserError(
            f"the labeled person is not tracked from {span.start:g} to {span.end:g} s; check the "
            "times and the box, or choose another --pose"
        )
    return items


def _select(
    person: LabeledPerson, tracks: Sequence[TrackedPath], start: float, end: float
) -> list[TrackedPath]:
    """The tracks between `start` and `end` that a label belongs to, see `LabeledPerson`."""
    present = [path for path in tracks if len(path.between(start, end))]
    if person.all_people or not present:
        return present
    scores = []
    for path in present:
        inside = path.between(start, end)
        boxes = [crop.tight_box(path.keypoints[i]) for i in inside]
        if person.box is not None:
            scores.append(sum(overlap(person.box, box) for box in boxes))
        elif person.index is not None:
            scores.append(Counter(path.positions[i] for i in inside)[person.index])
        else:
            scores.append(sum(width * height for _, _, width, height in boxes))
    best = int(np.argmax(scores))
    if person.box is not None:
        scores[best] /= len(present[best].between(start, end))
    minimum = MIN_OVERLAP if person.box is not None else 0.0
    return [present[best]] if scores[best] > minimum else []
