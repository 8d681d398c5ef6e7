"""Reads the parameters of a Caffe network (a NetParameter in a .caffemodel), without Caffe.

Reads these fields of Caffe's caffe.proto, which hold the parameters:
NetParameter.layer=100 (LayerParameter.name=1, blobs=7) and, in files of the older format,
NetParameter.layers=2 (V1LayerParameter.name=4, blobs=6); BlobProto.shape=7 (BlobShape.dim=1) or, in
old files, num=1, channels=2, height=3, width=4; BlobProto.data=5, double_data=8.
"""

import math
from pathlib import Path

import numpy as np

from jdance.weights import protobuf
from jdance.weights.parsing import MAX_AXES, Malformed, parse_file

_LAYER, _V1_LAYER = 100, 2
_NAME_AND_BLOBS = {_LAYER: (1, 7), _V1_LAYER: (4, 6)}
_DATA = {5: "<f4", 8: "<f8"}
_MAX_SIZE = 2**28  # along one axis of an array


def read(path: str | Path) -> dict[str, list[np.ndarray]]:
    """Reads the parameters of every layer.

    Args:
        path: a binary .caffemodel, in either of its formats.

    Returns:
        Layer name -> arrays float32; for a convolution, kernel [out, in, height, width] and bias
        [out], or [1, 1, 1, out] in old files. Layers without parameters are left out.

    Raises:
        UserError: the file cannot be read, is truncated, or is of another format; names the layer.
    """
    return parse_file(path, _parse, "a Caffe model", protobuf.MAX_FILE)


def _parse(data: bytes) -> dict[str, list[np.ndarray]]:
    layers: dict[str, list[np.ndarray]] = {}
    for number, value in protobuf.fields(memoryview(data)):
        if number in _NAME_AND_BLOBS:
            name, blobs = _layer(protobuf.message(value), *_NAME_AND_BLOBS[number])
            if blobs and name in layers:
                raise Malformed(f"two layers are called {name!r}")
            if blobs:
                layers[name] = blobs
    if not layers:
        raise Malformed("it holds no parameters")
    return layers


def _layer(layer: memoryview, name_field: int, blob_field: int) -> tuple[str, list[np.ndarray]]:
    """Name and parameters of a layer; errors name the layer if its name comes first."""
    name, blobs = "", []
    try:
        for number, value in protobuf.fields(layer):
            if number == name_field:
                name = protobuf.text(value)
            elif number == blob_field:
                blobs.append(_blob(protobuf.message(value)))
    except Malformed as error:
        raise Malformed(f"layer {name!r}: {error}") from error
    return name, blobs


def _blob(blob: memoryview) -> np.ndarray:
    sizes: list[int] | None = None
    old_sizes = [0, 0, 0, 0]
    chunks = []
    for number, value in protobuf.fields(blob):
        if number == 7:
            sizes = _sizes(protobuf.message(value))
        elif 1 <= number <= 4:
            old_sizes[number - 1] = protobuf.signed(protobuf.integer(value))
        elif number in _DATA:
            chunk = protobuf.message(value)
            if len(chunk) % np.dtype(_DATA[number]).itemsize:
                raise Malformed("truncated values")
            chunks.append(np.frombuffer(chunk, _DATA[number]))
    shape = tuple(old_sizes if sizes is None else sizes)
    data = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
    if len(shape) > MAX_AXES or max(shape, default=0) > _MAX_SIZE:
        raise Malformed("parameters of an impossible shape")
    if min(shape, default=0) < 0 or math.prod(shape) != data.size:
        raise Malformed(f"parameters of shape {shape} have {data.size} values")
    return data.astype(np.float32).reshape(shape)


def _sizes(shape: memoryview) -> list[int]:
    """The sizes in a BlobShape, packed or not."""
    sizes: list[int] = []
    for number, value in protobuf.fields(shape):
        if number == 1:
            values = [value] if isinstance(value, int) else protobuf.varints(value)
            sizes += map(protobuf.signed, values)
    return sizes
