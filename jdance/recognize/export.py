"""Exports the recognition program as an artifact that runs without this library.

The folder holds
    program.jax         the program, serialized by jax.export for several platforms
    weights.npz         its variables, named by their index in the flattened tree
    program.json        version, classes, shape of the frames, names of the outputs
    load.py             loads and calls the program
    requirements.txt    packages that load.py needs
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

import jdance
from jdance.errors import UserError
from jdance.recognize.program import Options, Recognized
from jdance.recognize.recognizer import Recognizer

VERSION = 2  # of the folder's format
PLATFORMS = ("cpu", "cuda")

_REQUIREMENTS = "flatbuffers\njax>={jax}\nnumpy\n"

_LOADER = '''\
"""Loads the exported program; pip install -r requirements.txt.

python load.py FRAMES.npy prints the people in frames uint8 [B, H, W, 3].
"""

import json
import pathlib
import sys

import jax
import jax.export
import numpy as np


def load(folder):
    """Returns f(frames uint8 [B, H, W, 3], sizes int32 [B, 2]) -> {name: array}, and the classes.

    Frames are zero-padded at the bottom and right; sizes are their heights and widths.
    """
    folder = pathlib.Path(folder)
    info = json.loads((folder / "program.json").read_text())
    program = jax.export.deserialize(bytearray((folder / "program.jax").read_bytes()))
    with np.load(folder / "weights.npz") as file:
        weights = jax.device_put([file[str(i)] for i in range(len(file.files))])
    call, shape = jax.jit(program.call), info["frames"]

    def recognize(frames, sizes):
        frames, sizes = np.asarray(frames), np.asarray(sizes)
        if frames.dtype != np.uint8 or list(frames.shape) != shape:
            raise ValueError(f"frames: {frames.dtype} {list(frames.shape)}, expected uint8 {shape}")
        if sizes.shape != (shape[0], 2) or (sizes < 1).any() or (sizes > shape[1:3]).any():
            raise ValueError(f"sizes: {sizes.tolist()}, expected {shape[0]} x [height, width] "
                             f"from 1 to {shape[1:3]}")
        return dict(zip(info["outputs"], call(weights, frames, sizes.astype(np.int32))))

    return recognize, info["classes"]


if __name__ == "__main__":
    recognize, classes = load(pathlib.Path(__file__).parent)
    frames = np.load(sys.argv[1])
    found = recognize(frames, [frame.shape[:2] for frame in frames])
    for frame, person in zip(*np.nonzero(found["valid"])):
        probabilities = np.asarray(found["probabilities"][frame, person])
        best = probabilities.argmax()
        print(frame, classes[best], probabilities[best], found["box"][frame, person])
'''


def export(
    recognizer: Recognizer,
    folder: Path,
    *,
    batch: int = 1,
    height: int = 720,
    width: int = 1280,
    platforms: Sequence[str] = PLATFORMS,
    whole_image: bool = False,
) -> dict[str, Any]:
    """Exports the program of a recognizer.

    Args:
        recognizer: has a pose network.
        folder: is new or empty.
        batch, height, width: shape of the frames; smaller frames are to be padded.
        platforms: JAX platforms to lower for.
        whole_image: whether to classify the whole image where no person is detected.

    Returns:
        The content of program.json.

    Raises:
        UserError: the folder is not empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty; choose another --output")
    leaves, treedef = jax.tree.flatten(recognizer.variables)
    function, options = recognizer.function(), Options(recognizer.min_joints, whole_image)

    def flat(weights: list[Any], frames: Any, sizes: Any) -> tuple[Any, ...]:
        return tuple(function(jax.tree.unflatten(treedef, weights), options, frames, sizes))

    shapes = (
        [jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype) for leaf in leaves],
        jax.ShapeDtypeStruct((batch, height, width, 3), np.uint8),
        jax.ShapeDtypeStruct((batch, 2), np.int32),
    )
    exported = jax.export.export(jax.jit(flat, keep_unused=True), platforms=tuple(platforms))(
        *shapes
    )
    info = {
        "version": VERSION,
        "jdance": jdance.__version__,
        "jax": jax.__version__,
        "platforms": list(platforms),
        "classes": recognizer.classes,
        "frames": [batch, height, width, 3],
        "outputs": list(Recognized._fields),
    }
    weights = {f"{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    np.savez(folder / "weights.npz", **weights)  # type: ignore[arg-type]
    (folder / "program.jax").write_bytes(exported.serialize())
    (folder / "load.py").write_text(_LOADER)
    (folder / "requirements.txt").write_text(_REQUIREMENTS.format(jax=jax.__version__))
    (folder / "program.json").write_text(json.dumps(info, indent=2) + "\n")
    return info
