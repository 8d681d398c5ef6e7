"""The pose estimator: pictures in, people with their key points out."""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from jdance import skeleton
from jdance.errors import UserError
from jdance.pose import download, importers, weights
from jdance.pose.decode import DecodeConfig, People, decode
from jdance.pose.letterbox import letterbox, to_picture

_DEFAULT_DECODE = DecodeConfig()


class PoseEstimator:
    """A pose network with its weights, compiled once for each batch shape.

    Attributes:
        config: which network, as `weights.build` takes it.
        variables: its Flax variables.
        decode_config: how its maps become people.
        pure_maps: (variables, uint8 [B, H, W, 3]) -> maps, as `maps`, to be part of a program.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        variables: weights.Variables,
        decode_config: DecodeConfig = _DEFAULT_DECODE,
        dtype: DTypeLike | None = None,
    ):
        net: Any = weights.build(config)
        if dtype is not None:
            net = net.clone(dtype=dtype)
        weights.check(net, variables, source=f"variables for {config['network']}")
        self.config = dict(config)
        self.variables = jax.device_put(variables)
        self.decode_config = decode_config

        def maps(variables: weights.Variables, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            bgr = images[..., ::-1].astype(jnp.float32)
            # In full float32 everywhere: a GPU's TF32 would give other maps than a CPU.
            with jax.default_matmul_precision("highest"):
                heat, paf = net.apply(variables, bgr)
            return heat.astype(jnp.float32), paf.astype(jnp.float32)

        def people(variables: weights.Variables, images: jax.Array) -> People:
            return decode(*maps(variables, images), decode_config)

        self.pure_maps = maps
        self._maps = jax.jit(maps)
        self._people = jax.jit(people)
        self._pure_people = people

    @classmethod
    def load(
        cls,
        pose: str | Path,
        decode_config: DecodeConfig = _DEFAULT_DECODE,
        dtype: DTypeLike | None = None,
    ) -> "PoseEstimator":
        """Loads a pose network.

        Args:
            pose: one of
                - "stage": the light network that jdance brings, trained on StageDance alone;
                - the name of a published network, "mobilenet_v2_small": its weights come from the
                  cache or are downloaded, batch norm uses fixed statistics that jdance brings;
                - the file of that network as published (.pb): batch norm uses the statistics of
                  each picture, as the published graph does;
                - OpenPose's weights for COCO, a .caffemodel or a PyTorch .pth;
                - a pose checkpoint: a folder of `weights.save`, or an .npz of `weights.pack`.
            decode_config: how maps become people.
            dtype: of the network's computation, float32 or bfloat16; maps are float32 all the same.

        Raises:
            UserError: none of these, or a damaged one.
        """
        path = Path(pose)
        if str(pose) in weights.SHIPPED:
            return cls(*weights.unpack(weights.SHIPPED[str(pose)]), decode_config, dtype)
        if str(pose) in download.SOURCES:
            name = str(pose)
            published = weights.import_mobilenet_v2_small(download.find(name))
            variables = weights.with_statistics(published, weights.default_statistics())
            return cls({"network": name, "statistics": "fixed"}, variables, decode_config, dtype)
        if path.is_dir():
            return cls(*weights.load(path), decode_config, dtype)
        if path.suffix == ".npz" and path.is_file():
            return cls(*weights.unpack(path), decode_config, dtype)
        if path.is_file():
            return cls(*importers.import_file(path), decode_config, dtype)
        raise UserError(
            f"{pose}: no such pose network, weights file or pose checkpoint; "
            f"known networks: {', '.join([*weights.SHIPPED, *download.SOURCES])}"
        )

    def maps(self, images: Any) -> tuple[jax.Array, jax.Array]:
        """Runs the network alone.

        Args:
            images: uint8 RGB [B, H, W, 3], H and W multiples of 16; 368 x 368 is what the
                published networks were trained on.

        Returns:
            heat [B, H/8, W/8, 19] and paf [B, H/8, W/8, 38], float32.
        """
        return self._maps(self.variables, _on_device(images))

    def __call__(self, images: Any) -> People:
        """Finds people: images as for `maps` -> `People` in pixels of these images."""
        return self._people(self.variables, _on_device(images))

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
        return jax.pmap(self._pure_people, in_axes=(None, 0), devices=jax.local_devices())

    def people(self, image: np.ndarray) -> np.ndarray:
        """Finds the people in one picture of any size.

        Args:
            image: uint8 RGB [H, W, 3].

        Returns:
            float32 [N, 18, 3] in pixels of the picture, from left to right; N may be 0.
        """
        square, _ = letterbox(image)
        found = jax.device_get(self(square[None]))
        keypoints = to_picture(found.keypoints[0][found.valid[0]], *image.shape[:2])
        keypoints = keypoints[skeleton.is_present(keypoints).any(axis=-1)]
        return keypoints[np.argsort(_box_centres(keypoints), kind="stable")]


def _on_device(images: Any) -> jax.Array:
    shape = tuple(images.shape)
    if (
        images.dtype != np.uint8
        or len(shape) != 4
        or shape[3] != 3
        or shape[1] % 16
        or shape[2] % 16
    ):
        raise ValueError(
            f"expected images uint8 [B, H, W, 3] with H and W multiples of 16, got "
            f"{images.dtype} {shape}"
        )
    # Said explicitly, so that it works where implicit transfers are disallowed.
    return jax.device_put(images)


def _box_centres(keypoints: np.ndarray) -> np.ndarray:
    """The x of the centre of each person's box: [N, 18, 3] -> [N]."""
    present = skeleton.is_present(keypoints)
    x = keypoints[..., 0]
    left = np.where(present, x, np.inf).min(axis=-1)
    right = np.where(present, x, -np.inf).max(axis=-1)
    return (left + right) / 2
