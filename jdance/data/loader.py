"""From a data set to batches: a grain loader that is a pure function of the step.

Training examples are drawn, decoded and augmented by their position in one global, shuffled order;
resuming at a step needs nothing but the step, and the numbers depend neither on threads nor on
processes.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import cv2
import grain
import numpy as np
from ml_collections import ConfigDict

from jdance import config as defaults
from jdance import features, skeleton
from jdance.data import augment, device_cache, records, sampling, temporal
from jdance.data.randomness import BatchRandom, stream
from jdance.errors import UserError

Batch = dict[str, np.ndarray]


def batch(
    indices: Sequence[int],
    rngs: Sequence[np.random.Generator] | None,
    *,
    source: Any,
    config: ConfigDict,
    inputs: features.Inputs,
    drop: str = "",
    resides: bool = False,
) -> Batch:
    """The examples at some places of a source, changed at random if there are rngs.

    See `train_batches` for what is in it. What is drawn for one example depends on its rng alone;
    the arithmetic is that of the whole batch, as NumPy takes its time for each call.

    Args:
        indices: places in the source.
        rngs: one for each of them, or None.
        source: random access to packed records.
        config: the experiment.
        inputs: what the network takes.
        drop: joints to take away, see `eval_batches`.
        resides: whether the images reside on the device, see `resident`.
    """
    layout, size = skeleton.LAYOUTS[config.model.layout], config.data.image_size
    looks = inputs.image
    rng = None if rngs is None else BatchRandom(rngs)
    affines, mirrored = np.broadcast_to(augment.plain(size), (len(indices), 2, 3)), None
    disturbances = None
    if rng is not None:
        affines, mirrored = augment.draw_maps(size, rng, config.augment)
        if looks:
            disturbances = augment.draw_disturbances(size, rng, config.augment)
    result: Batch = {}
    images = None
    if looks and resides:
        result["back"] = np.stack([device_cache.back(affine, size) for affine in affines])
    elif looks:
        images = result["image"] = np.empty((len(indices), size, size, 3), np.uint8)
    factor = augment.reduction(size)
    onto = augment.for_reduced(affines, factor)
    keypoints: list[np.ndarray] = []
    labels = []
    for row, index in enumerate(indices):
        record = records.unpack(source[index])
        keypoints.append(_checked(record, keypoints, layout))
        labels.append(record.label)
        if not looks:
            continue
        if record.image is None:
            raise UserError(
                f"{record.source}: has no image; train --config.model.branches=keypoints"
            )
        if images is not None:
            # Where it is to lie: no image is copied.
            stored = records.decode_image(record.image, factor)
            augment.warp_image(stored, onto[row], size, out=images[row])
            if disturbances is not None:
                augment.disturb_image(images[row], disturbances, row)
    people = _in_time(keypoints, rng, config, inputs)
    people = augment.warp_keypoints(people, affines, mirrored, layout)
    if rng is not None:
        people = augment.disturb_keypoints(people, size, rng, config.augment, layout)
    if drop:
        people = _without(people, drop, indices, layout)
    valid = features.valid(people, layout)
    return result | {
        "features": inputs.compute(people, layout).astype(inputs.dtype, copy=False),
        "valid": valid.any(-1) if valid.ndim == 2 else valid,
        "label": np.array(labels, np.int32),
        "index": np.array(indices, np.int32),
        "weight": np.ones(len(indices), np.float32),
    }


def _checked(
    record: records.Example, before: list[np.ndarray], layout: skeleton.Layout
) -> np.ndarray:
    """The key points of a record, if they can be in one batch with those before."""
    found = record.keypoints
    if found.shape[-2] != len(layout) or (before and before[0].ndim != found.ndim):
        raise UserError(
            f"{record.source}: a record with key points {found.shape} among those of "
            f"{len(layout)} joints; prepare the data again"
        )
    return found


def _in_time(
    keypoints: list[np.ndarray],
    rng: BatchRandom | None,
    config: ConfigDict,
    inputs: features.Inputs,
) -> np.ndarray:
    """Skeletons [J, 3], or sequences [T, J, 3] of different lengths, as one array."""
    if keypoints[0].ndim == 2:
        return np.stack(keypoints)
    counts = np.array([len(sequence) for sequence in keypoints])
    at = temporal.times(counts, inputs.frames, rng, config.augment)
    if inputs.smooth:
        keypoints = [temporal.smooth(sequence) for sequence in keypoints]
    return np.stack([temporal.resample(*pair) for pair in zip(keypoints, at, strict=True)])


def _without(
    keypoints: np.ndarray, drop: str, indices: Sequence[int], layout: skeleton.Layout
) -> np.ndarray:
    """Key points [B, ..., J, 3] less some joints."""
    gone = np.zeros((len(indices), len(layout)), bool)
    if drop == "all":
        gone[:] = True
    elif drop == "legs":
        gone[:, layout.at(augment.LEGS)] = True
    else:
        rng = BatchRandom([np.random.default_rng(index) for index in indices])
        drawn = rng.uniform(len(layout)).T
        gone = drawn < float(drop)
    gone = gone.reshape(len(gone), *(1,) * (keypoints.ndim - 3), -1, 1)
    return np.where(gone, np.float32(0), keypoints)


def train_batches(
    source: Any,
    config: ConfigDict,
    inputs: features.Inputs,
    start_step: int = 0,
    process: int = 0,
    processes: int = 1,
    shares: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Endless training batches from `start_step` on.

    Args:
        source: random access to packed records.
        config: the experiment; `batch_size` counts the examples of all processes together.
        inputs: what the network takes.
        start_step: batches that earlier runs consumed.
        process, processes: which share of each global batch to make.
        shares: float [M], how often each class is drawn, see `sampling.Order`; None: every example
            comes once in an epoch.

    Yields:
        image uint8 [B, S, S, 3] RGB (unless the network looks at none; with `data.resident` back
        float32 [B, 2, 3], see `resident`), features (see
        `features.Inputs`), valid bool [B], label int32 [B], index int32 [B] (place
        in the source), weight float32 [B] (1).
    """
    make = partial(batch, source=source, config=config, inputs=inputs, resides=config.data.resident)
    return train_order(source, make, config, start_step, process, processes, shares)


def train_order(
    source: Any,
    make_batch: Callable[[Sequence[int], Sequence[np.random.Generator]], Batch],
    config: ConfigDict,
    start_step: int = 0,
    process: int = 0,
    processes: int = 1,
    shares: np.ndarray | None = None,
) -> Iterator[Batch]:
    """`train_batches` of whatever is made of places in the source and a generator for each."""
    order = grain.MapDataset.range(len(source)).seed(config.seed)
    if shares is None:
        order = order.shuffle().repeat().map_with_index(_placed)
    else:
        drawn = sampling.Order(records.labels(source), shares, config.seed)
        order = order.repeat().map_with_index(partial(_drawn, order=drawn))
    share = order[start_step * config.batch_size + process :: processes]

    def make(share: Sequence[tuple[int, int]]) -> Batch:
        # What is drawn depends on the place in the global order, whoever makes the batch.
        rngs = [stream("augment", config.seed, place) for place, _ in share]
        return make_batch([index for _, index in share], rngs)

    local_size = config.batch_size // processes
    return _read(share.batch(local_size, drop_remainder=True, batch_fn=make), config)


def eval_batches(
    source: Any,
    config: ConfigDict,
    inputs: features.Inputs,
    process: int = 0,
    processes: int = 1,
    *,
    drop: str = "",
    view: int = 0,
) -> Iterator[Batch]:
    """Every example once, in order; the last batch is filled up with weight 0.

    All processes yield equally many batches; see `train_batches` for what is in them.

    Args:
        source, config, inputs, process, processes: as for `train_batches`.
        drop: joints to take away: "all", "legs" (hips, knees, ankles) or a share such as "0.2",
            drawn for each example; "" none.
        view: 0 shows the examples unchanged, other numbers with small random changes, see
            `config.evaluation_views`, for test-time augmentation.
    """

    if view:
        config = config.copy_and_resolve_references()
        config.augment = defaults.evaluation_views(config.augment)

    def make(indices: Sequence[int]) -> Batch:
        rngs = [stream("views", config.seed, view, i) for i in indices] if view else None
        return batch(indices, rngs, source=source, config=config, inputs=inputs, drop=drop)

    local_size = config.batch_size // processes
    share = grain.MapDataset.range(len(source))[process::processes]
    batches = share.batch(local_size, batch_fn=make)
    count = 0
    for made in _read(batches, config) if len(share) else ():
        count += 1
        yield _filled(made, local_size)
    if count < (total := -(-len(source) // config.batch_size)):
        nothing = {name: value[:0] for name, value in make([0]).items()}
        for _ in range(count, total):
            yield _filled(nothing, local_size)


def _placed(place: int, index: int) -> tuple[int, int]:
    return place, index


def _drawn(place: int, _: int, order: sampling.Order) -> tuple[int, int]:
    return place, order(place)


def _read(batches: grain.MapDataset, config: ConfigDict) -> Iterator[Batch]:
    """Reads batches ahead, in order. Whole batches go to threads or processes: so neither matters
    for what is in them."""
    threads = config.data.threads
    _alone()
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2, threads))
    dataset = batches.to_iter_dataset(options)
    if not config.data.workers:
        return iter(dataset)
    processes = grain.MultiprocessingOptions(config.data.workers)
    return _by_processes(dataset.mp_prefetch(processes, worker_init_fn=_start_process))


def _alone() -> None:
    """OpenCV shall not divide its work: readers do, and its threads spin while they wait."""
    cv2.setNumThreads(1)


def _start_process(*_: int) -> None:
    """Ctrl-C, which every process of a terminal gets, is for the one that owns the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _alone()


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
