"""Reads the convolutions of an OpenVINO IR (.xml with its .bin), without OpenVINO.

The .xml lists layers and the edges between them, the .bin the constants. Weights may be float32,
float16, or integers followed by a FakeQuantize layer, which is applied to them. FakeQuantize
layers on activations are skipped: the network then computes in floating point.
"""

import math
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from jdance.errors import UserError

_MAX_XML, _MAX_BIN = 2**26, 2**31  # bytes
_MAX_TOTAL = 2**27  # elements of all constants together
_MAX_DEPTH = 8  # layers between a constant and the convolution that uses it
_MAX_AXES = 8
_DTYPES = {
    "f32": "<f4", "FP32": "<f4", "f16": "<f2", "FP16": "<f2", "i8": "i1", "u8": "u1",
    "i32": "<i4", "i64": "<i8",
}  # fmt: skip


class Convolution(NamedTuple):
    """The weights of a convolution.

    Attributes:
        kernel: float32 [out, in, height, width], of a depthwise one [channels, 1, height, width].
        bias: float32 [out]; zeros if there is none.
    """

    kernel: np.ndarray
    bias: np.ndarray


class _Malformed(Exception):
    """The files are no such graph; the message says why."""


def read(path: str | Path) -> dict[str, Convolution]:
    """Reads every convolution.

    Args:
        path: the .xml; the .bin lies beside it under the same name.

    Returns:
        Name in the graph, without the suffix "/WithoutBiases" -> its weights.

    Raises:
        UserError: a file is missing, cannot be read, is truncated or damaged, or is something else.
    """
    path = Path(path)
    weights = path.with_suffix(".bin")
    if path.suffix != ".xml":
        raise UserError(f"{path}: not an OpenVINO network; give its .xml, with the .bin beside it")
    try:
        return _parse(_content(path, _MAX_XML), _content(weights, _MAX_BIN))
    except _Malformed as error:
        raise UserError(
            f"{path}: with {weights.name} not an OpenVINO network, or a damaged one ({error}); "
            "get both files again from where they are published"
        ) from error


def _content(path: Path, limit: int) -> bytes:
    try:
        if path.stat().st_size > limit:
            raise _Malformed(f"{path.name} is larger than {limit >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


class _Tree(ElementTree.TreeBuilder):
    """Refuses a document type, the only place for entities that expand."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise _Malformed("it declares a document type")


def _parse(xml: bytes, data: bytes) -> dict[str, Convolution]:
    try:
        root = ElementTree.fromstring(xml, ElementTree.XMLParser(target=_Tree()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise _Malformed(f"not XML: {error}") from error
    graph = _Graph(root, data)
    result: dict[str, Convolution] = {}
    for number, layer in graph.layers.items():
        if layer.get("type") not in ("Convolution", "GroupConvolution"):
            continue
        name = layer.get("name", "").removesuffix("/WithoutBiases")
        if name in result:
            raise _Malformed(f"two layers are called {name!r}")
        try:
            result[name] = graph.convolution(number)
        except _Malformed as error:
            raise _Malformed(f"layer {name!r}: {error}") from error
    if not result:
        raise _Malformed("it has no convolutions")
    return result


class _Graph:
    """Layers by their number, and what they are connected with."""

    def __init__(self, root: ElementTree.Element, data: bytes):
        self.layers: dict[str, ElementTree.Element] = {}
        self._data = data
        self._total = 0
        self._sources: dict[str, dict[int, str]] = {}  # of each input port, in their order
        self._users: dict[str, list[str]] = {}
        for layer in root.iterfind("layers/layer"):
            number = layer.get("id", "")
            if number in self.layers:
                raise _Malformed(f"two layers have the number {number!r}")
            self.layers[number] = layer
        for edge in root.iterfind("edges/edge"):
            source, target = edge.get("from-layer", ""), edge.get("to-layer", "")
            if source not in self.layers or target not in self.layers:
                raise _Malformed("an edge to a layer that is not there")
            port = _integers(edge.get("to-port", ""))
            self._sources.setdefault(target, {})[port[0] if port else -1] = source
            self._users.setdefault(source, []).append(target)

    def convolution(self, number: str) -> Convolution:
        inputs = self._inputs(number)
        if len(inputs) != 2:
            raise _Malformed("a convolution without weights")
        kernel = self._constant(inputs[1])
        if kernel.ndim == 5 and kernel.shape[1:3] == (1, 1):  # GroupConvolution: [groups, 1, 1, ..]
            kernel = kernel[:, 0]
        if kernel.ndim != 4:
            raise _Malformed(f"a kernel of shape {kernel.shape}")
        bias = np.zeros(len(kernel), np.float32)
        users = self._users.get(number, [])
        if len(users) == 1 and self.layers[users[0]].get("type") == "Add":
            for other in self._inputs(users[0]):
                if self.layers[other].get("type") in ("Const", "Convert"):
                    bias = self._constant(other).reshape(-1)
        if len(bias) != len(kernel):
            raise _Malformed(f"{len(bias)} biases for {len(kernel)} channels")
        if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            raise _Malformed("a weight that is not finite")
        return Convolution(kernel, bias)

    def _inputs(self, number: str) -> list[str]:
        return [source for _, source in sorted(self._sources.get(number, {}).items())]

    def _constant(self, number: str, depth: int = 0) -> np.ndarray:
        """The value float32 of a layer that depends on constants alone."""
        layer = self.layers[number]
        kind, inputs = layer.get("type"), self._inputs(number)
        if kind == "Const":
            return self._stored(layer)
        arity = {"Convert": 1, "Reshape": 2, "FakeQuantize": 5}.get(kind or "")
        if arity != len(inputs) or depth > _MAX_DEPTH:
            raise _Malformed(f"weights from a layer of type {kind!r} with {len(inputs)} inputs")
        value = self._constant(inputs[0], depth + 1)
        if kind == "Convert":
            return value
        if kind == "Reshape":
            shape = _output_shape(layer)
            if min(shape, default=0) < 0 or math.prod(shape) != value.size:
                raise _Malformed(f"{value.shape} cannot be reshaped to {shape}")
            return value.reshape(shape)
        limits = [self._constant(other, depth + 1) for other in inputs[1:]]
        return _fake_quantize(value, limits, layer)

    def _stored(self, layer: ElementTree.Element) -> np.ndarray:
        entry = layer.find("data")
        attributes = {} if entry is None else entry.attrib
        kind = attributes.get("element_type", "")
        shape = _integers(attributes.get("shape", ""))
        place = _integers(f"{attributes.get('offset', '')},{attributes.get('size', '')}")
        if kind not in _DTYPES or len(place) != 2:
            raise _Malformed(f"a constant of type {kind!r} without a place")
        dtype, (offset, size) = np.dtype(_DTYPES[kind]), place
        if len(shape) > _MAX_AXES or min(shape, default=0) < 0:
            raise _Malformed(f"a constant of shape {shape}")
        if math.prod(shape) * dtype.itemsize != size or not 0 <= offset <= len(self._data) - size:
            raise _Malformed(f"a constant of shape {shape} does not fit the .bin")
        self._total += math.prod(shape)
        if self._total > _MAX_TOTAL:
            raise _Malformed(f"more than {_MAX_TOTAL} values in all")
        if not size:
            return np.zeros(shape, np.float32)
        stored = np.frombuffer(self._data, dtype, math.prod(shape), offset)
        return stored.astype(np.float32).reshape(shape)


def _fake_quantize(
    value: np.ndarray, limits: list[np.ndarray], layer: ElementTree.Element
) -> np.ndarray:
    """FakeQuantize: rounds to `levels` steps of an input range, and maps these to an output range.

    https://docs.openvino.ai, operation specification FakeQuantize-1.
    """
    entry = layer.find("data")
    levels = _integers("" if entry is None else entry.get("levels", ""))
    if len(levels) != 1 or not 2 <= levels[0] <= 2**16:
        raise _Malformed("FakeQuantize without levels")
    try:
        low, high, out_low, out_high = (
            np.broadcast_to(limit.astype(np.float64), value.shape) for limit in limits
        )
    except ValueError:
        raise _Malformed("FakeQuantize with limits of another shape") from None
    if not (np.isfinite(limits[0]).all() and np.isfinite(limits[1]).all() and (low < high).all()):
        raise _Malformed("FakeQuantize with an empty range")
    steps = levels[0] - 1
    inside = (np.clip(value, low, high) - low) / (high - low)
    return (np.round(inside * steps) / steps * (out_high - out_low) + out_low).astype(np.float32)


def _output_shape(layer: ElementTree.Element) -> tuple[int, ...]:
    words = [dim.text or "" for dim in layer.iterfind("output/port/dim")]
    shape = _integers(",".join(words))
    if not 1 <= len(shape) <= _MAX_AXES:
        raise _Malformed("Reshape without a shape")
    return shape


def _integers(text: str) -> tuple[int, ...]:
    """The whole numbers in a list with commas; () for an empty one."""
    words = text.split(",") if text else []
    if not all(0 < len(word.strip()) <= 18 for word in words):
        raise _Malformed(f"{text[:40]!r} in place of numbers")
    try:
        return tuple(int(word) for word in words)
    except ValueError:
        raise _Malformed(f"{text[:40]!r} in place of numbers") from None
