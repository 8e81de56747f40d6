"""Changes of tars that keep sums right, so that their reader goes on."""

from __future__ import annotations

import gzip
import random
import zlib
from io import BytesIO

from fuzz.mutation import Raw, shuffled

_BLOCK = 512
_PAX = [
    "path", "linkpath", "size", "mtime", "uid", "uname", "hdrcharset", "comment",
    "GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.name", "GNU.sparse.map", "GNU.sparse.size",
    "GNU.sparse.realsize", "GNU.sparse.numblocks", "GNU.sparse.offset", "GNU.sparse.numbytes",
]  # fmt: skip
_PAX_VALUES = [
    "", "0", "1", "-1", "-512", "-1024", "512", "9" * 20, "9" * 5000, "x", "1.5", "nan", "BINARY",
    "0,1,2,3", "0,5,-5,5", "a.jpg", "a.txt", "../../etc/passwd", "\udcff.jpg", "1e5", "²",
]  # fmt: skip
_SIZES = [0, 1, 511, 512, 513, 2**20, 2**33, 2**40, 2**62, 2**63, 2**80, -1, -512, -1024, -(2**63)]


def in_tar(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """A header or a member of a tar, packed or not; sums are put right."""
    packed = data.startswith(b"\x1f\x8b")
    if packed:
        if rng.random() < 0.1:
            return raw(data)
        data = _unpacked(data)
    data = raw(data) if rng.random() < 0.1 else _in_blocks(data, rng, raw)
    packed ^= rng.random() < 0.05
    return gzip.compress(data, 1, mtime=0) if packed else data


def _unpacked(data: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=BytesIO(data)) as file:
            return file.read(2**20)
    except (OSError, EOFError, zlib.error):
        return b""


def _in_blocks(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    blocks = [data[place : place + _BLOCK] for place in range(0, len(data), _BLOCK)]
    headers = [number for number, block in enumerate(blocks) if block[257:262] == b"ustar"]
    if not headers or rng.random() < 0.15:
        return b"".join(shuffled(blocks, rng, raw))
    number, kind = rng.choice(headers), rng.randrange(10)
    if kind == 0:
        blocks[number:number] = pax(
            {rng.choice(_PAX): rng.choice(_PAX_VALUES) for _ in range(rng.choice([1, 1, 2, 4]))},
            rng.choice([b"x", b"x", b"x", b"g"]),
        )
    elif kind == 1:
        name = rng.choice([b"a.jpg\0", b"a" * 300 + b".txt\0", b"\xff.txt\0", b"/../b.jpg\0"])
        blocks[number:number] = described(name, rng.choice([b"L", b"L", b"K"]))
    elif kind == 2:
        blocks[number:number] = blocks[number : number + rng.choice([1, 2, 3])]
    else:
        blocks[number] = resummed(_in_header(blocks[number], rng, raw))
    return b"".join(blocks)


def _in_header(block: bytes, rng: random.Random, raw: Raw) -> bytes:
    out = bytearray(block.ljust(_BLOCK, b"\0"))
    kind = rng.randrange(8)
    if kind <= 2:
        out[124:136] = number(rng.choice(_SIZES))
    elif kind == 3:
        out[156:157] = rng.choice(
            [
                b"0",
                b"\0",
                b"1",
                b"2",
                b"3",
                b"5",
                b"7",
                b"L",
                b"K",
                b"x",
                b"g",
                b"X",
                b"S",
                b"D",
                b"?",
            ]
        )
    elif kind == 4:
        out[0:100] = raw(bytes(out[0:100]))[:100].ljust(100, b"\0")
    elif kind == 5:
        # Where GNU keeps the map of a sparse member.
        place = 386 + 12 * rng.randrange(8)
        out[place : place + 12] = number(rng.choice(_SIZES))
    elif kind == 6:
        out[482], out[483:495] = rng.choice([0, 1]), number(rng.choice(_SIZES))
    else:
        place = rng.randrange(_BLOCK)
        out[place] = rng.randrange(256)
    return bytes(out)


def number(value: int) -> bytes:
    """A number in a header: octal where that holds it, else in base 256."""
    if 0 <= value < 8**11:
        return b"%011o\0" % value
    return bytes([0x80 if value >= 0 else 0xFF]) + (value % (1 << 88)).to_bytes(11, "big")


def resummed(block: bytes) -> bytes:
    """A header with the sum that it must have."""
    blank = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(blank) + block[156:]


def header(name: bytes, size: int, kind: bytes) -> bytes:
    """A header of ustar."""
    out = bytearray(_BLOCK)
    out[0 : len(name)] = name
    out[100:124] = b"0000644\0" + b"0000000\0" * 2
    out[124:136], out[136:148] = number(size), number(0)
    out[156:157], out[257:265] = kind, b"ustar\00000"
    return resummed(bytes(out))


def described(content: bytes, kind: bytes) -> list[bytes]:
    """Blocks that describe the member behind them: a long name (L), or pax records (x, g)."""
    padded = content + bytes(-len(content) % _BLOCK)
    return [
        header(b"@", len(content), kind),
        *(padded[place : place + _BLOCK] for place in range(0, len(padded), _BLOCK)),
    ]


def pax(records: dict[str, str], kind: bytes = b"x") -> list[bytes]:
    """Blocks with pax records."""
    body = b""
    for name, value in records.items():
        line = f" {name}={value}\n".encode("utf-8", "surrogateescape")
        length = len(line) + len(str(len(line)))
        length += len(str(length)) - len(str(len(line)))
        body += str(length).encode() + line
    return described(body, kind)
