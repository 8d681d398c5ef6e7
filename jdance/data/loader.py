"""Data loader (grain) whose batches are a pure function of the step.

Training examples are drawn, decoded and augmented by their position in one global shuffled order.
Batches depend neither on threads nor on processes, and resuming needs only the step.
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
    on_device: bool = False,
) -> Batch:
    """Makes a batch of examples, as `train_batches` yields it.

    The random numbers of an example depend on its rng only; NumPy processes the batch as a whole.

    Args:
        indices: indices of B examples in the source.
        rngs: B generators for augmentation, or None.
        source: random access to packed records.
        config: the experiment.
        inputs: inputs of the network.
        drop: joints to remove, see `eval_batches`.
        on_device: whether images are cached on the device, see `device_cache`.
    """
    layout, size = skeleton.LAYOUTS[config.model.layout], config.data.image_size
    rng = None if rngs is None else BatchRandom(rngs)
    affines, mirrored = np.broadcast_to(augment.center_affine(size), (len(indices), 2, 3)), None
    distortions = None
    if rng is not None:
        affines, mirrored = augment.draw_affines(size, rng, config.augment)
        if inputs.image:
            distortions = augment.draw_distortions(size, rng, config.augment)
    result: Batch = {}
    images = None
    if inputs.image and on_device:
        result["inverse_affine"] = np.stack([device_cache.inverse_affine(a, size) for a in affines])
    elif inputs.image:
        images = result["image"] = np.empty((len(indices), size, size, 3), np.uint8)
    factor = augment.reduction(size)
    reduced = augment.reduce_affine(affines, factor)
    keypoints: list[np.ndarray] = []
    labels = []
    for row, index in enumerate(indices):
        record = records.unpack(source[index])
        _check_shape(record, keypoints, layout)
        keypoints.append(record.keypoints)
        labels.append(record.label)
        if not inputs.image:
            continue
        if record.image is None:
            raise UserError(
                f"{record.source}: has no image; train --config.model.branches=keypoints"
            )
        if images is not None:
            stored = records.decode_image(record.image, factor)
            augment.warp_image(stored, reduced[row], size, out=images[row])  # without a copy
            if distortions is not None:
                augment.distort_image(images[row], distortions, row)
    people = _stack(keypoints, rng, config, inputs)
    people = augment.warp_keypoints(people, affines, mirrored, layout)
    if rng is not None:
        people = augment.distort_keypoints(people, size, rng, config.augment, layout)
    if drop:
        people = _drop_joints(people, drop, indices, layout)
    valid = features.valid(people, layout)
    return result | {
        "features": inputs.compute(people, layout).astype(inputs.dtype, copy=False),
        "valid": valid.any(-1) if valid.ndim == 2 else valid,
        "label": np.array(labels, np.int32),
        "index": np.array(indices, np.int32),
        "weight": np.ones(len(indices), np.float32),
    }


def _check_shape(
    record: records.Example, others: list[np.ndarray], layout: skeleton.Layout
) -> None:
    """Raises UserError if a record's key points cannot be batched with others."""
    shape = record.keypoints.shape
    if shape[-2] != len(layout) or (others and others[0].ndim != len(shape)):
        raise UserError(
            f"{record.source}: a record with key points {shape} among those of "
            f"{len(layout)} joints; prepare the data again"
        )


def _stack(
    keypoints: list[np.ndarray],
    rng: BatchRandom | None,
    config: ConfigDict,
    inputs: features.Inputs,
) -> np.ndarray:
    """Stacks skeletons [J, 3], or resampled sequences [T, J, 3] of different lengths."""
    if keypoints[0].ndim == 2:
        return np.stack(keypoints)
    counts = np.array([len(sequence) for sequence in keypoints])
    at = temporal.sample_times(counts, inputs.frames, rng, config.augment)
    if inputs.smooth:
        keypoints = [temporal.median_filter(sequence) for sequence in keypoints]
    return np.stack([temporal.resample(*pair) for pair in zip(keypoints, at, strict=True)])


def _drop_joints(
    keypoints: np.ndarray, drop: str, indices: Sequence[int], layout: skeleton.Layout
) -> np.ndarray:
    """Sets some joints of key points [B, ..., J, 3] to 0, see `eval_batches`."""
    dropped = np.zeros((len(indices), len(layout)), bool)
    if drop == "all":
        dropped[:] = True
    elif drop == "legs":
        dropped[:, layout.at(augment.LEGS)] = True
    else:
        rng = BatchRandom([np.random.default_rng(index) for index in indices])
        dropped = float(drop) > rng.uniform(len(layout)).T
    dropped = dropped.reshape(len(dropped), *(1,) * (keypoints.ndim - 3), -1, 1)
    return np.where(dropped, np.float32(0), keypoints)


def train_batches(
    source: Any,
    config: ConfigDict,
    inputs: features.Inputs,
    start_step: int = 0,
    process: int = 0,
    processes: int = 1,
    fractions: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Yields training batches without end.

    Args:
        source: random access to packed records.
        config: the experiment; `batch_size` is the global batch size.
        inputs: inputs of the network.
        start_step: number of batches to skip, when a run is resumed.
        process, processes: index of this process and their number; each yields its shard of every
            global batch.
        fractions: fraction drawn of each class, float [M], see `sampling.Order`; None: every
            example occurs once per epoch.

    Yields:
        features (see `features.Inputs`), valid bool [B], label int32 [B], index int32 [B] (in the
        source), weight float32 [B] (1), and for networks with an image branch image uint8
        [B, S, S, 3] RGB, or with `data.resident` inverse_affine float32 [B, 2, 3] (see
        `device_cache`). With `augment.mixup` also partner_label int32 [B] and partner_weight
        float32 [B].

    Raises:
        UserError: mixup of images that are cached on the device.
    """
    make = partial(
        batch, source=source, config=config, inputs=inputs, on_device=config.data.resident
    )
    if config.augment.mixup:
        if config.data.resident:
            raise UserError(
                "--config.augment.mixup mixes images before they are sent to the device; use it "
                "without --config.data.resident"
            )
        make = partial(_mixed, make=make, alpha=config.augment.mixup, count=len(source))
    return ordered_batches(source, make, config, start_step, process, processes, fractions)


def _mixed(
    indices: Sequence[int],
    rngs: Sequence[np.random.Generator],
    *,
    make: Callable[[Sequence[int], Sequence[np.random.Generator]], Batch],
    alpha: float,
    count: int,
) -> Batch:
    """Makes a batch whose examples are mixed with others of the data set (Zhang et al., 2018).

    Each example keeps at least half of its weight, and all of it if only one of the two has key
    points.

    Args:
        indices, rngs: as for `batch`.
        make: makes batches of examples.
        alpha: the weights are from Beta(alpha, alpha).
        count: number of examples in the data set.
    """
    drawn = np.array([(rng.integers(count), rng.beta(alpha, alpha)) for rng in rngs])
    mixed = make(indices, rngs)
    partner = make(drawn[:, 0].astype(int).tolist(), rngs)
    weight = np.minimum(drawn[:, 1], 1 - drawn[:, 1])
    weight = np.where(mixed["valid"] == partner["valid"], weight, 0).astype(np.float32)
    for name in ("features", "image"):
        if name in mixed:
            kind = mixed[name].dtype
            each = weight.reshape(-1, *(1,) * (mixed[name].ndim - 1))
            value = (1 - each) * mixed[name] + each * partner[name]
            mixed[name] = value.astype(kind) if kind == np.float32 else np.rint(value).astype(kind)
    return mixed | {"partner_label": partner["label"], "partner_weight": weight}


def ordered_batches(
    source: Any,
    make_batch: Callable[[Sequence[int], Sequence[np.random.Generator]], Batch],
    config: ConfigDict,
    start_step: int = 0,
    process: int = 0,
    processes: int = 1,
    fractions: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Yields `make_batch(indices, rngs)` in the order of `train_batches`."""
    order = grain.MapDataset.range(len(source)).seed(config.seed)
    if fractions is None:
        order = order.shuffle().repeat().map_with_index(_with_position)
    else:
        drawn = sampling.Order(records.read_labels(source), fractions, config.seed)
        order = order.repeat().map_with_index(partial(_sample, order=drawn))
    local = order[start_step * config.batch_size + process :: processes]

    def make(items: Sequence[tuple[int, int]]) -> Batch:
        # Random numbers depend on the position in the global order only.
        rngs = [stream("augment", config.seed, position) for position, _ in items]
        return make_batch([index for _, index in items], rngs)

    local_size = config.batch_size // processes
    return _read(local.batch(local_size, drop_remainder=True, batch_fn=make), config)


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
    """Yields every example once, in order; the last batch is padded with weight 0.

    All processes yield the same number of batches, with the arrays of `train_batches`.

    Args:
        source, config, inputs, process, processes: as for `train_batches`.
        drop: joints to remove: "all", "legs" (hips, knees, ankles), a fraction such as "0.2" drawn
            for each example, or "" for none.
        view: 0 for no augmentation; other numbers for different views of test-time augmentation
            (see `config.evaluation_views`).
    """
    if view:
        config = config.copy_and_resolve_references()
        config.augment = defaults.evaluation_views(config.augment)

    def make(indices: Sequence[int]) -> Batch:
        rngs = [stream("views", config.seed, view, i) for i in indices] if view else None
        return batch(indices, rngs, source=source, config=config, inputs=inputs, drop=drop)

    local_size = config.batch_size // processes
    local = grain.MapDataset.range(len(source))[process::processes]
    batches = local.batch(local_size, batch_fn=make)
    count = 0
    for made in _read(batches, config) if len(local) else ():
        count += 1
        yield _pad(made, local_size)
    if count < (total := -(-len(source) // config.batch_size)):
        empty = {name: value[:0] for name, value in make([0]).items()}
        for _ in range(count, total):
            yield _pad(empty, local_size)


def _with_position(position: int, index: int) -> tuple[int, int]:
    return position, index


def _sample(position: int, _: int, order: sampling.Order) -> tuple[int, int]:
    return position, order(position)


def _read(batches: grain.MapDataset, config: ConfigDict) -> Iterator[Batch]:
    """Prefetches batches in order; each one is made by a single thread or process."""
    threads = config.data.threads
    _limit_opencv()
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2, threads))
    dataset = batches.to_iter_dataset(options)
    if not config.data.workers:
        return iter(dataset)
    processes = grain.MultiprocessingOptions(config.data.workers)
    return _from_workers(dataset.mp_prefetch(processes, worker_init_fn=_init_worker))


def _limit_opencv() -> None:
    """Disables OpenCV's threads, which busy-wait beside those of the loader."""
    cv2.setNumThreads(1)


def _init_worker(*_: int) -> None:
    """Leaves Ctrl-C to the parent process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit_opencv()


_open: list[Any] = []


def _from_workers(dataset: grain.IterDataset) -> Iterator[Batch]:
    """Yields the batches of loader processes; raises UserError if one of them dies."""
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
    """Ends all loader processes, which otherwise outlive this process."""
    while _open:
        _open.pop().close()


def _pad(batch: Batch, size: int) -> Batch:
    """Pads a batch to `size` examples of zeros."""
    missing = size - len(batch["label"])
    if not missing:
        return batch
    return {
        name: np.concatenate([value, np.zeros((missing, *value.shape[1:]), value.dtype)])
        for name, value in batch.items()
    }
