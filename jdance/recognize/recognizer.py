"""From images to a motion for everybody in them: what callers use of the compiled program."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from jdance import skeleton, xla
from jdance.errors import UserError
from jdance.pose import DecodeConfig, PoseEstimator
from jdance.progress import rounded
from jdance.recognize import canvas, program
from jdance.recognize.program import Network, Options, Recognized
from jdance.report import draw
from jdance.train import calibration, loop
from jdance.train.checkpoints import NEWEST

UNKNOWN = "unknown"  # the motion of whom the network is not sure enough

# Of a whole troupe nobody is left out.
DECODE = DecodeConfig(peaks_per_joint=40, max_people=40)

_PEOPLE = (8, 32, 128, 512)  # numbers of known people for which a program is compiled


@dataclass(frozen=True)
class Person:
    """A recognised person.

    Attributes:
        keypoints: float32 [18, 3] in pixels of the image, or None for a whole image.
        box: x, y, width, height of the key points, in pixels.
        motion: the most probable motion, or UNKNOWN.
        probabilities: float32 [M], in the order of the classes.
    """

    keypoints: np.ndarray | None
    box: tuple[float, float, float, float]
    motion: str
    probabilities: np.ndarray

    def to_json(self, track: int) -> dict[str, Any]:
        """The person's entry in the result file."""
        keypoints = self.keypoints
        return {
            "track": track,
            "box": rounded(self.box, 2).tolist(),
            "keypoints": None if keypoints is None else rounded(keypoints, 3).tolist(),
            "motion": self.motion,
            "probabilities": rounded(self.probabilities, 5).tolist(),
        }


class Recognizer:
    """A pose network and a trained motion network.

    Args:
        config: the experiment of the motion network.
        classes: the motions' names.
        variables: the motion network's variables.
        estimator: finds people; None: key points always come with the image.
        min_joints: people with fewer joints do not count as found.
        temperature: which the motion network's logits are divided by, see `calibration`.
        min_confidence: a person's motion is UNKNOWN where no motion is as probable as this.
        dtype: of the motion network's computation, float32 or bfloat16; None: as it was trained.

    Raises:
        UserError: the motion network is one for sequences.
    """

    def __init__(
        self,
        config: ConfigDict,
        classes: list[str],
        variables: Any,
        estimator: PoseEstimator | None = None,
        min_joints: int = 4,
        temperature: float = 1.0,
        min_confidence: float = 0.0,
        dtype: str | None = None,
    ):
        if dtype is not None:
            config = copy.deepcopy(config)
            config.model.dtype = dtype
        inputs = models.inputs(config.model)
        if not inputs.stills:
            raise UserError(
                "the run is a sequence network, which names motions of tracks, not of images; "
                "name it with --sequence_model, beside another --model"
            )
        if not inputs.feature_set:
            raise UserError(
                "the run is an STR network, whose maps are not part of the compiled program; judge "
                "it with launch/evaluate.py, or recognise with another --model"
            )
        self.config, self.classes, self.estimator = config, classes, estimator
        self.min_joints, self.min_confidence = min_joints, min_confidence
        self.network = Network.from_config(config)
        pose = () if estimator is None else estimator.variables
        self.variables = (pose, variables, jnp.float32(temperature))
        self._on_one = jax.device_put(self.variables, jax.devices()[0])
        self._on_all = self._on_one
        if jax.device_count() > 1:
            self._on_all = jax.device_put(self.variables, NamedSharding(_mesh(), PartitionSpec()))
        self.compiled = cache(self._compiled)

    @classmethod
    def load(
        cls,
        model: str | Path,
        pose: str | None = None,
        min_joints: int = 4,
        min_confidence: float = 0.0,
        dtype: str | None = None,
        checkpoint: str = NEWEST,
        pose_size: int = 0,
        pose_views: Sequence[str] = (),
    ) -> "Recognizer":
        """Loads a checkpoint of a run, and the pose network `pose` if one is named.

        Where the run has been calibrated, its probabilities are. Both networks compute in `dtype`;
        None: as they were trained. `pose_size` and `pose_views` are what `PoseEstimator` calls
        `size` and `view_names`.

        Raises:
            UserError: either of them cannot be used.
        """
        folder = Path(model)
        config, classes, variables = loop.load(folder, checkpoint)
        if config.task == "pose":
            raise UserError(f"{folder}: is a pose network; name it with --pose")
        estimator = None
        if pose:
            estimator = PoseEstimator.load(pose, DECODE, dtype, pose_size, pose_views)
        temperature = calibration.temperature_of(folder, checkpoint)
        # One copy: the checkpoint's are on all devices.
        variables = jax.device_get(variables)
        return cls(
            config, classes, variables, estimator, min_joints, temperature, min_confidence, dtype
        )

    def function(self, known: bool = False) -> Any:
        """The pure program: (variables, `Options`, frames uint8 [B, H, W, 3], sizes int32 [B, 2])
        -> `Recognized`; if people are `known`, with their key points [B, P, 18, 3] as a last
        argument.

        `variables` are those of the attribute.
        """
        estimator, network = self.estimator, self.network
        if not known and estimator is None:
            raise UserError("key points are not known; choose a pose network with --pose")

        def recognize(
            variables: Any, options: Options, frames: Any, sizes: Any, *keypoints: Any
        ) -> Recognized:
            pose, motion, temperature = variables
            if known:
                (people,) = keypoints
            else:
                assert estimator is not None
                people = program.detect(
                    estimator.pure_people, estimator.size, pose, frames, sizes, options.min_joints
                )
            return program.classify(network, motion, temperature, frames, sizes, people, options)

        return recognize

    def _compiled(self, known: bool, shared: bool) -> Any:
        function = self.function(known)
        if shared:
            rows, all_ = PartitionSpec("frames"), PartitionSpec()
            function = jax.shard_map(
                function,
                mesh=_mesh(),
                in_specs=(all_, all_) + (rows,) * (3 if known else 2),
                out_specs=rows,
                check_vma=False,
            )
        return jax.jit(function, compiler_options=xla.inference_options())

    def start(
        self,
        images: Sequence[np.ndarray],
        keypoints: Sequence[np.ndarray] | None = None,
        *,
        whole_image: bool = False,
        size: tuple[int, int] | None = None,
    ) -> Recognized:
        """Starts to recognise everybody in images, and returns before it is done.

        All devices share the images where their number divides that of the images.

        Args:
            images: B images uint8 RGB [H, W, 3], of any sizes.
            keypoints: float32 [N, 18, 3] of the people of each, if they are known.
            whole_image: where nobody is found, judge the image as a whole.
            size: height and width of the canvas; None: one of a few that suit the images.

        Returns:
            The result on the device; `people` waits for it.
        """
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ValueError(f"expected uint8 [H, W, 3], got {image.dtype} {image.shape}")
        sizes = np.array([image.shape[:2] for image in images], np.int32)
        inputs = [canvas.pad(images, size), sizes]
        if keypoints is not None:
            most = max([len(people) for people in keypoints] + [1])
            rows = next((count for count in _PEOPLE if count >= most), most)
            padded = np.zeros((len(images), rows, skeleton.NUM_JOINTS, 3), np.float32)
            for row, people in zip(padded, keypoints, strict=True):
                row[: len(people)] = people
            inputs.append(padded)
        options = Options(np.int32(self.min_joints), np.bool_(whole_image))
        shared = jax.device_count() > 1 and len(images) % jax.device_count() == 0
        variables: Any = self._on_one
        place: Any = (jax.devices()[0],) * 2
        if shared:
            variables = self._on_all
            specs = PartitionSpec(), PartitionSpec("frames")
            place = tuple(NamedSharding(_mesh(), spec) for spec in specs)
        run = self.compiled(keypoints is not None, shared)
        options, inputs = jax.device_put((options, inputs), place)
        return run(variables, options, *inputs)

    def people(self, found: Recognized) -> list[list[Person]]:
        """What `start` recognised, for each image, from left to right (known: in their order)."""
        host = jax.device_get(found)
        result = []
        for row, valid in enumerate(host.valid):
            result.append(
                [
                    self._person(
                        None if host.whole[row] else host.keypoints[row, i],
                        host.box[row, i],
                        host.probabilities[row, i],
                    )
                    for i in np.flatnonzero(valid)
                ]
            )
        return result

    def _person(
        self, keypoints: np.ndarray | None, box: np.ndarray, probabilities: np.ndarray
    ) -> Person:
        x, y, width, height = (float(value) for value in box)
        motion = predicted_motion(probabilities, self.classes, self.min_confidence)
        return Person(keypoints, (x, y, width, height), motion, probabilities)

    def __call__(
        self,
        image: np.ndarray,
        keypoints: np.ndarray | None = None,
        *,
        whole_image: bool = False,
    ) -> list[Person]:
        """Recognises everybody in an image.

        Args:
            image: uint8 RGB [H, W, 3].
            keypoints: float32 [N, 18, 3] of the people, if they are known; else they are sought.
            whole_image: if nobody is found, judge the image as a whole.

        Returns:
            The people from left to right (known ones: in their order); maybe none.
        """
        known = None if keypoints is None else [keypoints]
        return self.people(self.dispatch([image], known, whole_image=whole_image))[0]


@cache
def _mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((jax.device_count(),), ("frames",))


def predicted_motion(probabilities: np.ndarray, classes: Sequence[str], min_confidence: float) -> str:
    """The most probable motion, or UNKNOWN where it is less probable than that."""
    best = int(probabilities.argmax())
    return classes[best] if probabilities[best] >= min_confidence else UNKNOWN


def annotate(image: np.ndarray, people: list[Person], classes: list[str]) -> np.ndarray:
    """Draws skeleton, box, motion and probability of every person: uint8 RGB [H, W, 3]."""
    return draw.people(
        image,
        [person.keypoints for person in people],
        [person.box for person in people],
        [f"{person.motion} {person.probabilities.max():.2f}" for person in people],
        [class_index(person.motion, classes) for person in people],
    )


def class_index(motion: str, classes: Sequence[str]) -> int:
    """The number that chooses a motion's colour: its place, or -1 where it is UNKNOWN."""
    return -1 if motion == UNKNOWN else classes.index(motion)
