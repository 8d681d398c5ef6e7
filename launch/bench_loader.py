"""Benchmarks the data loader against PyTorch's DataLoader and against bare decoding.

python launch/bench_loader.py --data=data/stage --workers=2

Needs PyTorch (`pip install -e '.[bench]'` on Python 3.11). All candidates process the same images,
round after round: "jdance" in --workers threads, "DataLoader" in --workers processes, and "bare",
which only reads, decodes and warps, in a single thread. OpenCV uses one thread everywhere.
"""

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
from jdance.bench import ratios, timing
from jdance.cli import check_local, run
from jdance.data import augment, loader, records
from jdance.data.randomness import BatchRandom
from jdance.errors import UserError
from jdance.paper.speed import machine
from jdance.report import html
from jdance.xla import cores

_DATA = flags.DEFINE_string(
    "data", None, "Data set with images by launch/prepare.py.", required=True
)
_WORKERS = flags.DEFINE_integer(
    "workers", 2, "Number of threads (jdance) or processes (DataLoader).", lower_bound=1
)
_BATCH = flags.DEFINE_integer("batch_size", 64, "Images per batch.", lower_bound=1)
_BATCHES = flags.DEFINE_integer("batches", 100, "Batches per round.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Number of timed rounds.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "", "JSON file for the result.")
_RECORD = flags.DEFINE_string(
    "record", "", "JSON file by an earlier --output; fails where a ratio has fallen by 20 %."
)


def _bare(source: records.Shards, config: Any, count: int) -> None:
    """Reads, decodes and warps `count` images."""
    size = config.data.image_size
    rngs = [np.random.default_rng(row) for row in range(config.batch_size)]
    maps, _ = augment.draw_affines(size, BatchRandom(rngs), config.augment)
    maps = augment.reduce_affine(maps, augment.reduction(size))
    for index in range(count):
        data = records.unpack(source[index % len(source)]).image
        assert data is not None
        image = records.decode_image(data, augment.reduction(size))
        augment.warp_image(image, maps[index % len(maps)], size)


def _consume(batches: Callable[[], Any], count: int) -> None:
    for _ in islice(batches(), count):
        pass


def main() -> None:
    check_local(_OUTPUT)
    try:
        import torch

        from jdance.bench import torch_loader
    except ImportError as error:
        raise UserError(
            "needs PyTorch: pip install -e '.[bench]' (Python 3.11), or pip install torch"
        ) from error
    dataset = records.Dataset(_DATA.value)
    source = dataset.source("train")
    config = defaults.base()
    config.batch_size, config.data.threads = _BATCH.value, _WORKERS.value
    config.model.layout = dataset.layout
    if dataset.sequences or records.unpack(source[0]).image is None:
        raise UserError(f"{dataset.folder}: has no images; name another --data")
    assert models.inputs(config.model).image
    images = _BATCH.value * _BATCHES.value
    torch.set_num_threads(1)  # as torch itself does in its workers
    torch_batches = torch_loader.make_loader(_DATA.value, config, _WORKERS.value, images)
    candidates = {
        "jdance": partial(
            _consume,
            lambda: loader.train_batches(source, config, models.inputs(config.model)),
            _BATCHES.value,
        ),
        "DataLoader": partial(_consume, lambda: iter(torch_batches), _BATCHES.value),
        "bare": partial(_bare, source, config, images),
    }
    times = timing.interleave(candidates, _ROUNDS.value, warmup=1)
    own = ("jdance", times["jdance"])
    comparisons = [
        ratios.Comparison("loader", own, {"PyTorch's DataLoader": times["DataLoader"]}, images),
        ratios.Comparison("loader, a core", own, {"bare decode and warp": times["bare"]}, images),
    ]
    caption = (
        f"{machine()}, {cores()} used; {_WORKERS.value} threads or processes, "
        f"jax {jax.__version__}, PyTorch {torch.__version__}; the CPU time of PyTorch's processes "
        "is not counted; the ratio to bare is that of CPU time"
    )
    print(html.table_markdown(ratios.table(comparisons, caption)))
    print(f"\n{caption}")
    if _OUTPUT.value:
        ratios.write(Path(_OUTPUT.value), comparisons, {"about": caption})
    if _RECORD.value:
        ratios.check(Path(_RECORD.value), comparisons[:1], "wall")
        ratios.check(Path(_RECORD.value), comparisons[1:], "cpu")


if __name__ == "__main__":
    run(main, keep_memory=True)
