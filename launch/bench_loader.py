"""Times the loader beside PyTorch's DataLoader, and beside bare decoding and warping.

python launch/bench_loader.py --data=data/stage --workers=2

needs `pip install -e '.[reference]'`. All three do the same to the same pictures, in turn: "bare"
is one thread that decodes and warps with OpenCV and does nothing else; the DataLoader runs our own
example function in --workers processes, the loader in as many threads. --output and --record: see
launch/bench_train.py.
"""

import os
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from jdance import config as defaults
from jdance import models
from jdance.benchmarks import ratios
from jdance.data import augment, pipeline, records
from jdance.errors import UserError
from jdance.launcher import run
from jdance.profiling import timing
from jdance.report import document
from jdance.reproduction.speed import machine

_DATA = flags.DEFINE_string(
    "data", None, "Data set with pictures, from launch/prepare.py.", required=True
)
_WORKERS = flags.DEFINE_integer("workers", 2, "Threads, or processes.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 64, "Images in a batch.", lower_bound=1)
_BATCHES = flags.DEFINE_integer("batches", 20, "Batches in a round.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each is timed.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "", "File for the result, as JSON.")
_RECORD = flags.DEFINE_string("record", "", "What an earlier --output wrote, to be held to.")


class Examples:
    """A data set as PyTorch's DataLoader takes it: everything but the batching is our own."""

    def __init__(self, folder: str, config: Any):
        self._folder, self._config = folder, config
        self._source: Any = None  # opened by each process for itself
        self._count = records.Dataset(folder).count("train")

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if self._source is None:
            self._source = records.Dataset(self._folder).source("train")
        rng = np.random.default_rng(index)
        return pipeline.example((index, self._source[index]), rng, config=self._config)


def _bare(source: records.Shards, config: Any, count: int) -> None:
    """Decodes and warps `count` pictures, and that is all."""
    size = config.data.image_size
    rng = np.random.default_rng(0)
    for index in range(count):
        data = records.unpack(source[index % len(source)]).image
        assert data is not None
        image = records.decode_image(data, augment.reduction(size))
        augment.warp_image(image, augment.matrix(size, rng, config.augment)[0], size)


def _consume(batches: Callable[[], Any], count: int) -> None:
    for _ in islice(batches(), count):
        pass


def main() -> None:
    try:
        import torch
        from torch.utils.data import DataLoader
    except ImportError as error:
        raise UserError("needs PyTorch: pip install -e '.[reference]'") from error
    dataset = records.Dataset(_DATA.value)
    source = dataset.source("train")
    config = defaults.base()
    config.batch_size, config.data.threads = _BATCH.value, _WORKERS.value
    config.model.layout = dataset.layout
    if dataset.sequences or records.unpack(source[0]).image is None:
        raise UserError(f"{dataset.folder}: has no pictures; name another --data")
    assert models.uses_image(config.model)
    images = _BATCH.value * _BATCHES.value
    if len(source) < images:
        raise UserError(
            f"{dataset.folder}: has {len(source)} examples, fewer than --batches={_BATCHES.value} "
            f"times --batch_size={_BATCH.value}; lower one"
        )
    torch.set_num_threads(1)  # as torch itself does in its workers
    examples: Any = Examples(_DATA.value, config)
    loader: Any = DataLoader(
        examples,
        _BATCH.value,
        shuffle=True,
        num_workers=_WORKERS.value,
        multiprocessing_context="spawn",
        persistent_workers=True,
        drop_last=True,
    )
    candidates = {
        "jdance": partial(_consume, lambda: pipeline.train_batches(source, config), _BATCHES.value),
        "DataLoader": partial(_consume, lambda: iter(loader), _BATCHES.value),
        "bare": partial(_bare, source, config, images),
    }
    times = timing.in_turn(candidates, _ROUNDS.value, warmup=1)
    ours = ("jdance", times["jdance"])
    comparisons = [
        ratios.Comparison("loader", ours, {"PyTorch's DataLoader": times["DataLoader"]}, images),
        ratios.Comparison("loader, a core", ours, {"bare decode and warp": times["bare"]}, images),
    ]
    caption = (
        f"{machine()}, {len(os.sched_getaffinity(0))} used; {_WORKERS.value} threads or processes, "
        f"jax {jax.__version__}, PyTorch {torch.__version__}; the CPU time of PyTorch's processes "
        "is not counted; the ratio to bare is that of CPU time"
    )
    print(document.table_markdown(ratios.table(comparisons, caption)))
    print(f"\n{caption}")
    if _OUTPUT.value:
        ratios.write(Path(_OUTPUT.value), comparisons, {"about": caption})
    if _RECORD.value:
        ratios.check(Path(_RECORD.value), comparisons[:1], "wall")
        ratios.check(Path(_RECORD.value), comparisons[1:], "cpu")


if __name__ == "__main__":
    run(main)
