"""Encoded pictures of every kind that callers send: what is promised for each.

``FILES`` is by the number of the list of bad inputs; a picture that is taken comes with one that is
made of plain Pillow calls, whose embedding it must have.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from bad_pictures import bomb, corrupt_png, jpeg
from PIL import Image

from pictures import in_mode, pixels, rgb

SIDE = 64
"""Of the demo tower's pictures, in pixels."""

FORMAT = "not an image in a supported format"
DAMAGED = "truncated or damaged"


@dataclass(frozen=True)
class File:
    """An encoded picture.

    Attributes:
        name: what it is.
        data: the file.
        refused: what the refusal says, as a pattern; None where it is taken.
        like: a plain picture that is embedded the same; None where it is refused.
    """

    name: str
    data: bytes
    refused: str | None = None
    like: bytes | None = None


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """A picture as a file."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(image: Image.Image) -> bytes:
    """What the checkpoint's processor makes of a picture, by whole steps, as a lossless file."""
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255,) * 4), rgba)
    image = image.convert("RGB")
    width, height = image.size
    longest = int(SIDE * max(image.size) / min(image.size))
    size = (SIDE, longest) if width <= height else (longest, SIDE)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    return encoded(image.crop((left, top, left + SIDE, top + SIDE)))


def taken(name: str, data: bytes, of: Image.Image | None = None) -> File:
    """A file that is embedded as the picture it was made of; None: as Pillow opens it."""
    return File(name, data, like=plain(Image.open(BytesIO(data)) if of is None else of))


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    """A chunk of a PNG file."""
    found = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", found)


def with_chunk(png: bytes, kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    """A PNG file with one more chunk behind its header."""
    return png[:33] + chunk(kind, data, checksum) + png[33:]


def with_segments(data: bytes, marker: int, *contents: bytes) -> bytes:
    """A JPEG file with more segments at its beginning."""
    added = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content for content in contents
    )
    return data[:2] + added + data[2:]


def many_scans(image: Image.Image, count: int) -> bytes:
    """A progressive JPEG file with more scans, each of ten bytes, that all go over the picture."""
    data = jpeg(image, progressive=True)
    last = data.rindex(b"\xff\xda")
    # The header of a scan that refines one component, and no data: the decoder fills it up.
    return data[:last] + data[last : last + 10] * count + data[last:]


def animation(kind: str) -> tuple[bytes, Image.Image]:
    """Three frames in a file, and the first of them."""
    frames = [rgb(60, 40, seed=k) for k in range(3)]
    if kind == "GIF":
        frames = [frame.quantize(32) for frame in frames]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    return data, frames[0]


def second_frame_is_a_bomb() -> bytes:
    """A GIF file whose second frame claims 65,000 x 65,000 pixels."""
    data = bytearray(animation("GIF")[0])
    second = data.index(b"\x2c", data.index(b"\x21\xf9", data.index(b"\x2c") + 1))
    data[second + 5 : second + 9] = struct.pack("<HH", 65_000, 65_000)
    return bytes(data)


def _empty_and_no_pictures() -> Iterator[tuple[int, File]]:
    yield 1, File("no bytes", b"", r"empty \(0 bytes\)")
    random = np.random.default_rng(0)
    for size in (1, 16, 5000):
        yield 2, File(f"{size} random bytes", random.bytes(size), FORMAT)
    for name, data in {
        "text": b"hello, I am a text\n" * 40,
        "html": b"<!DOCTYPE html><html><body>404 not found</body></html>",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>x()</script></svg>",
        "pdf": b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n",
    }.items():
        yield 3, File(name, data, FORMAT)
    picture = rgb(40, 30)
    for kind in ("EPS", "PCX", "ICNS", "PPM", "TGA", "SGI"):
        yield 4, File(kind, encoded(picture, kind), FORMAT)
    for name, data in {
        "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(900),
        "FITS": b"SIMPLE  =                    T".ljust(2880),
        "BLP": b"BLP2" + bytes(1200),
        "McIdas": b"\0\0\0\0\0\0\0\4" + bytes(300),
    }.items():
        yield 4, File(name, data, FORMAT)
    yield 14, File("two pages of TIFF", _tiff_pages(), FORMAT)
    yield 14, File("a TIFF file whose pages go round", b"II*\0\x08\0\0\0\0\0\x08\0\0\0", FORMAT)
    for name, data in {
        "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(200),
        "AVIF": b"\0\0\0\x1cftypavif" + bytes(200),
        "HEIC": b"\0\0\0\x1cftypheic" + bytes(200),
    }.items():
        yield 25, File(name, data, FORMAT)


def _tiff_pages() -> bytes:
    return encoded(rgb(20, 20), "TIFF", save_all=True, append_images=[rgb(20, 20, seed=1)])


def _damaged_and_too_large() -> Iterator[tuple[int, File]]:
    whole = jpeg(rgb(120, 90))
    yield 5, File("half a JPEG", whole[: len(whole) // 2], DAMAGED)
    yield 5, File("a JPEG without its last ten bytes", whole[:-10], DAMAGED)
    png = encoded(rgb(120, 90))
    yield 6, File("corrupt pixels of a PNG", corrupt_png(), DAMAGED)
    yield 6, File("half a PNG", png[: len(png) // 2], DAMAGED)
    yield 6, File("a checksum of a PNG", with_chunk(png, b"tEXt", b"a\0b", 1), FORMAT)
    yield 7, File("30,000 x 30,000 in 1 KB", bomb(30_000, 30_000), "max_image_pixels")
    yield 8, File("100 million pixels", bomb(10_000, 10_000), "max_image_pixels")
    yield 9, File("65,500 x 1", bomb(65_500, 1), "max_image_aspect_ratio")
    yield 9, File("1 x 65,500", bomb(1, 65_500), "max_image_aspect_ratio")
    yield 11, File("a GIF without width", b"GIF89a" + bytes(20), f"{FORMAT}|no pixels")
    yield 16, File("a million empty segments", with_segments(whole, 0xE5, *[b""] * 450_000),
                   "300,000 steps")  # fmt: skip
    yield 16, File("a text of a PNG that unpacks to 60 MB", with_chunk(
        png, b"zTXt", b"a\0\0" + zlib.compress(bytes(60 * 2**20))), FORMAT)  # fmt: skip
    yield 24, File("a JPEG of 5,000 scans", many_scans(rgb(120, 90), 5_000), "max_jpeg_scans")
    for marker, name in {0xC3: "lossless", 0xC5: "differential"}.items():
        data = whole.replace(b"\xff\xc0", bytes([0xFF, marker]), 1)
        yield 24, File(f"a JPEG that says it is {name}", data, f"{DAMAGED}|{FORMAT}")
    yield 26, File("many bytes", b"\xff\xd8" + bytes(3 * 2**20), "max_image_bytes")


def _sizes_frames_and_metadata() -> Iterator[tuple[int, File]]:
    for size in ((1, 1), (2, 2), (1, 3), (3, 1)):
        yield 10, taken(f"{size[0]} x {size[1]}", encoded(rgb(*size)))
    for kind in ("GIF", "WEBP", "PNG"):
        data, first = animation(kind)
        yield 12, taken(f"an animated {kind}", data, first)
    yield 13, taken("a bomb behind the first frame", second_frame_is_a_bomb(), animation("GIF")[1])
    picture = rgb(90, 61, seed=5)
    whole = jpeg(picture)
    seen = Image.open(BytesIO(whole))
    for turned in range(10):
        exif = Image.Exif()
        exif[0x0112] = turned
        yield 15, taken(f"orientation {turned}", jpeg(picture, exif=exif), seen)
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + b"x" * 60_000
    yield 16, taken("two megabytes of metadata", with_segments(whole, 0xE1, *[xmp] * 30), seen)
    yield 16, taken("a text in a PNG", with_chunk(encoded(picture), b"tEXt", b"a\0" + b"b" * 9000))
    icc = b"ICC_PROFILE\0\1\1"
    for name, profile in {"broken": b"no profile", "huge": bytes(60_000)}.items():
        yield 23, taken(f"a {name} colour profile", with_segments(whole, 0xE2, icc + profile), seen)
    packed = b"p\0\0" + zlib.compress(b"no profile" * 100)
    for name, content in {"broken": packed[:-9], "foreign": packed}.items():
        data = with_chunk(encoded(picture), b"iCCP", content)
        yield 23, taken(f"a {name} profile of a PNG", data, picture)
    yield 24, taken("a progressive JPEG", jpeg(picture, progressive=True))
    # What the decoder makes of it is noise, to the reference as well.
    arithmetic = whole.replace(b"\xff\xc0", b"\xff\xc9", 1)
    yield 24, taken("a JPEG that says it is arithmetic", arithmetic)
    yield 27, taken("a JPEG with an archive behind it", whole + b"PK\3\4" + bytes(500), seen)
    yield 27, taken("a PNG with garbage behind it", encoded(picture) + b"\0garbage" * 50, picture)


def _colours() -> Iterator[tuple[int, File]]:
    yield 17, taken("CMYK", jpeg(in_mode("CMYK")))
    # The transform that Adobe's segment names: 2 is YCCK, and these writers invert the inks.
    ycck = jpeg(in_mode("CMYK")).replace(b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2")
    yield 17, taken("YCCK", ycck)
    yield 17, taken("grey", jpeg(in_mode("L")))
    yield 18, taken("16 bits of grey", encoded(in_mode("I;16")))
    deep = pixels(50, 40).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    header = struct.pack(">IIBBBBB", 50, 40, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
    yield 19, taken("16 bits of each colour", png + chunk(b"IEND", b""), rgb(50, 40))
    for mode in ("F", "I"):
        yield 19, File(f"mode {mode} as TIFF", encoded(in_mode(mode), "TIFF"), FORMAT)
    for mode in ("1", "P"):
        yield 20, taken(f"mode {mode}", encoded(in_mode(mode)), in_mode(mode))
    for mode, transparency in {"P": 7, "L": 60, "RGB": (1, 2, 3)}.items():
        data = encoded(in_mode(mode), transparency=transparency)
        yield 21, taken(f"{mode} with one transparent colour", data)
    for mode in ("RGBA", "LA"):
        yield 21, taken(f"mode {mode}", encoded(in_mode(mode)), in_mode(mode))
    hidden = Image.fromarray(np.dstack([pixels(50, 40), np.zeros((40, 50), np.uint8)]))
    yield 22, taken("nothing but transparency", encoded(hidden), Image.new("L", (50, 40), 255))
    for name, value in {"black": 0, "white": 255}.items():
        yield 35, taken(name, encoded(Image.new("RGB", (80, 80), (value,) * 3)))


_PARTS: tuple[Callable[[], Iterator[tuple[int, File]]], ...] = (
    _empty_and_no_pictures,
    _damaged_and_too_large,
    _sizes_frames_and_metadata,
    _colours,
)

FILES: list[tuple[int, File]] = [numbered for part in _PARTS for numbered in part()]
