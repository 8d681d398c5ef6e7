"""The Python API of recognition: images in, people with their motions out."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from jdance import models, skeleton, xla
from jdance.data import images as image_files
from jdance.data import openpose_json
from jdance.errors import UserError
from jdance.pose import DecodeConfig, PoseEstimator, zoo
from jdance.progress import reporter, rounded
from jdance.recognize import canvas, packed, program
from jdance.recognize.ledger import digest
from jdance.recognize.program import Network, Options, Recognized
from jdance.recognize.sequences import SequenceClassifier
from jdance.report import draw
from jdance.train.calibration import UNKNOWN
from jdance.train.checkpoints import NEWEST

if TYPE_CHECKING:
    from jdance.recognize.results import ImageResult, VideoResult

DECODE = DecodeConfig(peaks_per_joint=40, max_people=40)

_PEOPLE = (8, 32, 128, 512)  # given key points are padded to these numbers of people


@dataclass(frozen=True)
class Person:
    """A recognized person.

    Attributes:
        keypoints: float32 [18, 3] in pixels of the image, or None for a whole image.
        box: x, y, width, height of the key points in pixels.
        motion: the most probable motion, or UNKNOWN.
        probabilities: float32 [M], in the order of the classes.
    """

    keypoints: np.ndarray | None
    box: tuple[float, float, float, float]
    motion: str
    probabilities: np.ndarray

    def to_json(self, track: int) -> dict[str, Any]:
        """Returns the person's entry in the result file."""
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
        config: configuration of the motion network's experiment.
        classes: names of the motions.
        variables: variables of the motion network.
        estimator: the pose network; None: key points are always given.
        min_joints: minimum number of joints of a person.
        temperature: divides the motion network's logits, see `calibration`.
        min_confidence: motions below this probability become UNKNOWN.
        dtype: computation dtype of the motion network, float32 or bfloat16; None: as in training.
        source: source of the motion network's data set, see `experiment.source`.

    Raises:
        UserError: the motion network is a sequence network or does not use a named feature set.
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
        source: str = "",
    ):
        if dtype is not None:
            config = copy.deepcopy(config)
            config.model.dtype = dtype
        inputs = models.inputs(config.model)
        if not inputs.stills:
            raise UserError(
                "the run is a sequence network, which classifies tracks, not images; give it as "
                "--sequence_model, beside another --model"
            )
        if not inputs.feature_set:
            raise UserError(
                f"recognition does not support networks with inputs of their own (model.branches="
                f"{config.model.branches}); evaluate the run with launch/evaluate.py, or choose "
                "another --model"
            )
        self.config, self.classes, self.estimator = config, classes, estimator
        self.min_joints, self.min_confidence, self.source = min_joints, min_confidence, source
        self.network = Network.from_config(config)
        pose = () if estimator is None else estimator.variables
        self.variables = (pose, variables, jnp.float32(temperature))
        self._on_first_device = jax.device_put(self.variables, jax.devices()[0])
        self._replicated = self._on_first_device
        if jax.device_count() > 1:
            sharding = NamedSharding(_mesh(), PartitionSpec())
            self._replicated = jax.device_put(self.variables, sharding)
        self.compiled = cache(self._compiled)
        self._load_classifier = cache(partial(SequenceClassifier.choose, model=""))
        self._video_min_confidence: float | None = None

    @classmethod
    def load(
        cls,
        model: str | Path,
        pose: str | None = "",
        min_joints: int = 4,
        min_confidence: float | None = None,
        dtype: str | None = None,
        checkpoint: str = NEWEST,
        pose_size: int = 0,
        pose_views: Sequence[str] = (),
    ) -> "Recognizer":
        """Loads a motion network with its calibration, and a pose network.

        Args:
            model: folder of a run, a file by `packed.pack`, or "dance6", which is part of jdance.
            pose: see `PoseEstimator.load`; "": the most accurate one that is in the cache or can be
                downloaded; None: key points are always given.
            min_joints: see the class.
            min_confidence: see the class; None: the motion network's own.
            dtype: computation dtype of both networks; None: as in training.
            checkpoint: which checkpoint to load, see `train.checkpoints`.
            pose_size, pose_views: `size` and `view_names` of `PoseEstimator`.

        Raises:
            UserError: a network cannot be used.
        """
        motion = packed.load(model, checkpoint)
        if motion.config.task == "pose":
            raise UserError(f"{model}: is a pose network; give it as --pose")
        estimator = None
        if pose is not None:
            pose = pose or zoo.choose()
            estimator = PoseEstimator.load(pose, DECODE, dtype, pose_size, pose_views)
        recognizer = cls(
            motion.config,
            motion.classes,
            jax.device_get(motion.variables),  # a checkpoint's are on all devices
            estimator,
            min_joints,
            motion.temperature,
            motion.min_confidence if min_confidence is None else min_confidence,
            dtype,
            motion.source,
        )
        recognizer._load_classifier = cache(partial(SequenceClassifier.choose, model=str(model)))
        recognizer._video_min_confidence = min_confidence
        return recognizer

    def digests(self) -> dict[str, str]:
        """SHA-256 of the motion network with its calibration, and of the pose network ("": none).

        Results depend on them, besides the arguments of `load`.
        """
        pose, *motion = jax.device_get(self.variables)
        model, size = self.config.model.to_dict(), self.config.data.image_size
        return {
            "model": digest(motion, model, size, self.classes, self.min_confidence),
            "pose": digest(pose, self.estimator.config) if self.estimator else "",
        }

    def function(self, known: bool = False) -> Any:
        """Returns the pure program.

        Args:
            known: whether key points are given, as the program's last argument.

        Returns:
            (`Recognizer.variables`, `Options`, frames uint8 [B, H, W, 3], sizes int32 [B, 2]
            [, key points float32 [B, P, 18, 3]]) -> `Recognized`.
        """
        estimator, network = self.estimator, self.network
        if not known and estimator is None:
            raise UserError("no key points are given; choose a pose network with --pose")

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

    def _compiled(self, known: bool, sharded: bool) -> Any:
        function = self.function(known)
        if sharded:
            batch, replicated = PartitionSpec("frames"), PartitionSpec()
            function = jax.shard_map(
                function,
                mesh=_mesh(),
                in_specs=(replicated, replicated) + (batch,) * (3 if known else 2),
                out_specs=batch,
                check_vma=False,
            )
        return jax.jit(function, compiler_options=xla.inference_options())

    def dispatch(
        self,
        images: Sequence[np.ndarray],
        keypoints: Sequence[np.ndarray] | None = None,
        *,
        whole_image: bool = False,
        size: tuple[int, int] | None = None,
    ) -> Recognized:
        """Dispatches recognition asynchronously, sharded if the device count divides the batch.

        Args:
            images: B images uint8 RGB [H, W, 3], of any sizes.
            keypoints: float32 [N, 18, 3] for each image; None: people are detected.
            whole_image: whether to classify the whole image where no person is detected.
            size: height and width of the canvas; None: see `canvas.canvas_size`.

        Returns:
            The result on the device; `people` waits for it.
        """
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ValueError(f"expected uint8 [H, W, 3], got {image.dtype} {image.shape}")
        sizes = np.array([image.shape[:2] for image in images], np.int32)
        inputs = [canvas.pad(images, size), sizes]
        if keypoints is not None:
            longest = max([len(people) for people in keypoints] + [1])
            rows = next((count for count in _PEOPLE if count >= longest), longest)
            padded = np.zeros((len(images), rows, skeleton.NUM_JOINTS, 3), np.float32)
            for row, people in zip(padded, keypoints, strict=True):
                row[: len(people)] = people
            inputs.append(padded)
        options = Options(np.int32(self.min_joints), np.bool_(whole_image))
        sharded = jax.device_count() > 1 and len(images) % jax.device_count() == 0
        variables: Any = self._on_first_device
        shardings: Any = (jax.devices()[0],) * 2
        if sharded:
            variables = self._replicated
            specs = PartitionSpec(), PartitionSpec("frames")
            shardings = tuple(NamedSharding(_mesh(), spec) for spec in specs)
        run = self.compiled(keypoints is not None, sharded)
        options, inputs = jax.device_put((options, inputs), shardings)
        return run(variables, options, *inputs)

    def people(self, recognized: Recognized) -> list[list[Person]]:
        """Fetches the people of each image, from left to right (given ones: in their order)."""
        host = jax.device_get(recognized)
        return [
            [
                self._person(
                    None if host.whole[row] else host.keypoints[row, i],
                    host.box[row, i],
                    host.probabilities[row, i],
                )
                for i in np.flatnonzero(valid)
            ]
            for row, valid in enumerate(host.valid)
        ]

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
        """Recognizes all people in an image.

        Args:
            image: uint8 RGB [H, W, 3].
            keypoints: float32 [N, 18, 3] of the people; None: they are detected.
            whole_image: whether to classify the whole image if no person is detected.

        Returns:
            The people from left to right (given ones: in their order), possibly none.
        """
        known = None if keypoints is None else [keypoints]
        return self.people(self.dispatch([image], known, whole_image=whole_image))[0]

    def image(
        self,
        source: str | Path | np.ndarray,
        keypoints: str | Path | np.ndarray | None = None,
        *,
        whole_image: bool = False,
    ) -> "ImageResult":
        """Recognizes all people in an image; the result shows itself in a notebook.

        Args:
            source: an image file, or uint8 RGB [H, W, 3].
            keypoints: float32 [N, 18, 3] of the people, or OpenPose's JSON file; None: they are
                detected.
            whole_image: whether to classify the whole image if no person is detected.

        Raises:
            UserError: a file cannot be read, or there is no pose network.
        """
        from jdance.recognize.results import ImageResult  # which imports this module

        pixels = source if isinstance(source, np.ndarray) else image_files.read(source)
        if isinstance(keypoints, str | Path):
            keypoints = openpose_json.read(Path(keypoints), pixels.shape[:2])
        people = self(pixels, keypoints, whole_image=whole_image)
        name = "" if isinstance(source, np.ndarray) else str(source)
        return ImageResult(pixels, people, self.classes, name)

    def video(
        self,
        source: str | Path,
        *,
        every: int = 1,
        start: float = 0.0,
        end: float = float("inf"),
        fps: float = 30.0,
        keypoints: str | Path | None = None,
        sequence_model: str | None = None,
    ) -> "VideoResult":
        """Recognizes the dancers in a video; the result shows itself in a notebook.

        The result keeps the people of all frames in memory, without images. For long videos,
        `video.recognize_video` writes to files instead.

        Args:
            source: a video file, a folder of OpenPose JSON files (frames of one clip), or
                "camera:N" with `end`.
            every: process every Nth frame.
            start, end: time range in seconds.
            fps: frame rate of a clip of skeletons.
            keypoints: folder with OpenPose JSON for each frame; None: people are detected.
            sequence_model: classifies the motions of tracks, as --sequence_model; None: the
                sequence form of this network, if there is one.

        Raises:
            UserError: nothing can be read, or there is no pose network.
        """
        from jdance.recognize import results, video  # which import this module

        settings = video.Settings(
            every=every, start=start, end=end, fps=fps, min_confidence=self._video_min_confidence
        )
        classifier = self._load_classifier(sequence_model)
        collector = results.Collector()
        if Path(source).is_dir():
            problem = video.recognize_skeletons(
                self, Path(source), None, settings, classifier=classifier, collector=collector
            )
        else:
            problem = video.recognize_video(
                self, source, None, settings,
                keypoints=None if keypoints is None else Path(keypoints),
                classifier=classifier, collector=collector,
                on_progress=reporter(Path(source).name),
            )  # fmt: skip
        return collector.result(problem, settings)


@cache
def _mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((jax.device_count(),), ("frames",))


def predicted_motion(
    probabilities: np.ndarray, classes: Sequence[str], min_confidence: float
) -> str:
    """Returns the most probable motion, or UNKNOWN below `min_confidence`."""
    best = int(probabilities.argmax())
    return classes[best] if probabilities[best] >= min_confidence else UNKNOWN


def confidence(probabilities: np.ndarray, motion: str, classes: Sequence[str]) -> float:
    """Probability of a person's motion; of UNKNOWN without such a class, that of no motion."""
    known = motion in classes
    return float(probabilities[classes.index(motion)] if known else 1 - probabilities.max())


def annotate(image: np.ndarray, people: list[Person], classes: list[str]) -> np.ndarray:
    """Draws skeleton, box, motion and probability of all people: uint8 RGB [H, W, 3]."""
    return draw.people(
        image,
        [person.keypoints for person in people],
        [person.box for person in people],
        [f"{p.motion} {confidence(p.probabilities, p.motion, classes):.2f}" for p in people],
        [class_index(person.motion, classes) for person in people],
    )


def class_index(motion: str, classes: Sequence[str]) -> int:
    """Returns the index of a motion, which selects its color; -1 for UNKNOWN."""
    return -1 if motion == UNKNOWN else classes.index(motion)
