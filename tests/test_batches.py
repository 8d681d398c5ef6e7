"""Several videos that share batches of frames, and what an archive does with them."""

import threading
from contextlib import closing

import cv2
import jax
import numpy as np
import pytest
from conftest import tiny_config, tiny_image

from jdance import models
from jdance.data import openpose_json, videos
from jdance.recognize import batches, video
from jdance.recognize.archive import Archive, Options
from jdance.recognize.batches import Batches, Stopped
from jdance.recognize.inputs import Job
from jdance.recognize.ledger import Ledger
from jdance.recognize.recognizer import Recognizer
from jdance.recognize.storage import Folder

SETTINGS = video.Settings(annotate=False, report=False)


@pytest.fixture
def on_gpu(monkeypatch):
    """The formulations of GPUs, whose results do not depend on the other frames of a batch."""
    monkeypatch.setattr(
        jax.lax, "platform_dependent", lambda *values, cpu, default: default(*values)
    )


@pytest.fixture
def recognizer(tiny_data):
    config = tiny_config(tiny_data)
    config.model.classes = 3
    image = np.zeros((1, 32, 32, 3), np.uint8)
    variables = jax.jit(models.build(config.model).init)(jax.random.key(0), image, np.ones((1, 18)))
    return Recognizer(config, list("abc"), variables)


def add_video(folder, name, frames, size=(96, 96)):
    """Writes a video whose people differ in each frame."""
    image, people = tiny_image(len(name) + frames)
    canvas = cv2.resize(image, size[::-1])
    with closing(videos.VideoWriter(folder / name, 10)) as writer:
        for i in range(frames):
            writer.write(i / 10, np.roll(canvas, 3 * i, 1))
            moved = np.repeat(people, i % 4, 0) + 5 * np.arange(i % 4)[:, None, None]
            moved[..., 2] = 1
            openpose_json.write(openpose_json.path_for_frame(name, i, folder / "points"), moved)
    return folder / name


class Archived:
    """Recognizes the videos of a folder; `run` returns the outcome."""

    def __init__(self, folder, recognizer):
        self.folder, self.recognizer = folder, recognizer

    def run(self, output, at_once, size, paths, effect=lambda job: None):
        output.mkdir()
        shared = Batches(self.recognizer, size)

        def recognize(job, stem):
            effect(job)
            return video.recognize_video(
                self.recognizer, job.source, stem, SETTINGS, keypoints=self.folder / "points",
                batches=shared,
            )  # fmt: skip

        ledger = Ledger(Folder(output), {}, [], lambda job: 0)
        jobs = [Job(path, path.stem) for path in paths]
        options = Options("run", at_once=at_once)
        return Archive(jobs, ledger, recognize, lambda job: 1.0, options, shared.stop).run()


@pytest.fixture
def archived(tmp_path, recognizer):
    (tmp_path / "points").mkdir()
    return Archived(tmp_path, recognizer)


def test_results_equal_those_of_one_video_alone(on_gpu, archived, tmp_path):
    """Lengths that fill no batch, two sizes, and more videos than are recognized at once."""
    lengths = {"a": 3, "b": 13, "c": 6, "d": 1, "e": 9}
    paths = [
        add_video(tmp_path, f"{name}.webm", frames, (96, 96) if name != "c" else (64, 128))
        for name, frames in lengths.items()
    ]
    compiled = archived.recognizer.compiled(True, jax.device_count() > 1)
    assert not archived.run(tmp_path / "alone", 1, 8, paths).failures
    programs = compiled._cache_size()
    assert programs == 2  # one for each size
    assert sorted(archived.run(tmp_path / "together", 3, 8, paths).own) == list(lengths)
    assert compiled._cache_size() == programs
    for name, frames in lengths.items():
        alone = (tmp_path / "alone" / f"{name}.json").read_text()
        assert alone == (tmp_path / "together" / f"{name}.json").read_text()
        assert alone.count('"index"') == frames
    assert '"probabilities"' in (tmp_path / "alone" / "b.json").read_text()


class Counting:
    """Stands for a recognizer: the people of a frame are its first pixel."""

    def __init__(self):
        self.sizes = []

    def dispatch(self, images, people=None, *, size):
        assert {image.shape[:2] for image in images} == {size}
        self.sizes.append(len(images))
        return [int(image[0, 0, 0]) for image in images]

    def people(self, recognized):
        return [[value] for value in recognized]


def test_videos_fill_batches_together():
    recognizer = Counting()
    shared = Batches(recognizer, 4)
    image = np.zeros((2, 3, 3), np.uint8)
    first, second = (shared.start((2, 3), False) for _ in range(2))
    results = []
    for i in range(5):
        results += first.add(("first", i), image + i, None)
        results += second.add(("second", i), image + 10 + i, None)
    assert recognizer.sizes == [4, 4] and not results
    first.close()
    assert recognizer.sizes == [4, 4]  # the second one may add frames
    results += second.flush()
    assert recognizer.sizes == [4, 4, 4]
    results += first.flush()
    assert results == [(("second", i), [10 + i]) for i in range(5)] + [
        (("first", i), [i]) for i in range(5)
    ]


def test_a_full_batch_is_ahead_of_the_results():
    recognizer = Counting()
    frames = Batches(recognizer, 2).start((2, 3), False)
    image = np.zeros((2, 3, 3), np.uint8)
    counts = [len(list(frames.add(i, image, None))) for i in range(6)]
    assert counts == [0, 0, 0, 1, 1, 1] and recognizer.sizes == [2, 2, 2]


def test_stopping_wakes_waiting_videos():
    shared = Batches(Counting(), 4)
    image = np.zeros((2, 3, 3), np.uint8)
    first, _ = (shared.start((2, 3), False) for _ in range(2))
    list(first.add(0, image, None))
    raised = []

    def wait():
        try:
            list(first.flush())
        except Stopped:
            raised.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    shared.stop()
    thread.join(60)
    assert raised
    with pytest.raises(Stopped):
        list(first.add(1, image, None))


def test_a_failing_video_does_not_hold_up_the_others(archived, tmp_path):
    paths = [add_video(tmp_path, f"{name}.webm", 6) for name in "abc"]
    paths[1].write_bytes(b"nothing")
    outcome = archived.run(tmp_path / "out", 3, 4, paths)
    assert sorted(outcome.own) == ["a", "c"]
    assert [failure.job.name for failure in outcome.failures] == ["b"]


def test_an_interruption_gives_all_videos_back(archived, tmp_path):
    paths = [add_video(tmp_path, f"{name}.webm", 6) for name in "abc"]
    begun = threading.Barrier(2)

    def effect(job):
        if job.name == "c":
            begun.wait(60)
            raise KeyboardInterrupt
        if job.name == "b":
            begun.wait(60)

    with pytest.raises(KeyboardInterrupt):
        archived.run(tmp_path / "out", 2, 4, paths, effect)
    hidden = tmp_path / "out" / ".jdance"
    assert not list((hidden / "claims").iterdir()) and not list((hidden / "work").iterdir())


def test_number_of_videos_at_once(monkeypatch):
    assert batches.videos_at_once(0, ["video"] * 9) == 1
    assert batches.videos_at_once(3, ["video"] * 9) == 3
    assert batches.videos_at_once(3, ["video", "video"]) == 2
    assert batches.videos_at_once(3, ["video", "image"]) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert batches.videos_at_once(0, ["video"] * 9) == 4
    assert batches.default_size() == 16 * jax.device_count()
