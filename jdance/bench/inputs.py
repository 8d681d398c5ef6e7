"""Random batches with the shapes and dtypes of a configuration's data, and its training step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from jdance import models, skeleton
from jdance.data import augment, crop, device_cache, pose_loader
from jdance.data.loader import Batch
from jdance.pose.letterbox import INPUT_SIZE
from jdance.stagedance import stage
from jdance.train import distributed, evaluation, nonfinite, state, steps
from jdance.train.compiled import Step, StepState, packing, train_step
from jdance.train.tasks import Task

_STEPS_PER_EPOCH = 100  # of the learning rate schedule; any value works


def batch(config: ConfigDict, size: int) -> Batch:
    """Returns a random host batch of `size` examples, with the keys of `Task.train_batches`."""
    rng = np.random.default_rng(0)
    side = config.data.image_size
    image = rng.integers(0, 256, (size, side, side, 3), np.uint8)
    result: Batch = {"index": np.arange(size, dtype=np.int32)}
    if config.task == "pose":
        people = rng.uniform(1, side, (size, config.data.max_people, skeleton.NUM_JOINTS, 3))
        cells = side // pose_loader.STRIDE
        return result | {
            "image": image,
            "keypoints": people.astype(np.float32),
            "mask": np.ones((size, cells, cells), np.float32),
        }
    inputs = models.inputs(config.model)
    shape = (size, *inputs.shape)
    if inputs.dtype is np.uint8:
        features = rng.integers(0, 256, shape, np.uint8)
    else:
        features = rng.normal(size=shape).astype(inputs.dtype)
    result |= {
        "features": features,
        "valid": np.ones(size, bool),
        "label": rng.integers(0, config.model.classes, size, np.int32),
        "weight": np.ones(size, np.float32),
    }
    if not inputs.image:
        return result
    if config.data.resident:
        return result | {
            "inverse_affine": np.stack(
                [device_cache.inverse_affine(augment.center_affine(side), side)] * size
            )
        }
    return result | {"image": image}


def batch_shapes(config: ConfigDict, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes and dtypes of `batch`."""
    one = batch(config, 1)
    return {name: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) for name, x in one.items()}


def make_step(task: Task) -> tuple[Step, StepState]:
    """Builds a task's training step and its initial state, replicated over all devices.

    The step's last argument is the result of `random_images`.
    """
    config = task.config
    optimizer = make_optimizer(task)
    model = task.model(axis_name=steps.AXIS)
    fresh = state.create(model, optimizer, config.seed, task.input_shapes())
    fresh = distributed.replicate(distributed.broadcast(fresh))
    packed = jax.jit(packing(task, optimizer).pack)(fresh)
    start = StepState(packed, distributed.replicate(nonfinite.empty()))
    return train_step(task, model, optimizer), start


def runnable_steps(task: Task) -> tuple[Callable[[], None], Callable[[], None]]:
    """Returns functions that run one training step and one evaluation step of a motion network."""
    step, current = make_step(task)
    batch = device_batch(task)
    unpack = jax.jit(packing(task, make_optimizer(task)).unpack)
    # A copy: the step donates its state, and the packed arrays may be shared.
    variables = jax.tree.map(jnp.copy, unpack(current.train_state).variables)
    eval_step = evaluation.make_eval_step(task.config)

    def train() -> None:
        nonlocal current
        current, metrics = step(current, batch, None)
        jax.block_until_ready((current, metrics))

    def evaluate() -> None:
        jax.block_until_ready(eval_step(variables, batch))

    return train, evaluate


def make_optimizer(task: Task) -> optax.GradientTransformation:
    """Builds a task's optimizer, with an arbitrary number of steps per epoch."""
    config = task.config
    schedule = state.make_schedule(
        config.optimizer, _STEPS_PER_EPOCH, _STEPS_PER_EPOCH, config.batch_size
    )
    return state.make_optimizer(config.optimizer, schedule, 0, task.lr_multipliers)


def cached_images_shape(config: ConfigDict) -> jax.ShapeDtypeStruct | None:
    """Returns the shape of the images cached on every device; None: without a device cache."""
    if "inverse_affine" not in batch_shapes(config, 1):
        return None
    side = crop.SIZE // augment.reduction(config.data.image_size)
    return jax.ShapeDtypeStruct((config.batch_size, side, side, 3), np.uint8)


def random_images(task: Task) -> jax.Array | None:
    """Returns random images of `cached_images_shape`, replicated over all devices."""
    shape = cached_images_shape(task.config)
    if shape is None:
        return None
    rng = np.random.default_rng(0)
    return distributed.replicate(rng.integers(0, 256, shape.shape, np.uint8))


def device_batch(task: Task) -> dict[str, jax.Array]:
    """Returns a random batch, sharded over the devices."""
    config = task.config
    local = batch(config, config.batch_size // jax.process_count())
    return jax.block_until_ready(distributed.shard(local))


def crowd(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Renders up to 24 dancers on four stages, each a quarter of the image.

    Returns:
        The image uint8 RGB [368, 368, 3], black in quarters without people, and the people float32
        [count, 18, 3].
    """
    side = INPUT_SIZE // 2
    image = np.zeros((INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
    people: list[np.ndarray] = []
    for quarter in range(4):
        take = min(stage.MAX_DANCERS, count - len(people))
        if take < 1:
            break
        scene = stage.render_scene(1, quarter, 0, motions=range(take), width=side, height=side)
        y, x = quarter // 2 * side, quarter % 2 * side
        image[y : y + side, x : x + side] = scene.image
        corner = np.array([x, y, 0])
        people += [d.keypoints + corner * (d.keypoints[:, 2:] > 0) for d in scene.dancers]
    return image, np.array(people, np.float32).reshape(-1, 18, 3)
