"""Reads the convolutions of an OpenVINO IR (.xml with its .bin), without OpenVINO.

The .xml lists the layers and edges, the .bin holds the constants. Weights are float32, float16, or
integers that a FakeQuantize layer dequantizes. FakeQuantize layers on activations are ignored, so
that the network computes in floating point.
"""

import math
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from jdance.errors import UserError
from jdance.weights.parsing import (
    MAX_AXES,
    MAX_ELEMENTS,
    Malformed,
    damaged_as_user_error,
    read_bytes,
)

_MAX_XML, _MAX_BIN = 2**26, 2**31  # bytes
_MAX_DEPTH = 8  # layers between a constant and the convolution that uses it
_DTYPES = {
    "f32": "<f4", "FP32": "<f4", "f16": "<f2", "FP16": "<f2", "i8": "i1", "u8": "u1",
    "i32": "<i4", "i64": "<i8",
}  # fmt: skip


class Convolution(NamedTuple):
    """The weights of a convolution.

    Attributes:
        kernel: float32 [out, in, height, width]; [channels, 1, height, width] if depthwise.
        bias: float32 [out]; zeros if the layer has none.
    """

    kernel: np.ndarray
    bias: np.ndarray


def read(path: str | Path) -> dict[str, Convolution]:
    """Reads every convolution.

    Args:
        path: the .xml, beside a .bin of the same name.

    Returns:
        Layer name without the suffix "/WithoutBiases" -> weights.

    Raises:
        UserError: a file cannot be read, is truncated or damaged, or is of another format.
    """
    path = Path(path)
    weights = path.with_suffix(".bin")
    if path.suffix != ".xml":
        raise UserError(f"{path}: not an OpenVINO network; give its .xml, with the .bin beside it")
    with damaged_as_user_error(
        path,
        f"an OpenVINO network with {weights.name}",
        "get both files again from where they are published",
    ):
        return _parse(read_bytes(path, _MAX_XML), read_bytes(weights, _MAX_BIN))


class _Tree(ElementTree.TreeBuilder):
    """Rejects document types, because they can declare entities that expand (XML bombs)."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise Malformed("it declares a document type")


def _parse(xml: bytes, data: bytes) -> dict[str, Convolution]:
    try:
        root = ElementTree.fromstring(xml, ElementTree.XMLParser(target=_Tree()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise Malformed(f"not XML: {error}") from error
    graph = _Graph(root, data)
    result: dict[str, Convolution] = {}
    for layer_id, layer in graph.layers.items():
        if layer.get("type") not in ("Convolution", "GroupConvolution"):
            continue
        name = layer.get("name", "").removesuffix("/WithoutBiases")
        if name in result:
            raise Malformed(f"two layers are called {name!r}")
        try:
            result[name] = graph.convolution(layer_id)
        except Malformed as error:
            raise Malformed(f"layer {name!r}: {error}") from error
    if not result:
        raise Malformed("it has no convolutions")
    return result


class _Graph:
    """Layers by id, and their connections."""

    def __init__(self, root: ElementTree.Element, data: bytes):
        self.layers: dict[str, ElementTree.Element] = {}
        self._data = data
        self._total = 0
        self._sources: dict[str, dict[int, str]] = {}  # by input port
        self._users: dict[str, list[str]] = {}
        for layer in root.iterfind("layers/layer"):
            layer_id = layer.get("id", "")
            if layer_id in self.layers:
                raise Malformed(f"two layers have the id {layer_id!r}")
            self.layers[layer_id] = layer
        for edge in root.iterfind("edges/edge"):
            source, target = edge.get("from-layer", ""), edge.get("to-layer", "")
            if source not in self.layers or target not in self.layers:
                raise Malformed("an edge to a missing layer")
            port = _integers(edge.get("to-port", ""))
            self._sources.setdefault(target, {})[port[0] if port else -1] = source
            self._users.setdefault(source, []).append(target)

    def convolution(self, layer_id: str) -> Convolution:
        inputs = self._inputs(layer_id)
        if len(inputs) != 2:
            raise Malformed("a convolution without weights")
        kernel = self._constant(inputs[1])
        if kernel.ndim == 5 and kernel.shape[1:3] == (1, 1):  # GroupConvolution: [groups, 1, 1, ..]
            kernel = kernel[:, 0]
        if kernel.ndim != 4:
            raise Malformed(f"a kernel of shape {kernel.shape}")
        bias = np.zeros(len(kernel), np.float32)
        users = self._users.get(layer_id, [])
        if len(users) == 1 and self.layers[users[0]].get("type") == "Add":
            for other in self._inputs(users[0]):
                if self.layers[other].get("type") in ("Const", "Convert"):
                    bias = self._constant(other).reshape(-1)
        if len(bias) != len(kernel):
            raise Malformed(f"{len(bias)} biases for {len(kernel)} channels")
        if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            raise Malformed("a weight that is not finite")
        return Convolution(kernel, bias)

    def _inputs(self, layer_id: str) -> list[str]:
        return [source for _, source in sorted(self._sources.get(layer_id, {}).items())]

    def _constant(self, layer_id: str, depth: int = 0) -> np.ndarray:
        """The value float32 of a layer that only depends on constants."""
        layer = self.layers[layer_id]
        kind, inputs = layer.get("type"), self._inputs(layer_id)
        if kind == "Const":
            return self._stored(layer)
        arity = {"Convert": 1, "Reshape": 2, "FakeQuantize": 5}.get(kind or "")
        if arity != len(inputs) or depth > _MAX_DEPTH:
            raise Malformed(f"weights from a layer of type {kind!r} with {len(inputs)} inputs")
        value = self._constant(inputs[0], depth + 1)
        if kind == "Convert":
            return value
        if kind == "Reshape":
            shape = _output_shape(layer)
            if min(shape, default=0) < 0 or math.prod(shape) != value.size:
                raise Malformed(f"{value.shape} cannot be reshaped to {shape}")
            return value.reshape(shape)
        limits = [self._constant(other, depth + 1) for other in inputs[1:]]
        return _fake_quantize(value, limits, layer)

    def _stored(self, layer: ElementTree.Element) -> np.ndarray:
        entry = layer.find("data")
        attributes = {} if entry is None else entry.attrib
        element_type = attributes.get("element_type", "")
        shape = _integers(attributes.get("shape", ""))
        location = _integers(f"{attributes.get('offset', '')},{attributes.get('size', '')}")
        if element_type not in _DTYPES or len(location) != 2:
            raise Malformed(f"a constant of type {element_type!r} without a location")
        dtype, (offset, size) = np.dtype(_DTYPES[element_type]), location
        if len(shape) > MAX_AXES or min(shape, default=0) < 0:
            raise Malformed(f"a constant of shape {shape}")
        if math.prod(shape) * dtype.itemsize != size or not 0 <= offset <= len(self._data) - size:
            raise Malformed(f"a constant of shape {shape} does not fit the .bin")
        self._total += math.prod(shape)
        if self._total > MAX_ELEMENTS:
            raise Malformed(f"more than {MAX_ELEMENTS} values in all")
        if not size:
            return np.zeros(shape, np.float32)
        stored = np.frombuffer(self._data, dtype, math.prod(shape), offset)
        return stored.astype(np.float32).reshape(shape)


def _fake_quantize(
    value: np.ndarray, limits: list[np.ndarray], layer: ElementTree.Element
) -> np.ndarray:
    """Rounds to `levels` steps of an input range and maps them to an output range.

    Specification: operation FakeQuantize-1 in https://docs.openvino.ai.
    """
    entry = layer.find("data")
    levels = _integers("" if entry is None else entry.get("levels", ""))
    if len(levels) != 1 or not 2 <= levels[0] <= 2**16:
        raise Malformed("FakeQuantize without levels")
    try:
        low, high, out_low, out_high = (
            np.broadcast_to(limit.astype(np.float64), value.shape) for limit in limits
        )
    except ValueError:
        raise Malformed("FakeQuantize with limits of another shape") from None
    if not (np.isfinite(limits[0]).all() and np.isfinite(limits[1]).all() and (low < high).all()):
        raise Malformed("FakeQuantize with an empty range")
    steps = levels[0] - 1
    inside = (np.clip(value, low, high) - low) / (high - low)
    return (np.round(inside * steps) / steps * (out_high - out_low) + out_low).astype(np.float32)


def _output_shape(layer: ElementTree.Element) -> tuple[int, ...]:
    words = [dim.text or "" for dim in layer.iterfind("output/port/dim")]
    shape = _integers(",".join(words))
    if not 1 <= len(shape) <= MAX_AXES:
        raise Malformed("Reshape without a shape")
    return shape


def _integers(text: str) -> tuple[int, ...]:
    """The integers in a comma-separated list."""
    words = text.split(",") if text else []
    if not all(0 < len(word.strip()) <= 18 for word in words):
        raise Malformed(f"{text[:40]!r} in place of numbers")
    try:
        return tuple(int(word) for word in words)
    except ValueError:
        raise Malformed(f"{text[:40]!r} in place of numbers") from None
