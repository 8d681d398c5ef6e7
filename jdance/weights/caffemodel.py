"""Reads the parameters of a Caffe network (a NetParameter in a .caffemodel), without Caffe.

Only what holds parameters is followed, by these field numbers of Caffe's public caffe.proto:
NetParameter.layer=100 (LayerParameter.name=1, blobs=7) and, in files of the older format,
NetParameter.layers=2 (V1LayerParameter.name=4, blobs=6); BlobProto.shape=7 (BlobShape.dim=1) or, in
old files, num=1, channels=2, height=3, width=4; BlobProto.data=5, double_data=8.
"""

import math
from pathlib import Path

import numpy as np

from jdance.weights import protobuf

_LAYER, _V1_LAYER = 100, 2
_NAME_AND_BLOBS = {_LAYER: (1, 7), _V1_LAYER: (4, 6)}
_DATA = {5: "<f4", 8: "<f8"}
_MAX_AXES, _MAX_SIZE = 8, 2**28  # of an array, and along one of its axes


def read(path: str | Path) -> dict[str, list[np.ndarray]]:
    """The parameters of every layer that has any.

    Args:
        path: a binary .caffemodel, in either of its formats.

    Returns:
        Layer name -> arrays float32, for a convolution kernel [out, in, height, width] and bias.
        Biases of old files are [1, 1, 1, out].

    Raises:
        UserError: the file cannot be read, is truncated, or is something else; names the layer.
    """
    return protobuf.parse_file(path, _parse, "a Caffe model")


def _parse(data: memoryview) -> dict[str, list[np.ndarray]]:
    layers: dict[str, list[np.ndarray]] = {}
    for number, value in protobuf.fields(data):
        if number in _NAME_AND_BLOBS:
            name, blobs = _layer(protobuf.message(value), *_NAME_AND_BLOBS[number])
            if blobs and name in layers:
                raise protobuf.Malformed(f"two layers are called {name!r}")
            if blobs:
                layers[name] = blobs
    if not layers:
        raise protobuf.Malformed("it holds no parameters")
    return layers


def _layer(layer: memoryview, name_field: int, blob_field: int) -> tuple[str, list[np.ndarray]]:
    """Name and parameters of a layer; a broken message names the layer, if it came so far."""
    name, blobs = "", []
    try:
        for number, value in protobuf.fields(layer):
            if number == name_field:
                name = protobuf.text(value)
            elif number == blob_field:
                blobs.append(_blob(protobuf.message(value)))
    except protobuf.Malformed as error:
        raise protobuf.Malformed(f"layer {name!r}: {error}") from error
    return name, blobs


def _blob(blob: memoryview) -> np.ndarray:
    sizes: list[int] | None = None
    old_sizes = [0, 0, 0, 0]
    parts = []
    for number, value in protobuf.fields(blob):
        if number == 7:
            sizes = _sizes(protobuf.message(value))
        elif 1 <= number <= 4:
            old_sizes[number - 1] = protobuf.signed(protobuf.integer(value))
        elif number in _DATA:
            row = protobuf.message(value)
            if len(row) % np.dtype(_DATA[number]).itemsize:
                raise protobuf.Malformed("a cut row of values")
            parts.append(np.frombuffer(row, _DATA[number]))
    shape = tuple(old_sizes if sizes is None else sizes)
    data = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if len(shape) > _MAX_AXES or max(shape, default=0) > _MAX_SIZE:
        raise protobuf.Malformed("parameters of an impossible shape")
    if min(shape, default=0) < 0 or math.prod(shape) != data.size:
        raise protobuf.Malformed(f"parameters of shape {shape} have {data.size} values")
    return data.astype(np.float32).reshape(shape)


def _sizes(shape: memoryview) -> list[int]:
    """The sizes of a BlobShape, packed or single."""
    sizes: list[int] = []
    for number, value in protobuf.fields(shape):
        if number == 1:
            row = [value] if isinstance(value, int) else list(protobuf.varints(value))
            sizes += [protobuf.signed(size) for size in row]
    return sizes
