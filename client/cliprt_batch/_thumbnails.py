"""Small copies of pictures, for a page that people look at."""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path

from PIL import Image, ImageOps

from cliprt._images import FORMATS
from cliprt._limits import Limits

SIDE = 320
"""Pixels of a thumbnail's longer side: twice what the page shows, for dense screens."""

_QUALITY = 82


def thumbnail(place: str | Path | None, limits: Limits | None = None) -> str | None:
    """A small JPEG of a picture.

    Args:
        place: a local path or an fsspec address; None where there is none.
        limits: bounds on the picture; None means the defaults.

    Returns:
        A ``data:`` address; None where the picture cannot be had or decoded.
    """
    if place is None:
        return None
    limits = limits or Limits()
    try:
        return _encoded(_small(_bytes(str(place), limits), limits))
    # File systems, fsspec's and Pillow's codecs raise many types; a page has a placeholder instead.
    except Exception:  # noqa: BLE001
        return None


def _bytes(place: str, limits: Limits) -> bytes:
    if "://" in place:
        import fsspec

        with fsspec.open(place, "rb") as file:
            data = bytes(file.read(limits.max_image_bytes + 1))
    else:
        if not Path(place).is_file():  # a named pipe would be waited for
            raise ValueError("no regular file")
        with Path(place).open("rb") as local:
            data = local.read(limits.max_image_bytes + 1)
    if len(data) > limits.max_image_bytes:
        raise ValueError("too long")
    return data


def _small(data: bytes, limits: Limits) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, on what it mends or finds large
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
        if opened.width * opened.height > limits.max_image_pixels:
            raise ValueError("too large")
        opened.draft("RGB", (SIDE, SIDE))
        image = ImageOps.exif_transpose(opened).convert("RGBA")
        image.thumbnail((SIDE, SIDE))
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
