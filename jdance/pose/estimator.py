"""The pose estimator: detects people and their key points in images."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike, DTypeLike

from jdance import skeleton
from jdance.data import crop
from jdance.errors import UserError
from jdance.pose import importers, views, weights, zoo
from jdance.pose.decode import DecodeConfig, People
from jdance.pose.letterbox import letterbox, to_image

_DEFAULT_DECODE = DecodeConfig()
_MAX_SIZE = 4096  # pixels


class PoseEstimator:
    """A pose network with its weights, compiled once for each batch shape.

    Args:
        config: of the network, see `weights.build`.
        variables: its Flax variables.
        decode_config: parameters of the decoder.
        dtype: of the network's computation, float32 or bfloat16; outputs are float32.
        size: side of the square input in pixels; 0: the network's default.
        view_names: test-time augmentations, keys of `views.VIEWS`.

    Attributes:
        config, variables, decode_config, size: as above.
        network: the entry in `networks.NETWORKS`.
        pure_maps: (variables, uint8 [B, H, W, 3]) -> outputs, the pure function behind `maps`.
        pure_people: (variables, uint8 [B, H, W, 3], min_joints=None) -> `People`, the pure function
            behind `__call__`. min_joints, int32 [], overrides the one in `decode_config`.

    Raises:
        UserError: variables of another network, or an invalid size or view.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        variables: weights.Variables,
        decode_config: DecodeConfig = _DEFAULT_DECODE,
        dtype: DTypeLike | None = None,
        size: int = 0,
        view_names: Sequence[str] = (),
    ):
        net: Any = weights.build(config)
        if dtype is not None:
            net = net.clone(dtype=dtype)
        weights.check(net, variables, source=f"variables for {config['network']}")
        views.check(view_names)
        network = weights.find_network(config["network"])
        if size % network.multiple or not 0 <= size <= _MAX_SIZE:
            raise UserError(
                f"--pose_size={size}: must be a multiple of {network.multiple} for "
                f"{config['network']}, at most {_MAX_SIZE}"
            )
        self.config = dict(config)
        self.variables = jax.device_put(variables)
        self.decode_config = decode_config
        self.network = network
        self.size = size or network.size

        def maps(variables: weights.Variables, images: jax.Array) -> Any:
            # Full float32, because TF32 on GPUs gives different maps than the CPU.
            with jax.default_matmul_precision("highest"):
                return net.apply(variables, network.preprocess(images))

        def people(
            variables: weights.Variables, images: jax.Array, min_joints: ArrayLike | None = None
        ) -> People:
            needed = decode_config.min_joints if min_joints is None else min_joints
            inputs = views.add(images, view_names) if view_names else images
            detected = network.decode(maps(variables, inputs), decode_config, needed)
            if not view_names:
                return detected
            height, width = images.shape[1:3]
            return views.merge(detected, view_names, height, width, decode_config.max_people)

        self.pure_maps = maps
        self.pure_people = people
        self._maps = jax.jit(maps)
        self._people = jax.jit(people)

    @classmethod
    def load(
        cls,
        pose: str | Path,
        decode_config: DecodeConfig = _DEFAULT_DECODE,
        dtype: DTypeLike | None = None,
        size: int = 0,
        view_names: Sequence[str] = (),
    ) -> "PoseEstimator":
        """Loads a pose network.

        Args:
            pose: one of
                - "stage": the light network in the package, trained on StageDance only;
                - a key of `zoo.DOWNLOADS`: published weights, downloaded on first use.
                  "mobilenet_v2_small" uses the fixed batch-norm statistics in the package;
                - a published file, see `importers.import_file`, or a folder with one.
                  mobilenet_v2_small's graph (.pb) uses the batch-norm statistics of each image;
                - a pose checkpoint: a folder by `weights.save`, or an .npz by `weights.pack`.
            decode_config, dtype, size, view_names: see the class.

        Raises:
            UserError: none of these, or a damaged file.
        """
        config, variables = _load(str(pose))
        return cls(config, variables, decode_config, dtype, size, view_names)

    def maps(self, images: Any) -> Any:
        """Runs the network without the decoder.

        Args:
            images: uint8 RGB [B, H, W, 3], H and W multiples of `network.multiple`.

        Returns:
            The network's outputs, float32; for most networks heat [B, H/8, W/8, 19] and paf
            [B, H/8, W/8, 38].
        """
        return self._maps(self.variables, self._on_device(images))

    def __call__(self, images: Any) -> People:
        """Detects `People` in a batch of images (as for `maps`), in pixels of these images."""
        return self._people(self.variables, self._on_device(images))

    def _on_device(self, images: Any) -> jax.Array:
        shape, multiple = tuple(images.shape), self.network.multiple
        is_batch = images.dtype == np.uint8 and len(shape) == 4 and shape[3] == 3
        if not is_batch or shape[1] % multiple or shape[2] % multiple:
            raise ValueError(
                f"expected images uint8 [B, H, W, 3] with H and W multiples of {multiple}, got "
                f"{images.dtype} {shape}"
            )
        # An explicit transfer, as transfer guards disallow implicit ones.
        return jax.device_put(images)

    def on_all_devices(self) -> Callable[[np.ndarray], People]:
        """`__call__` with the batch sharded over the local devices; they must divide it."""
        mesh = Mesh(np.array(jax.local_devices()), ("batch",))
        variables = jax.device_put(self.variables, NamedSharding(mesh, PartitionSpec()))
        shards = NamedSharding(mesh, PartitionSpec("batch"))

        def detect(images: np.ndarray) -> People:
            sharded = images.reshape(mesh.size, -1, *images.shape[1:])
            detected = self._mapped_people(variables, jax.device_put(sharded, shards))
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.device_get(detected))

        return detect

    @cached_property
    def _mapped_people(self) -> Callable[..., People]:
        return jax.pmap(self.pure_people, in_axes=(None, 0), devices=jax.local_devices())

    def people(self, image: np.ndarray) -> np.ndarray:
        """Detects the people in one image of any size.

        Args:
            image: uint8 RGB [H, W, 3].

        Returns:
            float32 [N, 18, 3] in pixels of the image, from left to right; N can be 0.
        """
        square, _ = letterbox(image, self.size)
        detected = jax.device_get(self(square[None]))
        height, width = image.shape[:2]
        keypoints = to_image(detected.keypoints[0][detected.valid[0]], height, width, self.size)
        keypoints = keypoints[skeleton.is_present(keypoints).any(axis=-1)]
        return crop.from_left(keypoints)


def _load(pose: str) -> tuple[dict[str, Any], weights.Variables]:
    """Configuration and variables, see `PoseEstimator.load`."""
    path = Path(pose)
    if pose in weights.SHIPPED:
        return weights.unpack(weights.SHIPPED[pose])
    if pose in zoo.DOWNLOADS:
        config, variables = importers.import_file(zoo.find(pose))
        if config.get("statistics") == "instance":
            config["statistics"] = "fixed"
            variables = weights.with_statistics(variables, weights.default_statistics())
        return config, variables
    if path.is_dir():
        published = importers.find(path)
        return importers.import_file(published) if published else weights.load(path)
    if path.suffix == ".npz" and path.is_file():
        return weights.unpack(path)
    if path.is_file():
        return importers.import_file(path)
    raise UserError(
        f"{pose}: no such pose network, weights file or pose checkpoint; "
        f"known networks: {', '.join([*weights.SHIPPED, *zoo.DOWNLOADS])}"
    )
