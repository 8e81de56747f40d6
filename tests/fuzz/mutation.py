"""Changes that keep the form of an input, so that what lies behind the form is reached.

Each takes the input, a source of chance, and a function that changes raw bytes anyhow (libFuzzer's
own where there is one), and falls back on that where the input has not the form.
"""

from __future__ import annotations

import io
import json
import math
import random
import warnings
import zipfile
from collections.abc import Callable
from typing import Any, TypeAlias

Raw: TypeAlias = Callable[[bytes], bytes]

NUMBERS: list[Any] = [
    0, 1, -1, 2, 3, 7, 8, 16, 64, 77, 255, 256, 1024, 4096, 65_535, 65_536, 2**24, 2**31 - 1,
    2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, -(2**31), -(2**63), 10**40, 10**400, 0.5, -0.0,
    1e-300, 1e300, 1.5, 49407, 49408,
]  # fmt: skip
WORDS = [
    "", "a", "\0", "\x1b[31m", "\u202e", "\ud800", "../x", "..", ".", "/etc/passwd", "a/b", "a\\b",
    "a" * 300, "a" * 5000, "²", "é", "\n", "none", "null", "1", "1e999", "x:1", "fp32", "image",
    "card.json", "http://a/b", "s3://a/b",
]  # fmt: skip


def raw_changes(rng: random.Random) -> Raw:
    """Changes of raw bytes for where no fuzzer lends its own."""

    def change(data: bytes) -> bytes:
        out = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(out) + 1)
            end = min(len(out), place + rng.choice([1, 1, 2, 4, 16, 200]))
            kind = rng.randrange(6)
            if kind == 0:
                del out[place:end]
            elif kind == 1:
                out[place:place] = out[place:end]
            elif kind == 2:
                out[place:end] = rng.randbytes(end - place)
            elif kind == 3 and place < len(out):
                out[place] ^= 1 << rng.randrange(8)
            elif kind == 4:
                out[place:end] = rng.choice([b"\0", b"\xff", b"\x7f", b"\x80"]) * (end - place)
            else:
                out[place:place] = rng.randbytes(rng.choice([1, 2, 8]))
        return bytes(out)

    return change


def plain(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """Any bytes."""
    return raw(data)


def in_json(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """Values, names and nesting of JSON."""
    if rng.random() < 0.15:
        return raw(data)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return raw(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        value = changed(value, rng, raw)
    try:
        text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    except (ValueError, RecursionError):
        return raw(data)
    return text.encode("utf-8", "surrogatepass")


def in_json_lines(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """One of several lines of JSON, or their number and order."""
    lines = data.splitlines(keepends=True)
    if not lines or rng.random() < 0.1:
        return raw(data)
    place = rng.randrange(len(lines))
    kind = rng.randrange(6)
    if kind == 0:
        lines.insert(rng.randrange(len(lines) + 1), lines[place])
    elif kind == 1:
        del lines[place]
    else:
        end = rng.choice([b"\n", b"\n", b"\r\n", b"\r", b""])
        lines[place] = in_json(lines[place].rstrip(b"\r\n"), rng, raw) + end
    return b"".join(lines)


def changed(value: Any, rng: random.Random, raw: Raw) -> Any:
    """A value of JSON with one change somewhere in it."""
    places = list(_places(value))
    if not places:
        return _other(value, value, rng, raw)
    inside, key = rng.choice(places)
    kind = rng.randrange(10)
    if kind == 0:
        del inside[key]
    elif kind == 1 and isinstance(inside, dict):
        inside[str(_other(key, value, rng, raw))] = inside.pop(key)
    elif kind == 2 and isinstance(inside, dict):
        inside[rng.choice(WORDS)] = inside[key]
    elif kind == 3 and isinstance(inside, list):
        inside[key:key] = [inside[key]] * rng.choice([1, 2, 50])
    else:
        inside[key] = _other(inside[key], value, rng, raw)
    return value


def _places(value: Any, depth: int = 0) -> Any:
    if depth < 40:
        if isinstance(value, dict):
            for key in list(value):
                yield value, key
                yield from _places(value[key], depth + 1)
        elif isinstance(value, list):
            for key in range(min(len(value), 64)):
                yield value, key
                yield from _places(value[key], depth + 1)


def _other(value: Any, whole: Any, rng: random.Random, raw: Raw) -> Any:
    """Another value in the place of one."""
    kind = rng.randrange(12)
    if kind == 0:
        return rng.choice([None, True, False, [], {}, [[]], {"": {}}, float("nan"), float("inf")])
    if kind == 1:
        return rng.choice(NUMBERS)
    if kind == 2:
        return rng.choice(WORDS)
    if kind == 3:
        nested: Any = value
        for _ in range(rng.choice([1, 2, 40, 600])):
            nested = [nested] if rng.random() < 0.5 else {"a": nested}
        return nested
    if kind == 4:
        there = [inside[key] for inside, key in _places(whole)]
        return json.loads(json.dumps(rng.choice(there))) if there else value
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice([-1, 1, 100, -value, value, 10**6])
    if isinstance(value, float) and math.isfinite(value):
        return rng.choice([-value, value * 1e9, value * 1e-9, value + 1, int(value)])
    if isinstance(value, str):
        return raw(value.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
    return rng.choice(NUMBERS)


def in_protobuf(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """A field of a protocol buffer, at any depth; lengths are put right."""
    fields = fields_of(data)
    if not fields or rng.random() < 0.1:
        return raw(data)
    place = rng.randrange(len(fields))
    number, wire, value = fields[place]
    kind = rng.randrange(10)
    if kind == 0:
        del fields[place]
    elif kind == 1:
        fields.insert(rng.randrange(len(fields) + 1), fields[place])
    elif kind == 2:
        fields[place] = rng.choice([1, 2, 3, 5, 7, 20, 35, 2**29]), wire, value
    elif kind == 3:
        fields[place] = number, 0, _varint(rng.choice([0, 1, 2, 3, 255, 2**31, 2**63, 2**70]))
    elif wire == 2:
        fields[place] = number, wire, in_protobuf(value, rng, raw)
    else:
        fields[place] = number, wire, raw(value)[: 8 if wire == 1 else 4 if wire == 5 else 10]
    return joined_fields(fields)


def joined_fields(fields: list[tuple[int, int, bytes]]) -> bytes:
    """The message that has these fields."""
    return b"".join(
        _varint(number << 3 | wire) + (_varint(len(value)) if wire == 2 else b"") + value
        for number, wire, value in fields
    )


def fields_of(data: bytes) -> list[tuple[int, int, bytes]]:
    """Fields of a message: number, wire type and content; none where it is no message."""
    found, place = [], 0
    while place < len(data):
        tag, place = _read_varint(data, place)
        wire = tag & 7
        if wire == 2:
            length, place = _read_varint(data, place)
        elif wire == 0:
            _, end = _read_varint(data, place)
            length = end - place
        else:
            length = {1: 8, 5: 4}.get(wire, -1)
        if length < 0 or place + length > len(data) or tag >> 3 == 0:
            return []
        found.append((tag >> 3, wire, data[place : place + length]))
        place += length
    return found


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 70:
        value |= (data[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if data[place - 1] < 0x80:
            return value, place
    return 1 << 60, place


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def in_safetensors(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """The JSON in front of the tensors; its length is put right."""
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8 or rng.random() < 0.15:
        return raw(data)
    header, body = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.8:
        header = in_json(header, rng, raw)
    else:
        body = raw(body)
    return len(header).to_bytes(8, "little") + header + body


def in_zip(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """A file in a zip; sums and places are put right."""
    if rng.random() < 0.2:
        return raw(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(name, archive.read(name)[:100_000]) for name in archive.namelist()]
    except Exception:  # noqa: BLE001 - zipfile raises many types
        return raw(data)
    if not entries:
        return raw(data)
    place = rng.randrange(len(entries))
    name, content = entries[place]
    kind = rng.randrange(8)
    if kind == 0:
        entries.append((name, content))
    elif kind == 1:
        entries[place] = rng.choice(entries)[0], content
    elif kind == 2:
        del entries[place]
    elif kind == 3:
        entries[place] = name, content + bytes(rng.choice([1, 1000, 10**6]))
    else:
        # What NumPy reads first says how long the rest is.
        head = 10 + int.from_bytes(content[8:10], "little")
        front, rest = content[:head], content[head:]
        front = raw(front) if rng.random() < 0.3 else _in_npy(front, rng)
        entries[place] = name, front + rest
    out = io.BytesIO()
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as archive:
        warnings.simplefilter("ignore")  # of two entries with one name
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return out.getvalue()


def _in_npy(front: bytes, rng: random.Random) -> bytes:
    """Type, order or shape in the header of an array; its length is put right."""
    old = rng.choice([b"(", b",", b")", b"<f4", b"|u1", b"<i4", b"False", b"'shape'", b"'descr'"])
    new = rng.choice(
        [b"(2**9,", b"(999999999999,", b"(-1,", b"()", b"<f8", b"|O", b"<U9", b"True", b"'x'", b"0"]
    )
    text = front[10:].replace(old, new, 1)
    return front[:8] + len(text).to_bytes(2, "little") + text


def shuffled(pieces: list[bytes], rng: random.Random, change: Raw) -> list[bytes]:
    """Pieces one of which is changed, doubled, moved or left out."""
    if not pieces:
        return pieces
    place, kind = rng.randrange(len(pieces)), rng.randrange(9)
    if kind == 0:
        del pieces[place]
    elif kind == 1:
        pieces.insert(rng.randrange(len(pieces) + 1), pieces[place])
    elif kind == 2:
        pieces.append(pieces.pop(place))
    elif kind == 3:
        pieces[place:place] = [pieces[place]] * rng.choice([2, 10, 100])
    else:
        pieces[place] = change(pieces[place])
    return pieces


def in_parquet(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """The footer of a Parquet file, whose length is put right, or a page before it."""
    length = int.from_bytes(data[-8:-4], "little")
    if data[-4:] != b"PAR1" or length > len(data) - 12 or rng.random() < 0.1:
        return raw(data)
    body, footer = data[4 : -8 - length], data[-8 - length : -8]
    if rng.random() < 0.3:
        body = raw(body)
    else:
        footer = raw(footer)
    return b"PAR1" + body + footer + len(footer).to_bytes(4, "little") + b"PAR1"
