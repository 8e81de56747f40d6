"""Changes of pictures that keep sums and lengths right, so that decoders go on."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

from fuzz.mutation import Raw, shuffled

_FLAGS = [0, 1, 2, 3, 4, 6, 8, 16]
_SIDES = [0, 1, 2, 3, 7, 8, 16, 17, 31, 64, 255, 256, 300, 513, 4096, 65_535, 2**20, 2**31 - 1]


def in_picture(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """A picture of one of the formats that are decoded."""
    for magic, change in _BY_MAGIC:
        if data.startswith(magic):
            # Now and then no care is taken.
            return raw(data) if rng.random() < 0.1 else change(data, rng, raw)
    return raw(data)


def in_png(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """A chunk of a PNG; lengths and sums are put right."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        if place + 12 + length > len(data):
            break
        chunks.append(data[place + 4 : place + 8 + length])
        place += 12 + length
    if not chunks:
        return raw(data)
    if rng.random() < 0.2:
        chunks.insert(rng.randrange(1, len(chunks) + 1), _odd_chunk(rng))

    def change(chunk: bytes) -> bytes:
        kind, content = chunk[:4], chunk[4:]
        if kind == b"IHDR" and len(content) == 13:
            fields = list(struct.unpack(">IIBBBBB", content))
            field = rng.randrange(7)
            fields[field] = (
                rng.choice(_SIDES) if field < 2 else rng.choice([0, 1, 2, 3, 4, 6, 8, 16])
            )
            return kind + struct.pack(">IIBBBBB", *fields)
        if kind == b"IDAT" and rng.random() < 0.7:
            unpacked = zlib.decompressobj()
            try:
                return kind + zlib.compress(raw(unpacked.decompress(content, 2**20)))
            except zlib.error:
                return kind + raw(content)
        if rng.random() < 0.1:
            return rng.choice([b"tRNS", b"PLTE", b"IDAT", b"fdAT", b"eXIf"]) + content
        return kind + raw(content)

    out = data[:8]
    for chunk in shuffled(chunks, rng, change):
        length = max(len(chunk) - 4, 0).to_bytes(4, "big")
        out += length + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return out


def _odd_chunk(rng: random.Random) -> bytes:
    packed = zlib.compress(bytes(rng.choice([0, 10, 10**6])))
    return rng.choice(
        [
            b"tRNS" + rng.randbytes(rng.choice([1, 2, 6, 256])),
            b"PLTE" + rng.randbytes(rng.choice([3, 48, 768, 1000])),
            b"gAMA" + rng.randbytes(4),
            b"iCCP" + b"name\0\0" + packed,
            b"zTXt" + b"word\0\0" + packed,
            b"iTXt" + b"word\0\1\0\0\0" + packed,
            b"eXIf" + b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0",
            b"acTL" + struct.pack(">II", rng.choice([0, 1, 2, 2**31 - 1]), 0),
            b"fcTL" + struct.pack(">IIIIIHHBB", 0, 8, 8, rng.choice([0, 9]), 0, 1, 1, 0, 0),
            b"sBIT" + rng.randbytes(3),
            b"pHYs" + bytes(9),
            b"IEND",
        ]
    )


def in_jpeg(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """A segment of a JPEG; lengths are put right."""
    pieces, place = [], 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xDA or marker == 0xD9:
            break
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        pieces.append(data[place : place + 2 + length])
        place += 2 + max(length, 2)
    scan = data[place:]
    if not pieces or rng.random() < 0.2:
        return data[:2] + b"".join(pieces) + raw(scan)
    if rng.random() < 0.15:
        extra = rng.choice(
            [
                b"\xff\xee" + b"Adobe\0d\0\0\0\0" + bytes([rng.choice([0, 1, 2, 9])]),
                b"\xff\xe1Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0"
                + bytes([rng.choice([0, 3, 6, 9]), 0, 0, 0, 0, 0, 0]),
                b"\xff\xe2ICC_PROFILE\0" + rng.randbytes(20),
                b"\xff\xdd" + rng.randbytes(2),
                b"\xff\xfe" + rng.randbytes(30),
                b"\xff\xe2MPF\0" + rng.randbytes(40),
            ]
        )
        pieces.insert(
            rng.randrange(len(pieces) + 1),
            extra[:2] + (len(extra)).to_bytes(2, "big") + extra[2:],
        )

    def change(piece: bytes) -> bytes:
        marker, content = piece[:2], piece[4:]
        if marker[1] in range(0xC0, 0xD0) and marker[1] not in (0xC4, 0xC8, 0xCC) and content:
            if rng.random() < 0.3:
                marker = bytes([0xFF, rng.choice([0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC9, 0xCA])])
            fields = bytearray(content)
            place = rng.randrange(len(fields))
            if place in (1, 3) and rng.random() < 0.8:
                fields[place : place + 2] = (rng.choice(_SIDES) & 0xFFFF).to_bytes(2, "big")
            else:
                fields[place] = rng.choice([0, 1, 2, 3, 4, 8, 12, 0x11, 0x22, 0x41, 0xFF])
            content = bytes(fields)
        else:
            content = raw(content)
        length = min(len(content) + 2, 0xFFFF)
        return marker + length.to_bytes(2, "big") + content

    return data[:2] + b"".join(shuffled(pieces, rng, change)) + scan


def in_gif(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """Sides, flags or a block of a GIF."""
    out = bytearray(data)
    kind = rng.randrange(5)
    if kind == 0 and len(out) >= 13:
        place = rng.choice([6, 8])
        out[place : place + 2] = (rng.choice(_SIDES) & 0xFFFF).to_bytes(2, "little")
    elif kind == 1 and len(out) >= 13:
        out[rng.choice([10, 11, 12])] = rng.randrange(256)
    elif kind == 2 and (place := data.find(b"\x2c", 13)) > 0:
        inside = place + rng.choice([1, 3, 5, 7])
        out[inside : inside + 2] = (rng.choice(_SIDES) & 0xFFFF).to_bytes(2, "little")
    elif kind == 3 and (place := data.find(b"\x21\xf9\x04", 13)) > 0:
        out[place + 3 : place + 7] = rng.randbytes(4)
    else:
        return data[:13] + raw(data[13:])
    return bytes(out)


def in_webp(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """A chunk of a WebP; lengths are put right."""
    chunks, place = [], 12
    while place + 8 <= len(data):
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        chunks.append(data[place : place + 8 + length + (length & 1)])
        place += 8 + length + (length & 1)
    if not chunks:
        return raw(data)
    if rng.random() < 0.1:
        extra = rng.choice([b"ICCP", b"EXIF", b"XMP ", b"ANIM", b"ALPH", b"????"])
        chunks.insert(rng.randrange(len(chunks) + 1), extra + b"\x08\0\0\0" + rng.randbytes(8))

    def change(chunk: bytes) -> bytes:
        kind, content = chunk[:4], raw(chunk[8:])
        if rng.random() < 0.1:
            kind = rng.choice([b"VP8 ", b"VP8L", b"VP8X", b"ANMF", b"ALPH"])
        return kind + len(content).to_bytes(4, "little") + content + b"\0" * (len(content) & 1)

    body = b"WEBP" + b"".join(shuffled(chunks, rng, change))
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def in_bmp(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """A number in the header of a BMP."""
    if len(data) < 54 or rng.random() < 0.3:
        return data[:2] + raw(data[2:])
    out = bytearray(data)
    place, size = rng.choice(
        [(10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 4), (34, 4), (46, 4), (50, 4)]
    )
    value = rng.choice([*_SIDES, 12, 24, 40, 64, 108, 124, 2**32 - 1, 2**32 - 20])
    out[place : place + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    return bytes(out)


_BY_MAGIC: tuple[tuple[bytes, Callable[[bytes, random.Random, Raw], bytes]], ...] = (
    (b"\x89PNG", in_png),
    (b"\xff\xd8", in_jpeg),
    (b"GIF8", in_gif),
    (b"RIFF", in_webp),
    (b"BM", in_bmp),
)
