"""The pose estimator: images in, people with their key points out."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike, DTypeLike

from jdance import skeleton
from jdance.errors import UserError
from jdance.pose import importers, views, weights, zoo
from jdance.pose.decode import DecodeConfig, People
from jdance.pose.letterbox import letterbox, to_image

_DEFAULT_DECODE = DecodeConfig()
_LARGEST_SIZE = 4096  # pixels


class PoseEstimator:
    """A pose network with its weights, compiled once for each batch shape.

    Args:
        config: which network, as `weights.build` takes it.
        variables: its Flax variables.
        decode_config: how its maps become people.
        dtype: of the network's computation, float32 or bfloat16; maps are float32 all the same.
        size: side of the square input in pixels; 0: what suits the network.
        view_names: the mirrored and turned copies to run as well, of `views.VIEWS`.

    Attributes:
        config, variables, decode_config, size: as above.
        network: the kind of network.
        pure_maps: (variables, uint8 [B, H, W, 3]) -> maps, as `maps`, to be part of a program.
        pure_people: (variables, uint8 [B, H, W, 3], min_joints=None) -> `People` in pixels of
            these images, to be part of a program. min_joints, int32 [], takes the place of the one
            in `decode_config`.

    Raises:
        UserError: the variables are of another network, or the size or a view is impossible.
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
        if size % network.multiple or not 0 <= size <= _LARGEST_SIZE:
            raise UserError(
                f"--pose_size={size}: must be a multiple of {network.multiple} for "
                f"{config['network']}, at most {_LARGEST_SIZE}"
            )
        self.config = dict(config)
        self.variables = jax.device_put(variables)
        self.decode_config = decode_config
        self.network = network
        self.size = size or network.size

        def maps(variables: weights.Variables, images: jax.Array) -> Any:
            # In full float32 everywhere: a GPU's TF32 would give other maps than a CPU.
            with jax.default_matmul_precision("highest"):
                return net.apply(variables, network.preprocess(images))

        def people(
            variables: weights.Variables, images: jax.Array, min_joints: ArrayLike | None = None
        ) -> People:
            needed = decode_config.min_joints if min_joints is None else min_joints
            seen = views.add(images, view_names) if view_names else images
            found = network.decode(maps(variables, seen), decode_config, needed)
            if not view_names:
                return found
            height, width = images.shape[1:3]
            return views.merge(found, view_names, height, width, decode_config.max_people)

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
                - "stage": the light network that jdance brings, trained on StageDance alone;
                - the name of a published network of `zoo.DOWNLOADS`: its weights come from the
                  cache or are downloaded. In "mobilenet_v2_small" batch norm uses fixed statistics
                  that jdance brings;
                - a published file that `importers.import_file` reads, or a folder with one.
                  Of mobilenet_v2_small's graph (.pb) batch norm uses the statistics of each
                  image, as the published graph does;
                - a pose checkpoint: a folder of `weights.save`, or an .npz of `weights.pack`.
            decode_config, dtype, size, view_names: see the class.

        Raises:
            UserError: none of these, or a damaged one.
        """
        config, variables = _load(str(pose))
        return cls(config, variables, decode_config, dtype, size, view_names)

    def maps(self, images: Any) -> Any:
        """Runs the network alone.

        Args:
            images: uint8 RGB [B, H, W, 3], H and W multiples of `network.multiple`.

        Returns:
            The network's outputs, float32: of most networks heat [B, H/8, W/8, 19] and paf
            [B, H/8, W/8, 38].
        """
        return self._maps(self.variables, self._on_device(images))

    def __call__(self, images: Any) -> People:
        """Finds people: images as for `maps` -> `People` in pixels of these images."""
        return self._people(self.variables, self._on_device(images))

    def _on_device(self, images: Any) -> jax.Array:
        shape, multiple = tuple(images.shape), self.network.multiple
        is_batch = images.dtype == np.uint8 and len(shape) == 4 and shape[3] == 3
        if not is_batch or shape[1] % multiple or shape[2] % multiple:
            raise ValueError(
                f"expected images uint8 [B, H, W, 3] with H and W multiples of {multiple}, got "
                f"{images.dtype} {shape}"
            )
        # Said explicitly, so that it works where implicit transfers are disallowed.
        return jax.device_put(images)

    def on_all_devices(self) -> Callable[[np.ndarray], People]:
        """`__call__` with the batch sharded over the local devices, which must divide it."""
        mesh = Mesh(np.array(jax.local_devices()), ("batch",))
        variables = jax.device_put(self.variables, NamedSharding(mesh, PartitionSpec()))
        shards = NamedSharding(mesh, PartitionSpec("batch"))

        def detect(images: np.ndarray) -> People:
            sharded = images.reshape(mesh.size, -1, *images.shape[1:])
            found = self._mapped_people(variables, jax.device_put(sharded, shards))
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.device_get(found))

        return detect

    @cached_property
    def _mapped_people(self) -> Callable[..., People]:
        return jax.pmap(self.pure_people, in_axes=(None, 0), devices=jax.local_devices())

    def people(self, image: np.ndarray) -> np.ndarray:
        """Finds the people in one image of any size.

        Args:
            image: uint8 RGB [H, W, 3].

        Returns:
            float32 [N, 18, 3] in pixels of the image, from left to right; N may be 0.
        """
        square, _ = letterbox(image, self.size)
        found = jax.device_get(self(square[None]))
        height, width = image.shape[:2]
        keypoints = to_image(found.keypoints[0][found.valid[0]], height, width, self.size)
        keypoints = keypoints[skeleton.is_present(keypoints).any(axis=-1)]
        return keypoints[np.argsort(_box_centres(keypoints), kind="stable")]


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


def _box_centres(keypoints: np.ndarray) -> np.ndarray:
    """The x of the centre of each person's box: [N, 18, 3] -> [N]."""
    present = skeleton.is_present(keypoints)
    x = keypoints[..., 0]
    left = np.where(present, x, np.inf).min(axis=-1)
    right = np.where(present, x, -np.inf).max(axis=-1)
    return (left + right) / 2
