"""From a data set to batches: a grain loader that is a pure function of the step.

Training examples are drawn, decoded and augmented by their position in one global, shuffled order;
resuming at a step needs nothing but the step, and the numbers depend neither on threads nor on
processes.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grain
import numpy as np
from ml_collections import ConfigDict

from jdance import features, models
from jdance.data import augment, records
from jdance.errors import UserError

Batch = dict[str, np.ndarray]


def example(
    item: tuple[int, bytes],
    rng: np.random.Generator | None,
    *,
    image_size: int,
    use_image: bool,
    feature_set: str,
    augmentation: ConfigDict,
) -> Batch:
    """One packed record -> what the network sees of it, changed at random if there is an rng."""
    index, data = item
    record = records.unpack(data)
    affine, mirrored = augment.matrix(image_size, rng, augmentation)
    keypoints = augment.warp_keypoints(record.keypoints, affine, mirrored)
    if rng is not None:
        keypoints = augment.disturb_keypoints(keypoints, image_size, rng, augmentation)
    result = {
        "features": features.compute(feature_set, keypoints),
        "valid": features.valid(keypoints),
        "label": np.int32(record.label),
        "index": np.int32(index),
        "weight": np.float32(1),
    }
    if use_image:
        if record.image is None:
            raise UserError(
                f"{record.source}: has no picture; train --config.model.branches=keypoints"
            )
        image = records.decode_image(record.image, augment.reduction(image_size))
        image = augment.warp_image(image, affine, image_size)
        if rng is not None:
            image = augment.disturb_image(image, rng, augmentation)
        result["image"] = image
    return result


def _indexed(source: Any) -> grain.MapDataset:
    count = len(source)  # a repeated data set counts on through its epochs
    return grain.MapDataset.source(source).map_with_index(lambda i, data: (i % count, data))


def _example_function(config: ConfigDict) -> Any:
    return partial(
        example,
        image_size=config.data.image_size,
        use_image=models.uses_image(config.model),
        feature_set=config.model.features,
        augmentation=config.augment,
    )


def train_batches(
    source: Any, config: ConfigDict, start_step: int = 0, process: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """Endless training batches from `start_step` on.

    Args:
        source: random access to packed records.
        config: the experiment; `batch_size` counts the examples of all processes together.
        start_step: batches that earlier runs consumed.
        process, processes: which share of each global batch to make.

    Yields:
        image uint8 [B, S, S, 3] RGB, features float32 [B, D], valid bool [B], label int32 [B],
        index int32 [B] (place in the source), weight float32 [B] (1).
    """
    return train_examples(source, _example_function(config), config, start_step, process, processes)


def train_examples(
    source: Any,
    make_example: Callable[[tuple[int, bytes], np.random.Generator], Batch],
    config: ConfigDict,
    start_step: int = 0,
    process: int = 0,
    processes: int = 1,
) -> Iterator[Batch]:
    """`train_batches` of whatever `make_example` makes of a record's index and bytes."""
    local_size = config.batch_size // processes
    dataset = _indexed(source).seed(config.seed).shuffle().repeat()
    # Augment before slicing: what is drawn depends on the place in the global order.
    dataset = dataset.random_map(make_example)
    dataset = dataset[start_step * config.batch_size + process :: processes]
    return iter(_read(dataset.batch(local_size, drop_remainder=True), config))


def eval_batches(
    source: Any, config: ConfigDict, process: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """Every example once, in order, unchanged; the last batch is filled up with weight 0.

    All processes yield equally many batches; see `train_batches` for what is in them.
    """
    local_size = config.batch_size // processes
    plain = _indexed(source).map(partial(_example_function(config), rng=None))
    share = plain[process::processes]
    count = 0
    for batch in _read(share.batch(local_size), config) if len(share) else ():
        count += 1
        yield _filled(batch, local_size)
    nothing = {name: np.zeros_like(value)[None][:0] for name, value in plain[0].items()}
    for _ in range(count, -(-len(source) // config.batch_size)):
        yield _filled(nothing, local_size)


def without_keypoints(batch: Batch) -> Batch:
    """The batch as it would be if nobody had been found in any picture."""
    silent = {name: np.zeros_like(batch[name]) for name in ("features", "valid")}
    return batch | silent


def _read(batches: grain.MapDataset, config: ConfigDict) -> grain.IterDataset:
    """Reads batches ahead, in order. Whole batches go to threads or processes: so neither matters
    for what is in them."""
    threads = config.data.threads
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2, threads))
    dataset = batches.to_iter_dataset(options)
    if config.data.workers:
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(config.data.workers))
    return dataset


def _filled(batch: Batch, size: int) -> Batch:
    missing = size - len(batch["label"])
    if not missing:
        return batch
    return {
        name: np.concatenate([value, np.zeros((missing, *value.shape[1:]), value.dtype)])
        for name, value in batch.items()
    }
