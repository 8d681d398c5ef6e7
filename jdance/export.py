"""The whole program as an artifact that runs with jax and NumPy alone.

A folder with
    program.stablehlo   the program by jax.export, for several platforms
    weights.npz         its variables, in their order
    program.json        version, classes, names and shapes of inputs and outputs
    load.py             how to load and call it

StableHLO is a format that later versions of jax read, too. What else jax.export keeps is in
program.json and not in jax's own container, which would need one more package.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jdance
from jdance.errors import UserError
from jdance.recognition.program import Options, Recognized
from jdance.recognize import Recognizer

VERSION = 1
PLATFORMS = ("cpu", "cuda")

_LOADER = '''\
"""Loads the exported program; needs jax and numpy. python load.py PICTURES.npy prints people."""

import json
import pathlib
import sys
from dataclasses import fields

import jax
import numpy as np


def load(folder):
    """Returns f(frames uint8 [B, H, W, 3], sizes int32 [B, 2]) -> {name: array}, and the classes.

    Frames lie at the top left of the canvas, 0 elsewhere; sizes are their true height and width.
    """
    folder = pathlib.Path(folder)
    info = json.loads((folder / "program.json").read_text())
    assert info["version"] == 1, "another version of the format"
    with np.load(folder / "weights.npz") as file:
        weights = [jax.device_put(file[str(i)]) for i in range(len(file.files))]
    ins, outs = (
        tuple(jax.core.ShapedArray(tuple(shape), np.dtype(kind)) for shape, kind in info[key])
        for key in ("ins", "outs")
    )
    known = {
        **info["header"], "in_avals": ins, "out_avals": outs,
        "in_tree": jax.tree.structure(((weights, 0, 0), {})), "out_tree": jax.tree.structure(outs),
        "mlir_module_serialized": (folder / "program.stablehlo").read_bytes(),
        "module_kept_var_idx": tuple(range(len(ins))),
        "platforms": tuple(info["header"]["platforms"]),
    }
    for name, avals in (("in", ins), ("out", outs)):  # any device will do
        for key in (f"{name}_shardings_hlo", f"_{name}_named_shardings"):
            known[key] = (None,) * len(avals)
    known = {f.name: known.get(f.name, ()) for f in fields(jax.export.Exported)}
    run = jax.jit(jax.export.Exported(**known).call)
    names = info["outputs"]
    return lambda frames, sizes: dict(zip(names, run(weights, frames, sizes))), info["classes"]


if __name__ == "__main__":
    recognize, classes = load(pathlib.Path(__file__).parent)
    frames = np.load(sys.argv[1])
    found = recognize(frames, np.array([f.shape[:2] for f in frames], np.int32))
    for frame, person in zip(*np.nonzero(found["valid"])):
        chances = np.asarray(found["probabilities"][frame, person])
        print(frame, classes[chances.argmax()], chances.max(), found["box"][frame, person])
'''


def export(
    recognizer: Recognizer,
    folder: Path,
    *,
    batch: int = 1,
    height: int = 720,
    width: int = 1280,
    platforms: Sequence[str] = PLATFORMS,
    whole_picture: bool = False,
) -> dict[str, Any]:
    """Writes the program of a recogniser with a pose network.

    Args:
        recognizer: whose program it is.
        folder: new or empty.
        batch, height, width: shape of the frames; smaller ones are padded.
        platforms: where it will run.
        whole_picture: where nobody is found, judge the picture as a whole.

    Returns:
        What program.json says.

    Raises:
        UserError: the folder is in use.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty; choose another --output")
    leaves, tree = jax.tree.flatten(recognizer.variables)
    function, options = recognizer.function(), Options(recognizer.min_joints, whole_picture)

    def flat(weights: list[Any], frames: Any, sizes: Any) -> tuple[Any, ...]:
        return tuple(function(jax.tree.unflatten(tree, weights), options, frames, sizes))

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
        "classes": recognizer.classes,
        "frames": [batch, height, width, 3],
        "outputs": list(Recognized._fields),
        "header": {
            "fun_name": "recognize",
            "nr_devices": exported.nr_devices,
            "platforms": list(platforms),
            "calling_convention_version": exported.calling_convention_version,
            "uses_global_constants": exported.uses_global_constants,
        },
        "ins": [[aval.shape, aval.dtype.name] for aval in exported.in_avals],
        "outs": [[aval.shape, aval.dtype.name] for aval in exported.out_avals],
    }
    weights = {f"{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    np.savez(folder / "weights.npz", **weights)  # type: ignore[arg-type]
    (folder / "program.stablehlo").write_bytes(exported.mlir_module_serialized)
    (folder / "load.py").write_text(_LOADER)
    (folder / "program.json").write_text(json.dumps(info, indent=2) + "\n")
    return info
