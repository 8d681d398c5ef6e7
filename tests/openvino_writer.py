"""Writes OpenVINO IR files with convolutions, for tests of the reader."""

import numpy as np

NAMES = {np.float32: "f32", np.float16: "f16", np.uint8: "u8", np.int8: "i8", np.int64: "i64"}


class Writer:
    """Collects layers; `xml` and `data` are the content of both files."""

    def __init__(self):
        self._layers, self._edges, self.data = [], [], b""

    def layer(self, kind, *inputs, name="", output=(), **attributes):
        number = str(len(self._layers))
        data = " ".join(f'{key}="{value}"' for key, value in attributes.items())
        ports = "".join(f"<dim>{size}</dim>" for size in output)
        self._layers.append(
            f'<layer id="{number}" name="{name or number}" type="{kind}"><data {data}/>'
            f'<output><port id="9">{ports}</port></output></layer>'
        )
        for port, source in enumerate(inputs):
            self._edges.append(
                f'<edge from-layer="{source}" from-port="9" to-layer="{number}" to-port="{port}"/>'
            )
        return number

    def constant(self, array):
        offset = len(self.data)
        self.data += array.tobytes()
        return self.layer(
            "Const", element_type=NAMES[array.dtype.type], offset=offset, size=array.nbytes,
            shape=",".join(map(str, array.shape)),
        )  # fmt: skip

    def quantized(self, codes, levels, scale):
        """Maps codes 0 to levels - 1 to -scale to scale; scale is [out, 1, 1, 1]."""
        converted = self.layer("Convert", self.constant(codes), destination_type="f16")
        limits = [np.float16([0]), np.float16([levels - 1]), -scale, scale]
        limits = [self.constant(limit.astype(np.float16)) for limit in limits]
        return self.layer("FakeQuantize", converted, *limits, levels=levels)

    def convolution(self, name, source, kernel, bias=None):
        """`kernel` is a layer id, `bias` an array [out] or None."""
        kind = "GroupConvolution" if name.endswith("dw") else "Convolution"
        last = self.layer(kind, source, kernel, name=name)
        if bias is not None:
            last = self.layer("Add", last, self.constant(bias.reshape(1, -1, 1, 1)))
        return self.layer("ReLU", last)

    @property
    def xml(self):
        layers, edges = "".join(self._layers), "".join(self._edges)
        return (
            f'<?xml version="1.0"?><net name="n" version="10"><layers>{layers}</layers>'
            f"<edges>{edges}</edges></net>"
        )

    def write(self, path):
        path.write_text(self.xml)
        path.with_suffix(".bin").write_bytes(self.data)
        return path


def small_network(dtype=np.float32, seed=0):
    """A writer with 3x3, depthwise and 1x1 convolutions, and {name: (kernel, bias)}."""
    rng, writer, expected = np.random.default_rng(seed), Writer(), {}
    source = writer.layer("Parameter")
    for name, shape in (("a", (4, 3, 3, 3)), ("b/dw", (4, 1, 3, 3)), ("c", (2, 4, 1, 1))):
        bias = rng.normal(size=shape[0]).astype(np.float16 if dtype == np.uint8 else dtype)
        if dtype == np.uint8:
            codes = rng.integers(0, 255, shape, np.uint8)
            scale = rng.uniform(0.1, 2, (shape[0], 1, 1, 1)).astype(np.float16)
            kernel = writer.quantized(codes, 255, scale)
            value = (codes.astype(np.float64) / 127 - 1) * scale
        else:
            value = rng.normal(size=shape).astype(dtype)
            kernel = writer.constant(value)
        if name == "b/dw":  # groups have an axis of their own
            target = writer.constant(np.int64([4, 1, 1, 3, 3]))
            kernel = writer.layer("Reshape", kernel, target, output=(4, 1, 1, 3, 3))
        suffix = "/WithoutBiases" if name == "c" else ""
        source = writer.convolution(name + suffix, source, kernel, bias)
        expected[name] = value.astype(np.float32), bias.astype(np.float32)
    return writer, expected
