"""Random mutations of bytes, text, JSON, msgpack, and members of zip archives."""

import io
import json
import re
import zipfile

import msgpack
import numpy as np

# Boundary values of integer sizes and signs.
_NUMBERS = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1,
            2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]  # fmt: skip
_WORDS = ["NaN", "Infinity", "-1", "1e400", "1e39", "9" * 400, "0x10", "null", "true", "[]", "{}",
          '""', "[[[[]]]]", "../../../x", "/etc/passwd", "\x00", "\ud800", "é" * 50, "-0.0", "1e9",
          "2147483648", "18446744073709551616", "a" * 5000, "\r\n", '"', ",",
          "[" * 5000]  # fmt: skip
_VALUES = [None, True, -1, 0, 1e400, float("nan"), 2**63, 10**400, "", "../../x", "/x", "\x00", [],
           {}, [[]], "a" * 1000, [0] * 1000, {"a": {}}, -0.5, "nan"]  # fmt: skip


def mutate(rng: np.random.Generator, data: bytes, name: str) -> bytes:
    """Returns a mutated copy of a file's content, by the format that its name implies."""
    draw = rng.random()
    if name.endswith(".json") and draw < 0.5:
        return _json(rng, data)
    if name.endswith((".npz", ".pth")) and data[:2] == b"PK" and draw < 0.6:
        return _zip(rng, data, name)
    if name.endswith(".safetensors") and draw < 0.5:
        size = int.from_bytes(data[:8], "little")
        header = _json(rng, data[8 : 8 + size])
        return len(header).to_bytes(8, "little") + header + data[8 + size :]
    if name.endswith(".msgpack") and draw < 0.6:
        return _msgpack(rng, data)
    if name.endswith((".json", ".csv", ".xml")) and draw < 0.8:
        return _text(rng, data)
    return _bytes(rng, data)


def _bytes(rng: np.random.Generator, data: bytes) -> bytes:
    result = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 1, 2, 4, 16]))):
        if not result:
            break
        # Half of the mutations hit the header, which holds sizes.
        end = len(result) if rng.random() < 0.5 else min(len(result), 128)
        at, mutation = int(rng.integers(end)), int(rng.integers(9))
        length = int(2 ** rng.uniform(0, 9))
        if mutation == 0:
            result[at] ^= 1 << int(rng.integers(8))
        elif mutation == 1:
            result[at] = int(rng.integers(256))
        elif mutation == 2:
            del result[at : at + length]
        elif mutation == 3:
            result[at:at] = rng.bytes(length)
        elif mutation == 4:
            result[at:at] = result[at : at + length]
        elif mutation == 5:
            del result[at:]
        elif mutation == 6:
            other = int(rng.integers(len(result)))
            result[at : at + length] = result[other : other + length]
        elif mutation == 7:
            result[at : at + length] = bytes([int(rng.choice([0, 255]))]) * length
        else:
            size = int(rng.choice([1, 2, 4, 8]))
            number = _NUMBERS[int(rng.integers(len(_NUMBERS)))] % 256**size
            order = "little" if rng.random() < 0.5 else "big"
            result[at : at + size] = number.to_bytes(size, order)
    return bytes(result)


def _text(rng: np.random.Generator, data: bytes) -> bytes:
    """Replaces one to three numbers, words or separators."""
    text = data.decode("utf-8", "surrogateescape")
    for _ in range(int(rng.integers(1, 4))):
        tokens = list(re.finditer(r"-?[\d.]+(e[+-]?\d+)?|\w+|[^\w\s]", text))
        if not tokens:
            break
        token = tokens[int(rng.integers(len(tokens)))]
        word = _WORDS[int(rng.integers(len(_WORDS)))]
        if rng.random() < 0.2:
            word = token[0] + word
        text = text[: token.start()] + word + text[token.end() :]
    return text.encode("utf-8", "surrogatepass" if rng.random() < 0.5 else "replace")


def _json(rng: np.random.Generator, data: bytes) -> bytes:
    content = json.loads(data)
    for _ in range(int(rng.integers(1, 3))):
        content = _replaced(rng, content)
    return json.dumps(content).encode()


def _msgpack(rng: np.random.Generator, data: bytes) -> bytes:
    content = msgpack.unpackb(data)
    changed = _replaced(rng, content)
    try:
        return msgpack.packb(changed)
    except (OverflowError, ValueError, UnicodeEncodeError):
        return data[:-1]


def _replaced(rng: np.random.Generator, node: object) -> object:
    """Returns the tree with a random node replaced, removed or repeated."""
    if isinstance(node, dict | list) and node and rng.random() < 0.85:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = keys[int(rng.integers(len(keys)))]
        copy = node.copy()
        draw = rng.random()
        if draw < 0.1:
            del copy[key]
        elif draw < 0.15 and isinstance(copy, list):
            copy += copy
        elif draw < 0.2 and isinstance(copy, dict):
            copy[str(_VALUES[int(rng.integers(len(_VALUES)))])] = copy.pop(key)
        else:
            copy[key] = _replaced(rng, node[key])
        return copy
    if isinstance(node, bytes) and rng.random() < 0.6:
        return _bytes(rng, node)
    if isinstance(node, int | float) and rng.random() < 0.3:
        return -node * 2
    return _VALUES[int(rng.integers(len(_VALUES)))]


def _zip(rng: np.random.Generator, data: bytes, name: str) -> bytes:
    """Returns an archive with valid checksums and one mutated member."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    names = list(members)
    chosen = names[int(rng.integers(len(names)))]
    members[chosen] = _bytes(rng, members[chosen])
    if rng.random() < 0.1:
        members["../../outside.npy"] = members[chosen]
    stream = io.BytesIO()
    compression = zipfile.ZIP_STORED if name.endswith(".pth") else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return stream.getvalue()
