"""Small copies of pictures, for a page that people look at."""

from __future__ import annotations

import base64
import io
import os
import warnings
from pathlib import Path

from PIL import Image, ImageOps

from cliprt._images import opened
from cliprt._limits import Limits
from cliprt_batch._addresses import address_of, local_path, read_bytes, scheme
from cliprt_batch._items import Ref

SIDE = 320
"""Pixels of a thumbnail's longer side: twice what the page shows, for dense screens."""

_QUALITY = 82


def thumbnail(place: str | Path | None, limits: Limits | None = None) -> str | None:
    """A small JPEG of a picture.

    Metadata name places that whoever made the source has chosen. They are read as the pictures of
    a source are: nothing is fetched from the web, and only regular files are opened.

    Args:
        place: an absolute path or an address of metadata, of which relative ones are not opened;
            a Path is the user's own and may be relative. None where there is none.
        limits: bounds on the picture; None means the defaults.

    Returns:
        A ``data:`` address; None where the picture cannot be had or decoded.
    """
    if place is None:
        return None
    limits = limits or Limits()
    try:
        data = read_bytes(Ref(_address(place)), limits.max_image_bytes)
        return _encoded(_small(data, limits))
    # File systems, fsspec's and Pillow's codecs raise many types; a page has a placeholder instead.
    except Exception:  # noqa: BLE001
        return None


def _address(place: str | Path) -> str:
    if isinstance(place, Path):
        # Not abspath of a string: a path may have bytes that are not UTF-8.
        return address_of(os.path.abspath(os.fsencode(place)))  # noqa: PTH100 - of bytes
    if not scheme(place) and not local_path(place).startswith(b"/"):
        raise ValueError("relative to nobody knows what")
    return place


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
