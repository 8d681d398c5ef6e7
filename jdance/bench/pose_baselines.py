"""Baselines of the pose estimator: a decoder in C, and the published graph in TensorFlow."""

import ctypes
import importlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jdance import skeleton
from jdance.errors import UserError
from jdance.pose import DecodeConfig, zoo
from jdance.xla import cores


class _Config(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int)
        for name in ("max_peaks", "people", "samples", "min_samples", "min_joints", "stride")
    ] + [
        (name, ctypes.c_float)
        for name in ("smoothing", "heat_threshold", "sample_threshold", "min_score")
    ]


def build_c_decoder(config: DecodeConfig) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Compiles decode.c to (heat [h, w, 19], paf [h, w, 38]) -> people [N, 18, 3], all float32.

    The configuration must refine and smooth, and keep at most 40 peaks per joint.

    Raises:
        UserError: there is no C compiler.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise UserError("needs a C compiler, cc; install gcc or clang")
    assert config.refine and config.smoothing > 0 and config.peaks_per_joint <= 40
    with tempfile.TemporaryDirectory() as folder:
        compiled, library = Path(folder, "decode.o"), Path(folder, "decode.so")
        options = ["-O3", "-march=native", "-ffast-math", "-std=c11", "-fPIC"]
        source = Path(__file__).with_name("decode.c")
        subprocess.run([compiler, *options, "-c", source, "-o", compiled], check=True)
        # Linked without -ffast-math: with it, GCC before 13 sets flush-to-zero for the thread that
        # loads the library.
        subprocess.run([compiler, "-shared", "-o", library, compiled, "-lm"], check=True)
        function = ctypes.CDLL(str(library)).decode  # stays loaded without the file
    settings = _Config(
        config.peaks_per_joint, config.max_people, config.samples, config.min_samples,
        config.min_joints, config.stride, config.smoothing, config.heat_threshold,
        config.sample_threshold, config.min_score,
    )  # fmt: skip
    limbs = np.ascontiguousarray(skeleton.LIMBS, np.int32)
    channels = np.ascontiguousarray(skeleton.PAF_CHANNELS, np.int32)

    def decode(heat: np.ndarray, paf: np.ndarray) -> np.ndarray:
        heat, paf = (np.ascontiguousarray(maps, np.float32) for maps in (heat, paf))
        height, width, _ = heat.shape
        assert max(height, width) <= 64
        keypoints = np.empty((config.max_people, skeleton.NUM_JOINTS, 3), np.float32)
        arrays = (array.ctypes.data_as(ctypes.c_void_p) for array in (limbs, channels))
        count = function(
            heat.ctypes.data_as(ctypes.c_void_p), paf.ctypes.data_as(ctypes.c_void_p),
            height, width, *arrays, ctypes.byref(settings),
            keypoints.ctypes.data_as(ctypes.c_void_p),
        )  # fmt: skip
        return keypoints[:count]

    return decode


def load_tensorflow() -> Callable[[np.ndarray], Any]:
    """Loads the graph: uint8 RGB [368, 368, 3] -> maps float32 [1, 46, 46, 57], on all cores.

    Raises:
        ImportError: TensorFlow is not installed.
        UserError: the graph cannot be found, see `zoo.find`.
    """
    tf = importlib.import_module("tensorflow").compat.v1
    definition = tf.GraphDef()
    definition.ParseFromString(zoo.find("mobilenet_v2_small").read_bytes())
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(definition, name="")
    operations = graph.get_operations()
    image = next(o for o in operations if o.type == "Placeholder").outputs[0]
    settings = tf.ConfigProto(intra_op_parallelism_threads=cores())
    session, last = tf.Session(graph=graph, config=settings), operations[-1].outputs[0]
    return lambda square: session.run(last, {image: square[None, ..., ::-1].astype(np.float32)})
