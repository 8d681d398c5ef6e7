"""Speed of recognition over several videos, compared with that of the networks alone."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jdance.bench import timing
from jdance.data import videos
from jdance.errors import UserError
from jdance.recognize import archive, video
from jdance.recognize.batches import Batches
from jdance.recognize.inputs import Job
from jdance.recognize.ledger import Ledger
from jdance.recognize.recognizer import Person, Recognizer
from jdance.recognize.sequences import SequenceClassifier
from jdance.recognize.storage import Folder

NETWORKS, WHOLE = "networks alone", "whole"
READING, WRITING = "read and decode", "track and write"


class Benchmark:
    """The first seconds of several videos, whose frames are kept in memory.

    Attributes:
        frames: of each video.
        people: number of people in a frame, on average.
        candidates: functions to time, by name; each works on all frames.

    Args:
        recognizer, classifier: the networks.
        paths: the videos; those of the same size share batches.
        settings: of all videos.
        at_once: number of videos that threads recognize at the same time.

    Raises:
        UserError: a video cannot be read.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        classifier: SequenceClassifier | None,
        paths: Sequence[Path],
        settings: video.Settings,
        at_once: int,
    ):
        self._recognizer, self._classifier, self._paths = recognizer, classifier, paths
        self._settings, self._at_once = settings, at_once
        self.frames = [list(self._read(path)) for path in paths]
        if not all(self.frames):
            raise UserError("a video has no frames; choose others")
        self.batch = Batches(recognizer, settings.batch).size
        self._people = self._networks()
        counts = [len(people) for own in self._people for people in own]
        self.people = sum(counts) / len(counts)
        self.candidates: dict[str, Callable[[], Any]] = {
            NETWORKS: self._networks,
            WHOLE: self._whole,
            READING: self._read_all,
            WRITING: self._track_and_write,
        }

    @property
    def count(self) -> int:
        """Number of all frames."""
        return sum(map(len, self.frames))

    def _read(self, path: Path) -> Any:
        own = self._settings
        with closing(
            videos.Video(path, every=own.every, start=own.start, end=own.end, hardware=own.hardware)
        ) as frames:
            yield from frames

    def _read_all(self) -> None:
        for path in self._paths:
            for _ in self._read(path):
                pass

    def _networks(self) -> list[list[list[Person]]]:
        """Recognizes the frames of all videos in full batches, one ahead of the results."""
        batches = Batches(self._recognizer, self.batch)
        results: list[list[list[Person]]] = [[] for _ in self.frames]
        shapes = {own[0].image.shape[:2] for own in self.frames}
        for shape in shapes:
            numbers = [i for i, own in enumerate(self.frames) if own[0].image.shape[:2] == shape]
            running = batches.start(shape, False)
            for i in numbers:
                for frame in self.frames[i]:
                    for number, people in running.add(i, frame.image, None):
                        results[number].append(people)
            for number, people in running.flush():
                results[number].append(people)
        return results

    def _whole(self) -> None:
        shared = Batches(self._recognizer, self.batch)

        def recognize(job: Job, stem: Path) -> str:
            return video.recognize_video(
                self._recognizer, job.source, stem, self._settings,
                classifier=self._classifier, batches=shared,
            )  # fmt: skip

        with TemporaryDirectory() as folder:
            jobs = [Job(path, f"{i}") for i, path in enumerate(self._paths)]
            ledger = Ledger(Folder(Path(folder)), {}, [], lambda job: job.name)
            options = archive.Options("benchmark", at_once=self._at_once)
            outcome = archive.Archive(
                jobs, ledger, recognize, lambda job: 0.0, options, shared.stop
            ).run()
        if outcome.failures:
            raise UserError(outcome.failures[0].reason)

    def _track_and_write(self) -> None:
        for path, frames, people in zip(self._paths, self.frames, self._people, strict=True):
            results = map(video.recognized, frames, people)
            height, width = frames[0].image.shape[:2]
            with TemporaryDirectory() as folder:
                video.write_recognized(
                    self._recognizer, results, path, (height, width), videos.Video(path).fps,
                    Path(folder) / "x", replace(self._settings, folder=None), self._classifier,
                )  # fmt: skip


def report(benchmark: Benchmark, times: dict[str, timing.Times]) -> list[str]:
    """Lines with frames/s, spread, CPU time a frame and the ratios to the networks alone."""
    base = times[NETWORKS].summary()
    lines = [
        f"{'':>16} {'frames/s':>9} {'spread':>7} {'ms/frame':>9} {'CPU ms':>7} {'of networks':>11} "
        f"{'by CPU time':>11}"
    ]
    for name, own in times.items():
        each = own.summary()
        speed = benchmark.count / each["median_s"]
        cells = [
            f"{speed:9.1f}",
            f"{speed * each['spread_s'] / each['median_s']:7.1f}",
            f"{1e3 / speed:9.2f}",
            f"{1e3 * each['cpu_least_s'] / benchmark.count:7.2f}",
        ]
        if name == WHOLE:
            cells.append(f"{base['median_s'] / each['median_s']:11.2f}")
            cells.append(f"{base['cpu_least_s'] / each['cpu_least_s']:11.2f}")
        lines.append(f"{name:>16} " + " ".join(cells))
    return lines
