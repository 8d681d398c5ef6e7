"""Readers of weights files: correct arrays, one-line errors for damage, no code execution."""

import collections
import contextlib
import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest

from jdance import weights
from jdance.errors import UserError
from jdance.weights import pth, safetensors

# Writers of small files, to test the readers without PyTorch --------------------------------------


class Named:
    """Pickled as the name of a function or class, or as a call with arguments."""

    def __init__(self, module, name, *arguments):
        self.module, self.name, self.arguments = module, name, arguments


class Stored:
    """Pickled as a reference to external data."""

    def __init__(self, *pid):
        self.pid = pid


class Pickler(pickle._Pickler):
    def persistent_id(self, value):
        return value.pid if isinstance(value, Stored) else None

    def save(self, value, save_persistent_id=True):
        if not isinstance(value, Named):
            return super().save(value, save_persistent_id)
        self.write(f"c{value.module}\n{value.name}\n".encode())
        if value.arguments:
            super().save(value.arguments)
            self.write(b"R")


def dumps(value):
    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(value)
    return stream.getvalue()


def tensor(key="0", size=6, shape=(2, 3), strides=(3, 1), offset=0, kind="FloatStorage"):
    storage = Stored("storage", Named("torch", kind), key, "cpu", size)
    empty = collections.OrderedDict()
    return Named(
        "torch._utils", "_rebuild_tensor_v2", storage, offset, shape, strides, False, empty
    )


NUMBERS = np.arange(6, dtype=np.float32)


def archive(content, data=NUMBERS, compression=zipfile.ZIP_STORED, **more):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        file.writestr("net/data.pkl", dumps(content))
        file.writestr("net/data/0", data.tobytes())
        for name, text in more.items():
            file.writestr(f"net/{name}", text)
    return stream.getvalue()


def legacy(content, data=NUMBERS, little_endian=True):
    pickles = [pth._LEGACY_MAGIC, pth._LEGACY_VERSION, {"little_endian": little_endian}, content]
    parts = [dumps(value) for value in (*pickles, ["0"])]
    return b"".join([*parts, len(data).to_bytes(8, "little"), data.tobytes()])


def safetensors_file(header, data=NUMBERS):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data.tobytes()


def entry(dtype="F32", shape=(2, 3), offsets=(0, 24)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


FILES = {
    "zip": ("net.pth", archive({"state_dict": {"w": tensor(), "note": "text"}, "epoch": 3})),
    "legacy": ("net.pth", legacy({"w": tensor()})),
    "safetensors": (
        "net.safetensors",
        safetensors_file({"__metadata__": {"by": "us"}, "w": entry()}),
    ),
}


def read(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return weights.read(path)


def read_error(tmp_path, name, content):
    with pytest.raises(UserError) as error:
        read(tmp_path, name, content)
    message = str(error.value)
    assert message.startswith(str(tmp_path / name)) and "\n" not in message
    return message


# Tests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FILES)
def test_reads_every_format(tmp_path, kind):
    found = read(tmp_path, *FILES[kind])
    assert found.keys() == {"w"} and found["w"].dtype == np.float32
    np.testing.assert_array_equal(found["w"], NUMBERS.reshape(2, 3))


def test_views_of_a_storage(tmp_path):
    content = {
        "transposed": tensor(shape=(3, 2), strides=(1, 3)),
        "end": tensor(shape=(2,), strides=(1,), offset=4),
        "scalar": tensor(shape=(), strides=(), offset=5),
        "empty": tensor(shape=(0, 3), strides=(3, 1)),
        "wrapped": Named("torch._utils", "_rebuild_parameter", tensor(), True, {}),
    }
    for write in (archive, legacy):
        found = read(tmp_path, "net.pth", write(content))
        np.testing.assert_array_equal(found["transposed"], NUMBERS.reshape(2, 3).T)
        np.testing.assert_array_equal(found["end"], [4, 5])
        assert found["scalar"] == 5 and found["empty"].shape == (0, 3)
        np.testing.assert_array_equal(found["wrapped"], NUMBERS.reshape(2, 3))


@pytest.mark.parametrize("kind", FILES)
def test_truncated_and_altered_files(tmp_path, kind):
    """Any damage gives either arrays or a one-line error."""
    name, content = FILES[kind]
    for cut in range(len(content) - 1):
        read_error(tmp_path, name, content[:cut])
    rng = np.random.default_rng(0)
    for index in rng.choice(len(content), min(len(content), 400), replace=False):
        altered = bytearray(content)
        altered[index] ^= int(rng.integers(1, 256))
        with contextlib.suppress(UserError):
            found = read(tmp_path, name, bytes(altered))
            assert all(isinstance(array, np.ndarray) for array in found.values())


@pytest.mark.parametrize("write", [archive, legacy])
@pytest.mark.parametrize(
    "call",
    [
        Named("os", "system", "touch RAN"),
        Named("posix", "system", "touch RAN"),
        Named("builtins", "eval", "open('RAN', 'w')"),
        Named("torch.serialization", "load", "RAN"),
        Named("torch", "load", "RAN"),
        Named("collections", "namedtuple", "RAN", "x"),
    ],
    ids=lambda call: f"{call.module}.{call.name}",
)
def test_functions_are_never_called(tmp_path, monkeypatch, write, call):
    monkeypatch.chdir(tmp_path)
    message = read_error(tmp_path, "net.pth", write({"w": tensor(), "evil": call}))
    assert f"it asks for {call.module}.{call.name}" in message and not os.path.exists("RAN")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "pickle"),
        (b"no weights", "opcode"),
        (dumps({"w": 3}), "does not start as one"),
        (pickle.dumps({"w": 3}, protocol=4), "pickle instruction FRAME"),
        (archive({"w": 3}), "no tensors by name"),
        (archive([tensor()]), "no tensors by name"),
        (archive({"w": tensor()}, compression=zipfile.ZIP_DEFLATED), "compressed"),
        (archive({"w": tensor()}, byteorder="big"), "big-endian"),
        (legacy({"w": tensor()}, little_endian=False), "not little-endian"),
        (archive({"w": tensor(key="1")}), "data/1' is missing"),
        (legacy({"w": tensor(key="1")}), "data of an unknown kind"),
        (archive({"w": tensor(size=5)}), "'w' of shape (2, 3) is larger than its data"),
        (archive({"w": tensor(offset=1)}), "larger than its data"),
        (archive({"w": tensor(strides=(4, 1))}), "larger than its data"),
        (archive({"w": tensor(shape=(2**20, 2**20), strides=(0, 0))}), "larger than its data"),
        (archive({"w": tensor(offset=-1)}), "no possible shape"),
        (archive({"w": tensor(shape=(2, -3))}), "no possible shape"),
        (archive({"w": tensor(shape=(2, "3"))}), "no possible shape"),
        (archive({"w": tensor(strides=(1,))}), "no possible shape"),
        (archive({"w": tensor(size=-6)}), "impossible size"),
        (archive({"w": tensor(kind="DoubleStorage")}), "has 24 bytes"),
        (archive({"w": tensor(), "v": tensor(kind="IntStorage")}), "has two types"),
        (legacy(Named("torch._utils", "_rebuild_tensor_v2", 1, 2, 3, 4)), "without a shape"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "a cut pickle"),
    ],
)  # fmt: skip
def test_bad_checkpoints(tmp_path, content, reason):
    assert reason in read_error(tmp_path, "net.pth", content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "header too small"),
        (b"\xff" * 16, "header too large"),
        (safetensors_file([]), "invalid JSON in header"),
        (safetensors_file({}, NUMBERS[:0]), "no tensors"),
        (b"\x01" + bytes(7) + b"{", "invalid JSON in header"),
        (safetensors_file({"w": 3}), "invalid type"),
        (safetensors_file({"w": entry(dtype="F8")}), "unknown variant `F8`"),
        (safetensors_file({"w": entry(dtype="U32")}), "'w' has the unsupported type U32"),
        (safetensors_file({"w": entry(offsets=(0,))}), "invalid length"),
        (safetensors_file({"w": entry(offsets=(0, 28), shape=(7,))}), "not fully covered"),
        (safetensors_file({"w": entry(offsets=(24, 0), shape=(-6,))}), "invalid value"),
        (safetensors_file({"w": entry(shape=(2, 4))}), "invalid shape"),
        (safetensors_file({"w": entry(shape=(2**40, 2**40))}), "overflow"),
        (safetensors_file({"w": entry(shape=(1,) * 99 + (6,))}), "impossible shape"),
    ],
)
def test_bad_safetensors(tmp_path, content, reason):
    assert reason in read_error(tmp_path, "net.safetensors", content)


def test_missing_files(tmp_path):
    for reader, name in ((pth, "no.pth"), (safetensors, "no.safetensors")):
        with pytest.raises(UserError, match=f"{name}: cannot be read"):
            reader.read(tmp_path / name)
