"""Small copies of pictures, for a page that people look at."""

from __future__ import annotations

import base64
import io
import warnings

from PIL import Image, ImageOps

from cliprt._images import opened
from cliprt._limits import Limits
from cliprt_batch._addresses import read_bytes
from cliprt_batch._items import Ref

SIDE = 320
"""Pixels of a thumbnail's longer side: twice what the page shows, for dense screens."""

_QUALITY = 82


def thumbnail(picture: Ref | bytes | None, limits: Limits | None = None) -> str | None:
    """A small JPEG of a picture.

    Pictures are read as those of a source are: nothing is fetched from the web, and only regular
    files are opened.

    Args:
        picture: the encoded picture, or where it lies; None where there is none.
        limits: bounds on the picture; None means the defaults.

    Returns:
        A ``data:`` address; None where the picture cannot be had or decoded.
    """
    if picture is None:
        return None
    limits = limits or Limits()
    try:
        data = picture
        if isinstance(data, Ref):
            data = read_bytes(data, limits.max_image_bytes)
        return _encoded(_small(data, limits))
    # File systems, fsspec's and Pillow's codecs raise many types; a page has a placeholder instead.
    except Exception:  # noqa: BLE001
        return None


def _small(data: bytes, limits: Limits) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, on what it mends or finds large
        picture = opened(data, limits)
        picture.draft("RGB", (SIDE, SIDE))
        image = ImageOps.exif_transpose(picture).convert("RGBA")
        image.thumbnail((SIDE, SIDE))
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
