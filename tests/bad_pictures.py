"""What is no picture or too large for one, with the words that say so; and the usual recipe."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image

from cliprt import ImageSpec
from pictures import rgb


def spec(side: int = 64, **changes: object) -> ImageSpec:
    values: dict[str, object] = {
        "height": side,
        "width": side,
        "resize": "shortest",
        "resize_height": side,
        "resize_width": side,
        "resample": "bicubic",
        "crop": "floor",
        "convert": "first",
        "transparency": "white",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "rescale": 1 / 255,
    }
    return ImageSpec(**{**values, **changes})  # type: ignore[arg-type]


def bomb(width: int, height: int) -> bytes:
    """A small PNG whose header promises many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = (
        chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def corrupt_png() -> bytes:
    buffer = BytesIO()
    rgb(80, 80).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


BAD = {
    "zero bytes": (b"", "0 bytes"),
    "random bytes": (bytes(range(256)) * 4, "supported format"),
    "html": (b"<html><body>not found</body></html>", "supported format"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "supported format"),
    "pdf": (b"%PDF-1.4 nothing", "supported format"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "supported format"),
    "tiff": (b"II*\0\x08\0\0\0\0\0", "supported format"),
    "half a jpeg": (jpeg(rgb(200, 200))[:2000], "truncated or damaged"),
    "jpeg without its end": (jpeg(rgb(200, 200))[:-400], "truncated or damaged"),
    "corrupt png": (corrupt_png(), "truncated or damaged"),
    "float array": (np.zeros((8, 8, 3)), "uint8"),
    "channels first": (np.zeros((3, 8, 8), np.uint8), "height, width, 3"),
    "four channels": (np.zeros((8, 8, 4), np.uint8), "height, width, 3"),
    "object array": (np.array([[[object()] * 3]]), "uint8"),
    "empty array": (np.zeros((0, 8, 3), np.uint8), "no pixels"),
    "a number": (17, "got int"),
    "none": (None, "got NoneType"),
    "a missing file": ("no/such/picture.jpg", "No such file"),
    "a folder": ("/", "not a regular file"),
    "a device": ("/dev/zero", "not a regular file"),
    "a path with a zero": ("a\0b", "null"),
    "a url": ("https://example.com/cat.jpg", "URLs are not fetched"),
    "a file url": ("file:///etc/passwd", "URLs are not fetched"),
}

TOO_LARGE = {
    "bomb": (bomb(30_000, 30_000), "max_image_pixels"),
    "between one and two times Pillow's limit": (bomb(10_000, 10_000), "max_image_pixels"),
    "long": (bomb(65_500, 1), "max_image_aspect_ratio"),
    "long array": (np.zeros((1, 101, 3), np.uint8), "max_image_aspect_ratio"),
    "bytes": (b"\xff\xd8" * (17 * 2**20), "max_image_bytes"),
}
