"""Pictures that preprocessing has to get right: sizes, shapes, modes and encodings.

Drawn with integers alone, so that every machine draws the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZES = [
    (1, 1), (2, 2), (1, 3), (3, 1), (7, 5), (31, 33), (32, 32), (33, 32), (63, 64), (64, 64),
    (64, 65), (65, 64), (100, 1), (1, 100), (99, 2), (5, 500), (223, 224), (224, 224), (225, 225),
    (224, 300), (300, 224), (337, 336), (640, 480), (480, 640), (641, 427), (500, 375), (375, 500),
    (1000, 11), (13, 1299), (1920, 1080), (1080, 1920), (2048, 2047), (4000, 3000),
]  # fmt: skip
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV",
         "LAB", "I", "I;16", "F"]  # fmt: skip


def pixels(width: int, height: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Gradients, edges and noise: uint8 [height, width, channels]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    planes = []
    for channel in range(channels):
        noise = ((y * width + x + seed * 7919 + channel * 104729) * 2654435761 >> 13) % 64
        ramp = (x * (channel + 2) + y * (channel + 1) * 3 + seed * 31) % 192
        edge = ((x // 9 + y // 7 + channel) % 2) * 255
        planes.append(np.where((x + 2 * y + seed) % 5 == 0, edge, ramp + noise))
    return np.stack(planes, axis=-1).clip(0, 255).astype(np.uint8)


def rgb(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(pixels(width, height, 3, seed))


def in_mode(mode: str) -> Image.Image:
    """A picture of 90 x 61 in one of Pillow's modes."""
    width, height = 90, 61
    base = rgb(width, height, seed=5)
    if mode == "I;16":
        values = pixels(width, height, 1)[..., 0].astype(np.uint16) * 257
        return Image.frombytes("I;16", (width, height), values.astype("<u2").tobytes())
    if mode == "I":
        return Image.fromarray(pixels(width, height, 1)[..., 0].astype(np.int32) * 300 - 5000)
    if mode == "F":
        return Image.fromarray(pixels(width, height, 1)[..., 0].astype(np.float32) * 1.5 - 40)
    if mode in ("LA", "RGBA", "RGBX", "CMYK", "PA"):
        data = pixels(width, height, len(Image.new(mode, (1, 1)).getbands()), seed=9)
        if mode == "PA":
            image = Image.fromarray(data, "LA").convert("PA")
            image.putpalette([value for k in range(256) for value in (k, 255 - k, k * 7 % 256)])
            return image
        return Image.frombytes(mode, (width, height), data.tobytes())
    if mode == "RGBa":
        return in_mode("RGBA").convert("RGBa")
    if mode == "LAB":
        return Image.frombytes("LAB", (width, height), pixels(width, height, 3, 3).tobytes())
    if mode == "P":
        return base.quantize(64)
    return base.convert(mode)


def pil_cases() -> Iterator[tuple[str, Image.Image]]:
    """Pictures that are handed over as Pillow images."""
    for index, (width, height) in enumerate(SIZES):
        yield f"size {width}x{height}", rgb(width, height, seed=index)
    for mode in MODES:
        yield f"mode {mode}", in_mode(mode)
    palette = in_mode("P")
    palette.info["transparency"] = 3
    yield "palette, one transparent colour", palette
    palette = in_mode("P")
    palette.info["transparency"] = bytes(k * 4 % 256 for k in range(64))
    yield "palette, a transparency for each colour", palette
    grey = in_mode("L")
    grey.info["transparency"] = 100
    yield "grey, one transparent value", grey
    colour = rgb(70, 50, seed=3)
    colour.info["transparency"] = tuple(int(v) for v in pixels(70, 50, 3, 3)[10, 10])
    yield "colour, one transparent colour", colour
    yield "fully transparent", Image.new("RGBA", (50, 40), (200, 10, 30, 0))
    yield "black", Image.new("RGB", (80, 80))
    yield "white", Image.new("L", (80, 80), 255)


def file_cases() -> Iterator[tuple[str, bytes]]:
    """Pictures that are handed over as encoded files."""
    picture = rgb(150, 101, seed=21)
    yield "jpeg", _encoded(picture, "JPEG", quality=85)
    yield (
        "jpeg, progressive, no subsampling",
        _encoded(picture, "JPEG", progressive=True, subsampling=0),
    )
    yield "jpeg, grey", _encoded(picture.convert("L"), "JPEG")
    yield "jpeg, cmyk", _encoded(in_mode("CMYK"), "JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "jpeg, turned by its exif tag", _encoded(picture, "JPEG", exif=exif)
    yield "png", _encoded(picture, "PNG")
    yield "png, 16 bit", _encoded(in_mode("I;16"), "PNG")
    yield "png, 1 bit", _encoded(in_mode("1"), "PNG")
    yield "png, palette with transparency", _encoded(in_mode("P"), "PNG", transparency=7)
    yield "png, grey with transparency", _encoded(in_mode("L"), "PNG", transparency=60)
    yield "png, rgba", _encoded(in_mode("RGBA"), "PNG")
    yield "png, grey and alpha", _encoded(in_mode("LA"), "PNG")
    frames = [rgb(60, 40, seed=k).quantize(32) for k in range(3)]
    yield "gif, animated", _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield "webp, lossless", _encoded(picture, "WEBP", lossless=True)
    yield "webp, alpha", _encoded(in_mode("RGBA"), "WEBP", lossless=True, exact=True)
    yield "bmp", _encoded(picture, "BMP")
    yield "jpeg with trailing garbage", _encoded(picture, "JPEG") + b"PK\x03\x04 and more"


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
