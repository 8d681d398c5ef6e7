"""From a data set to batches: a grain loader that is a pure function of the step.

Training examples are drawn, decoded and augmented by their position in one global, shuffled order;
resuming at a step needs nothing but the step, and the numbers depend neither on threads nor on
processes.
"""

import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grain
import numpy as np
from ml_collections import ConfigDict

from jdance import features, models, skeleton
from jdance.data import augment, records, resident, sampling, tempo
from jdance.errors import UserError

Batch = dict[str, np.ndarray]


def example(
    item: tuple[int, bytes],
    rng: np.random.Generator | None,
    *,
    config: ConfigDict,
    drop: str = "",
    resides: bool = False,
) -> Batch:
    """One packed record -> what is to be seen of it, changed at random if there is an rng.

    `drop` takes joints away, see `eval_batches`. Where the picture `resides` on the device, the map
    to it takes its place, see `resident`.
    """
    index, data = item
    record = records.unpack(data)
    layout, size = skeleton.LAYOUTS[config.model.layout], config.data.image_size
    keypoints = record.keypoints
    if keypoints.ndim == 3:
        at = tempo.times(len(keypoints), config.model.sequence.frames, rng, config.augment)
        if config.model.branches == "sequence":  # STR's maps are smoothed in their own way
            keypoints = tempo.smooth(keypoints)
        keypoints = tempo.resample(keypoints, at)
    affine, mirrored = augment.matrix(size, rng, config.augment)
    keypoints = augment.warp_keypoints(keypoints, affine, mirrored, layout)
    if rng is not None:
        keypoints = augment.disturb_keypoints(keypoints, size, rng, config.augment, layout)
    if drop:
        keypoints = _without(keypoints, drop, index, layout)
    result: Batch = {
        "keypoints": keypoints,
        "label": np.asarray(record.label, np.int32),
        "index": np.asarray(index, np.int32),
        "weight": np.ones((), np.float32),
    }
    if models.uses_image(config.model):
        if record.image is None:
            raise UserError(
                f"{record.source}: has no picture; train --config.model.branches=keypoints"
            )
        if resides:
            result["back"] = resident.back(affine, size)
            return result
        image = records.decode_image(record.image, augment.reduction(size))
        image = augment.warp_image(image, affine, size)
        if rng is not None:
            image = augment.disturb_image(image, rng, config.augment)
        result["image"] = image
    return result


def _without(keypoints: np.ndarray, drop: str, index: int, layout: skeleton.Layout) -> np.ndarray:
    """Key points [..., J, 3] less some joints."""
    if drop == "all":
        gone = np.ones(len(layout), bool)
    elif drop == "legs":
        gone = np.isin(np.arange(len(layout)), layout.at(augment.LEGS))
    else:
        gone = np.random.default_rng(index).random(len(layout)) < float(drop)
    return np.where(gone[:, None], 0, keypoints).astype(np.float32)


def _with_features(batch: Batch, config: ConfigDict) -> Batch:
    """Features in place of key points; of a whole batch at once, which is quicker."""
    batch = dict(batch)
    keypoints = batch.pop("keypoints")
    layout = skeleton.LAYOUTS[config.model.layout]
    valid = features.valid(keypoints, layout)
    batch["features"] = models.compute_features(config.model, keypoints, layout)
    batch["valid"] = valid.any(-1) if valid.ndim == 2 else valid
    return batch


def _indexed(source: Any) -> grain.MapDataset:
    count = len(source)  # a repeated data set counts on through its epochs
    return grain.MapDataset.source(source).map_with_index(lambda i, data: (i % count, data))


def train_batches(
    source: Any,
    config: ConfigDict,
    start_step: int = 0,
    process: int = 0,
    processes: int = 1,
    shares: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Endless training batches from `start_step` on.

    Args:
        source: random access to packed records.
        config: the experiment; `batch_size` counts the examples of all processes together.
        start_step: batches that earlier runs consumed.
        process, processes: which share of each global batch to make.
        shares: float [M], how often each class is drawn, see `sampling.Order`; None: every example
            comes once in an epoch.

    Yields:
        image uint8 [B, S, S, 3] RGB (unless the network looks at none; with `data.resident` back
        float32 [B, 2, 3], see `resident`), features (see
        `models.compute_features`), valid bool [B], label int32 [B], index int32 [B] (place
        in the source), weight float32 [B] (1).
    """
    return train_examples(
        source,
        partial(example, config=config, resides=config.data.resident),
        config,
        start_step,
        process,
        processes,
        finish=partial(_with_features, config=config),
        shares=shares,
    )


def train_examples(
    source: Any,
    make_example: Callable[[tuple[int, bytes], np.random.Generator], Batch],
    config: ConfigDict,
    start_step: int = 0,
    process: int = 0,
    processes: int = 1,
    finish: Callable[[Batch], Batch] | None = None,
    shares: np.ndarray | None = None,
) -> Iterator[Batch]:
    """`train_batches` of whatever `make_example` makes of a record's index and bytes.

    `finish` completes whole batches.
    """
    local_size = config.batch_size // processes
    if shares is None:
        dataset = _indexed(source).seed(config.seed).shuffle().repeat()
    else:
        order = sampling.Order(records.labels(source), shares, config.seed)
        dataset = grain.MapDataset.range(len(source)).seed(config.seed).repeat()
        dataset = dataset.map_with_index(partial(_drawn, source=source, order=order))
    # Augment before slicing: what is drawn depends on the place in the global order.
    dataset = dataset.random_map(make_example)
    dataset = dataset[start_step * config.batch_size + process :: processes]
    batches = dataset.batch(local_size, drop_remainder=True)
    return _read(batches.map(finish) if finish else batches, config)


def eval_batches(
    source: Any,
    config: ConfigDict,
    process: int = 0,
    processes: int = 1,
    *,
    drop: str = "",
    view: int = 0,
) -> Iterator[Batch]:
    """Every example once, in order; the last batch is filled up with weight 0.

    All processes yield equally many batches; see `train_batches` for what is in them.

    Args:
        source, config, process, processes: as for `train_batches`.
        drop: joints to take away: "all", "legs" (hips, knees, ankles) or a share such as "0.2",
            drawn for each example; "" none.
        view: 0 shows the examples unchanged, other numbers as random changes, drawn as in
            training, for test-time augmentation.
    """
    local_size = config.batch_size // processes
    dataset = _indexed(source)
    if view:
        dataset = dataset.seed(config.seed + view).random_map(
            partial(example, config=config, drop=drop)
        )
    else:
        dataset = dataset.map(partial(example, rng=None, config=config, drop=drop))
    share = dataset[process::processes]
    count = 0
    batches = share.batch(local_size).map(partial(_with_features, config=config))
    for batch in _read(batches, config) if len(share) else ():
        count += 1
        yield _filled(batch, local_size)
    if count < (total := -(-len(source) // config.batch_size)):
        first = {name: np.asarray(value)[None] for name, value in dataset[0].items()}
        nothing = {name: value[:0] for name, value in _with_features(first, config).items()}
        for _ in range(count, total):
            yield _filled(nothing, local_size)


def _drawn(place: int, _: Any, source: Any, order: sampling.Order) -> tuple[int, bytes]:
    index = order(place)
    return index, source[index]


def _read(batches: grain.MapDataset, config: ConfigDict) -> Iterator[Batch]:
    """Reads batches ahead, in order. Whole batches go to threads or processes: so neither matters
    for what is in them."""
    threads = config.data.threads
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2, threads))
    dataset = batches.to_iter_dataset(options)
    if not config.data.workers:
        return iter(dataset)
    processes = grain.MultiprocessingOptions(config.data.workers)
    return _by_processes(dataset.mp_prefetch(processes, worker_init_fn=_without_interrupts))


def _without_interrupts(*_: int) -> None:
    """Ctrl-C, which every process of a terminal gets, is for the one that owns the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_open: list[Any] = []


def _by_processes(dataset: grain.IterDataset) -> Iterator[Batch]:
    """The batches that loader processes make; one that has died is told in one line."""
    batches = iter(dataset)
    _open.append(batches)
    try:
        yield from batches
    except RuntimeError as error:
        if "process" not in str(error):
            raise
        raise UserError(
            f"a process that reads data has died ({str(error).partition('.')[0]}): killed, or out "
            "of memory? Start again, maybe with fewer --config.data.workers"
        ) from None
    finally:
        if batches in _open:
            _open.remove(batches)
            batches.close()


def close_processes() -> None:
    """Ends all loader processes of this one; without that they outlive it and complain."""
    while _open:
        _open.pop().close()


def _filled(batch: Batch, size: int) -> Batch:
    missing = size - len(batch["label"])
    if not missing:
        return batch
    return {
        name: np.concatenate([value, np.zeros((missing, *value.shape[1:]), value.dtype)])
        for name, value in batch.items()
    }
