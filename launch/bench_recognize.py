"""Benchmarks recognition, from an image to the motions of all people, by stage.

python launch/bench_recognize.py --config=configs/paper.py --pose=mobilenet_v2_small --baseline

For each number of people, times the whole compiled program of launch/recognize.py and each of its
stages. The pose network processes the image, but the decoder gets the exact maps of a known number
of people. The motion network has dummy weights.

--baseline also times mobilenet_v2_small in TensorFlow, followed by decoding in NumPy and by a
ResNet-50 in PyTorch for each person (pip install -e '.[bench]'). Without TensorFlow, jdance's pose
network replaces the published graph.

python launch/stage.py --output=videos --video --scenes=4 --seconds=6 --width=640 --height=480
python launch/bench_recognize.py --archive=videos --pose=stage

--archive times the whole of launch/recognize.py over a folder of videos (read, decode, networks,
tracks, timeline, write), and its networks alone on the same batches of frames.
"""

import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from jdance import config as defaults
from jdance import features, models
from jdance.bench import archive, pose_baselines, timing
from jdance.bench.inputs import crowd
from jdance.cli import former_name, refuse_flags, run
from jdance.data import containers, crop, images, videos
from jdance.errors import UserError
from jdance.pose import PoseEstimator, targets
from jdance.pose.decode import People, decode
from jdance.pose.letterbox import letterbox
from jdance.recognize import batches, program, resample, video
from jdance.recognize.program import Network, Options
from jdance.recognize.recognizer import DECODE, Recognizer
from jdance.recognize.sequences import SequenceClassifier
from jdance.xla import cores

_CONFIG = flags.DEFINE_string("config", "configs/paper.py", "Configuration of the motion network.")
_POSE = flags.DEFINE_string(
    "pose", "mobilenet_v2_small", "Pose network, as for launch/recognize.py."
)
_PEOPLE = flags.DEFINE_list("people", ["1", "5", "10", "20"], "Numbers of people, at most 24 each.")
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Number of timed rounds.", lower_bound=1)
_SIDE = flags.DEFINE_integer("side", 736, "Side of the square image in pixels.", lower_bound=368)
_BASELINE = flags.DEFINE_bool("baseline", False, "Also time the baseline.")
former_name("alternative", "baseline")
_CLOCK = flags.DEFINE_enum(
    "clock",
    "wall",
    ["wall", "cpu"],
    "Wall-clock time, or CPU time over all cores (for a machine with other load).",
)
_ARCHIVE = flags.DEFINE_string("archive", "", "Folder of videos: time recognition of all of them.")
_MODEL = flags.DEFINE_string("model", "dance6", "Motion network of --archive.")
_SECONDS = flags.DEFINE_float("seconds", 4.0, "Seconds of each video of --archive.", 0.1)
_BATCH = flags.DEFINE_integer("batch", 0, "As for launch/recognize.py.", lower_bound=0)
_AT_ONCE = flags.DEFINE_integer("videos_at_once", 0, "As for launch/recognize.py.", lower_bound=0)
_ANNOTATE = flags.DEFINE_bool("annotate", False, "Also write the annotated videos of --archive.")
_HARDWARE = flags.DEFINE_string("hardware_decoding", "", "As for launch/recognize.py.")
_PRECISION = flags.DEFINE_enum(
    "precision", "float32", ["float32", "bfloat16"], "As for launch/recognize.py."
)
_MAX_PEOPLE = 24
_STAGES = ("read", "letterbox", "pose", "decode", "features", "crops", "network")


class _FixedPeople:
    """A pose estimator that runs its network but decodes given maps.

    Its variables are those of the real network and the maps to decode.
    """

    def __init__(self, estimator: PoseEstimator):
        self.variables = estimator.variables, _maps_of(np.zeros((1, 18, 3), np.float32))
        self.size = estimator.size
        self._maps = estimator.pure_maps

    def pure_people(self, variables: Any, squares: Any, min_joints: Any) -> People:
        own, known = variables
        predicted = self._maps(own, squares)
        # Keeps the network in the program: XLA cannot fold 0 * x, as x may not be finite.
        unused = sum(0 * leaf.sum() for leaf in jax.tree.leaves(predicted))
        return decode(*(maps + unused for maps in known), DECODE, min_joints)


def _maps_of(people: np.ndarray) -> Any:
    """Returns heat maps [1, 46, 46, 19] and PAFs [1, 46, 46, 38] of people [N <= 24, 18, 3]."""
    padded = np.zeros((1, 24, 18, 3), np.float32)
    padded[0, : len(people)] = people
    return targets.encode(jnp.asarray(padded), (46, 46))


def _scene(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns an image and its people [count, 18, 3], in its pixels and in a square of 368."""
    small, people = crowd(count)
    frame_image = cv2.resize(small, (_SIDE.value, _SIDE.value), interpolation=cv2.INTER_CUBIC)
    scale = _SIDE.value / small.shape[0]
    return frame_image, people * np.array([scale, scale, 1], np.float32), people


def _variables(config: Any) -> Any:
    """Returns dummy variables of the motion network."""
    shapes = models.abstract_variables(config.model, config.data.image_size)
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01, leaf.dtype), shapes)


def _stages(
    config: Any, estimator: PoseEstimator
) -> Callable[[int], tuple[int, dict[str, Callable[[], Any]]]]:
    """Returns a function from a number of people to the number detected and the stages to time.

    Each program is compiled once.
    """
    classes = [str(i) for i in range(config.model.classes)]
    recognizer = Recognizer(config, classes, _variables(config), _FixedPeople(estimator), 4)  # type: ignore[arg-type]
    _, motion, temperature = recognizer.variables
    network, options = recognizer.network, Options()
    recognize = recognizer.compiled(False, False)
    fit = jax.jit(partial(resample.letterbox, size=estimator.size))
    decoded = jax.jit(lambda maps: decode(*maps, DECODE))

    def stub(variables: Any, image: Any, inputs: Any, valid: Any) -> Any:
        """Replaces the network at negligible cost, but depends on all inputs."""
        pixels = 0 if image is None else image[:, :, 0, 0].sum(1, keepdims=True)
        total = inputs.sum(1, keepdims=True) + pixels + valid[:, None]
        return jnp.tile(total, (1, len(classes)))

    def classification(logits: Callable[..., Any], size: int) -> Callable[..., Any]:
        stage = Network(logits, network.features, size)
        return jax.jit(
            lambda v, frames, sizes, points: program.classify(
                stage, v, jnp.float32(1), frames, sizes, points, options
            )
        )

    only_features = classification(stub, 0)
    without_network = classification(stub, network.image_size)
    all_stages = classification(network.logits, network.image_size)

    def make(count: int) -> tuple[int, dict[str, Callable[[], Any]]]:
        frame_image, people, in_square = _scene(count)
        jpeg = np.frombuffer(images.encode_jpeg(frame_image), np.uint8)
        padded = np.zeros((1, DECODE.max_people, 18, 3), np.float32)
        padded[0, :count] = people
        sizes = np.array([frame_image.shape[:2]], np.int32)
        frames, sizes = jax.device_put((frame_image[None], sizes))
        known = _maps_of(in_square)
        variables = (estimator.variables, known), motion, temperature
        square = fit(frames, sizes)
        found = int(recognize(variables, options, frames, sizes).valid.sum())
        padded[0, found:] = 0  # the decoder may miss people who overlap
        points = jax.device_put(padded)
        return found, {
            "whole": lambda: recognizer.people(
                recognize(variables, options, *jax.device_put((frame_image[None], sizes)))
            ),
            "read": lambda: images.decode(jpeg),
            "letterbox": lambda: fit(frames, sizes),
            "pose": lambda: estimator.maps(square),
            "decode": lambda: decoded(known),
            "features": lambda: only_features(motion, frames, sizes, points),
            "features and crops": lambda: without_network(motion, frames, sizes, points),
            "classification": lambda: all_stages(motion, frames, sizes, points),
        }

    return make


def _published_graph() -> tuple[str, Callable[[np.ndarray], Any]]:
    """Returns the name of the baseline's pose network, and uint8 RGB [368, 368, 3] -> maps."""
    try:
        return "mobilenet_v2_small in TensorFlow", pose_baselines.load_tensorflow()
    except ImportError:
        estimator = PoseEstimator.load("mobilenet_v2_small")
        return "mobilenet_v2_small in JAX", lambda square: estimator.maps(square[None])


def _baseline() -> tuple[str, Callable[[int], Callable[[], Any]]]:
    """Returns the baseline's name, and a function from a number of people to the run to time."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    try:
        torch = importlib.import_module("torch")
        decoded = importlib.import_module("decode_reference").decode_reference
        resnet = importlib.import_module("jdance.bench.torch_networks").build("resnet50").eval()
    except ImportError as error:
        raise UserError(f"--baseline: {error}; pip install -e '.[bench]'") from error
    name, maps = _published_graph()

    def make(count: int) -> Callable[[], Any]:
        frame_image, _, in_square = _scene(count)
        heat, paf = (np.asarray(m)[0] for m in _maps_of(in_square))

        def whole() -> None:
            maps(letterbox(frame_image)[0])
            scale = np.array([_SIDE.value / 368, _SIDE.value / 368, 1], np.float32)
            for person in decoded(heat, paf, DECODE)[0] * scale:
                features.compute("fused18", person)
                view = crop.cut(frame_image, crop.person_square(person), 224).astype(np.float32)
                with torch.inference_mode():
                    resnet(torch.from_numpy(view.transpose(2, 0, 1)[None]))

        return whole

    return f"{name}, decode in NumPy, ResNet-50 in PyTorch for each person", make


def _time_archive() -> None:
    paths = videos.find(Path(_ARCHIVE.value))
    if not paths:
        raise UserError(f"{_ARCHIVE.value}: no videos in it; see launch/stage.py --video")
    if _HARDWARE.value:
        containers.check_hardware(_HARDWARE.value)
    dtype = None if _PRECISION.value == "float32" else _PRECISION.value
    recognizer = Recognizer.load(_MODEL.value, _POSE.value, dtype=dtype)
    classifier = SequenceClassifier.choose(None, _MODEL.value)
    settings = video.Settings(
        end=_SECONDS.value,
        batch=_BATCH.value,
        annotate=_ANNOTATE.value,
        hardware=_HARDWARE.value,
    )
    at_once = batches.videos_at_once(_AT_ONCE.value, ["video"] * len(paths))
    benchmark = archive.Benchmark(recognizer, classifier, paths, settings, at_once)
    times = timing.interleave(benchmark.candidates, _ROUNDS.value, warmup=1)
    sizes = sorted({f"{w}x{h}" for h, w, _ in (own[0].image.shape for own in benchmark.frames)})
    print(
        f"{len(paths)} videos of {', '.join(sizes)}, {benchmark.count} frames with "
        f"{benchmark.people:.1f} people; {_MODEL.value}, {_POSE.value}, {_PRECISION.value}, "
        f"batches of {benchmark.batch}, {at_once} at once; "
        f"{jax.devices()[0].device_kind}, {cores()} CPU cores, jax {jax.__version__}, "
        f"PyAV {av.__version__}; medians of {_ROUNDS.value} rounds, minimum CPU time"
    )
    print("\n".join(archive.report(benchmark, times)))


def main() -> None:
    if _ARCHIVE.value:
        _time_archive()
        return
    refuse_flags(
        ["model", "seconds", "batch", "videos_at_once", "annotate", "hardware_decoding",
         "precision"],
        "without --archive, single images are timed: leave out",
    )  # fmt: skip
    if not all(word.isdecimal() and int(word) <= _MAX_PEOPLE for word in _PEOPLE.value):
        raise UserError(
            f"--people={','.join(_PEOPLE.value)}: expected numbers from 0 to {_MAX_PEOPLE}"
        )
    counts = [int(word) for word in _PEOPLE.value]
    config, estimator = defaults.load(_CONFIG.value), PoseEstimator.load(_POSE.value)
    stages = _stages(config, estimator)
    name, make = _baseline() if _BASELINE.value else ("", None)
    candidates: dict[str, Callable[[], Any]] = {}
    people: dict[int, int] = {}
    for count in counts:
        people[count], functions = stages(count)
        candidates |= {f"{count} {stage}": function for stage, function in functions.items()}
        if make:
            candidates[f"{count} baseline"] = make(count)
    times = timing.interleave(candidates, _ROUNDS.value, warmup=1)
    median = {key: 1e3 * float(np.median(getattr(t, _CLOCK.value))) for key, t in times.items()}
    print(
        f"{_CONFIG.value}, {_POSE.value}, {_SIDE.value} x {_SIDE.value} pixels, "
        f"{cores()} CPU cores, jax {jax.__version__}; medians of {_ROUNDS.value} rounds in ms "
        f"of {_CLOCK.value} time"
    )
    titles = ["people", "whole", "frames/s", *_STAGES] + ["baseline"] * bool(make)
    print(" ".join(f"{title:>11}" for title in titles))
    totals = []
    for count in counts:
        row = {stage: median.get(f"{count} {stage}", 0.0) for stage in (*_STAGES, "whole")}
        both, classified = median[f"{count} features and crops"], median[f"{count} classification"]
        row["crops"] = max(both - row["features"], 0.0)
        row["network"] = max(classified - both, 0.0)
        whole = row["whole"] + row["read"]
        totals.append(whole)
        cells = [f"{people[count]}", f"{whole:.1f}", f"{1e3 / whole:.1f}"]
        cells += [f"{row[stage]:.1f}" for stage in _STAGES]
        cells += [f"{median[f'{count} baseline']:.1f}"] if make else []
        print(" ".join(f"{cell:>11}" for cell in cells))
    if len(counts) > 1:
        found = list(people.values())
        print(f"one more person: {np.polyfit(found, totals, 1)[0]:.1f} ms", end="")
        if make:
            baselines = [median[f"{count} baseline"] for count in counts]
            print(f"; baseline {np.polyfit(found, baselines, 1)[0]:.1f} ms", end="")
        print()
    if make:
        print(f"baseline: {name}, read not counted")


if __name__ == "__main__":
    run(main, keep_memory=True)
