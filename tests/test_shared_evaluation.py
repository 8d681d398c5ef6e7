"""Evaluation of pose networks by several processes."""

import threading
from collections import Counter

import jax
import numpy as np
import pytest
from conftest import tiny_image

from jdance.data import images, scenes
from jdance.pose import PoseEstimator, evaluation
from jdance.pose.decode import People
from jdance.pose.letterbox import letterbox


def image(number):
    """A packed record: a gray image of unique brightness and size, with one person."""
    person = np.ones((1, 18, 3), np.float32)
    person[..., 0] = np.linspace(10, 60, 18) + number
    person[..., 1] = np.linspace(20, 90, 18)
    gray = np.full((100 + number, 120, 3), 10 * number + 5, np.uint8)
    record = scenes.SceneRecord(
        images.encode_jpeg(gray), person, np.zeros((1, 4)), np.full(1, 1e4), np.zeros(1, bool)
    )
    return scenes.pack(record)


def estimator(squares):
    """A fake estimator, which identifies images by brightness and misses some people."""
    number = squares[:, 10, 10, 0].astype(np.float32) / 10 - 0.5
    keypoints = np.ones((len(squares), 2, 18, 3), np.float32)
    keypoints[:, 0, :, 0] = 3 * (np.linspace(10, 60, 18) + number[:, None])
    keypoints[:, 0, :, 1] = 3 * np.linspace(20, 90, 18) + 2 * number[:, None]
    valid = np.stack([number.round() % 4 != 3, np.zeros(len(squares), bool)], 1)
    return People(keypoints, valid, np.ones((len(squares), 2), np.float32))


def test_each_image_is_read_and_decoded_once(monkeypatch):
    reads, decoded, batches = Counter(), [], set()

    class Source(list):
        def __getitem__(self, index):
            reads[index] += 1
            return super().__getitem__(index)

    def counted(squares):
        batches.add(squares.shape)
        return estimator(squares)

    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda data: decoded.append(len(data)) or decode(data))
    evaluation.average_precision(counted, Source(image(number) for number in range(19)))
    assert reads == dict.fromkeys(range(19), 1) and len(decoded) == 19
    assert len(batches) == 1  # the last batch is padded: one program
    reads.clear()
    decoded.clear()
    source = Source(image(number) for number in range(18))
    evaluation.average_precision(counted, source, 1, 3, lambda rows: np.repeat(rows, 3, 0))
    assert reads == dict.fromkeys(range(18), 1) and len(decoded) == 6


def test_all_devices_give_the_same_people():
    network = PoseEstimator.load("stage")
    squares = np.stack([letterbox(tiny_image(number)[0])[0] for number in range(8)])
    alone = jax.device_get(network(squares))
    together = network.on_all_devices()(squares)
    assert jax.local_device_count() > 1
    for one, many in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, many, atol=1e-3)


@pytest.mark.parametrize(("count", "processes"), [(19, 2), (19, 3), (2, 3)])
def test_shards_together_equal_one_process(count, processes, monkeypatch):
    source = [image(number) for number in range(count)]
    expected = evaluation.average_precision(estimator, source)
    assert expected["n"] == count and 0 < expected["AP"] <= 1
    coco_metrics, lock = evaluation.coco_metrics, threading.Lock()

    def one_at_a_time(*arguments):  # it redirects the output of the whole program
        with lock:
            return coco_metrics(*arguments)

    monkeypatch.setattr(evaluation, "coco_metrics", one_at_a_time)
    barrier, slots, results = threading.Barrier(processes), {}, {}

    def run(process):
        def interleave(rows):
            slots[process] = rows
            barrier.wait(60)
            together = np.stack([slots[number] for number in range(processes)], 1)
            barrier.wait(60)
            return together.reshape(-1, *rows.shape[1:])

        results[process] = evaluation.average_precision(
            estimator, source, process, processes, interleave
        )

    threads = [threading.Thread(target=run, args=(number,)) for number in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(processes), expected)
