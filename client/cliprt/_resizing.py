"""Resize and centre crop as one step, computing what the crop keeps and nothing else it can spare.

Pillow resizes in two passes, along the rows first and along the columns second, with bytes between
them. A column of the second pass depends on its own column alone, and a row of the first on its own
row. So columns that the crop drops can go between the passes, and rows that no kept row looks at
before the first: the bytes that remain are the same. Where Pillow takes the passes in the other
order, which depends on the sizes and on its version, everything is left to it.
"""

from __future__ import annotations

import math

from PIL import Image

from cliprt._card import ImageSpec

# Modes that Pillow resizes in these two passes, as they are. Transparent ones are multiplied with
# their alpha before and divided behind, which does not survive a pause; 1 and P take the nearest.
_TWO_PASSES = ("RGB", "L", "CMYK")

# How far a filter reaches from its centre, in pixels of the coarser side.
_REACH = {"box": 0.5, "bilinear": 1.0, "hamming": 1.0, "bicubic": 2.0, "lanczos": 3.0}

# Cutting out rows and putting them back costs a copy; it pays from this part of the rows on.
_WORTH_CUTTING = 1 / 8


def resize_and_crop(image: Image.Image, original: tuple[int, int], spec: ImageSpec) -> Image.Image:
    """The picture as the card wants it: the same bytes as Pillow's resize and crop in a row.

    Args:
        image: the picture.
        original: its width and height; a scaled decode has made the image at hand smaller.
        spec: resize and crop.

    Raises:
        ValueError: Pillow cannot resize this mode.
    """
    size = resized_size(original, spec)
    left, top = _corner(size, spec)
    if spec.resize != "none":
        known = image.mode in _TWO_PASSES and spec.resample in _REACH and image.size == original
        if known and spec.crop != "none" and _rows_come_first(original, size):
            image = _in_two_passes(image, size, spec, left, top)
            left = min(left, 0)
        else:
            # Modes 1 and P are resized by the nearest pixel, whatever filter is asked for.
            resample = Image.Resampling[spec.resample.upper()]
            image = image.resize(size, resample, _box(image.size, original))
    if spec.crop == "none" or (left == top == 0 and image.size == (spec.width, spec.height)):
        return image
    # Where the image is smaller, the outside is filled with zeros.
    return image.crop((left, top, left + spec.width, top + spec.height))


def resized_size(size: tuple[int, int], spec: ImageSpec) -> tuple[int, int]:
    """(width, height) of a picture behind the resize, before the crop."""
    if spec.resize == "none":
        return size
    if spec.resize == "shortest":
        return _shortest_edge_size(size, spec.resize_height)
    target = (spec.resize_width, spec.resize_height)
    return _covering_size(size, target) if spec.resize == "cover" else target


def _box(size: tuple[int, int], original: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of an image that the picture fills: a scaled decode rounds its sides up."""
    scale = round(original[0] / size[0]), round(original[1] / size[1])
    return 0, 0, original[0] / max(scale), original[1] / max(scale)


def _rows_come_first(original: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether Pillow certainly resizes along the rows first.

    From version 13 it begins with the columns where the height loses more than twice what the width
    does; before, where a picture that becomes lower is more than 100 times as high as wide.
    """
    lost = [before - after for before, after in zip(original, size, strict=True)]
    return original[1] <= 100 * original[0] and (lost[1] <= 0 or lost[1] <= 2 * lost[0])


def _in_two_passes(
    image: Image.Image, size: tuple[int, int], spec: ImageSpec, left: int, top: int
) -> Image.Image:
    """Resizes to size, without the columns to the left and right that the crop drops."""
    resample = Image.Resampling[spec.resample.upper()]
    rows = image.height
    first, last = _rows_needed(rows, size[1], top, spec)
    cut = rows - (last - first) > rows * _WORTH_CUTTING
    if cut:
        image = image.crop((0, first, image.width, last))
    image = image.resize((size[0], image.height), resample)
    begin, end = max(left, 0), min(left + spec.width, size[0])
    if (begin, end) != (0, size[0]):
        image = image.crop((begin, 0, end, image.height))
    if cut:
        # Back to its place: the second pass must see the rows where they were.
        whole = Image.new(image.mode, (image.width, rows))
        whole.paste(image, (0, first))
        image = whole
    return image.resize((image.width, size[1]), resample)


def _rows_needed(rows: int, resized: int, top: int, spec: ImageSpec) -> tuple[int, int]:
    """Rows of the picture that the kept rows are computed from, and one or two more."""
    scale = rows / resized
    reach = _REACH[spec.resample] * max(scale, 1.0) + 2
    begin, end = max(top, 0), min(top + spec.height, resized)
    first = math.floor((begin + 0.5) * scale - reach)
    last = math.ceil((end - 0.5) * scale + reach)
    return max(first, 0), min(last, rows)


def _shortest_edge_size(size: tuple[int, int], shortest: int) -> tuple[int, int]:
    """New (width, height) with the given shorter side; the longer one is rounded down."""
    width, height = size
    longest = int(shortest * max(size) / min(size))
    return (shortest, longest) if width <= height else (longest, shortest)


def _covering_size(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The least (width, height) that covers the target, rounded to the even neighbour."""
    ratio = min(size[0] / target[0], size[1] / target[1])
    return round(size[0] / ratio), round(size[1] / ratio)


def _corner(size: tuple[int, int], spec: ImageSpec) -> tuple[int, int]:
    """Left and top of the centre crop; negative where the picture is smaller."""
    corner = _floored if spec.crop == "floor" else _rounded
    return corner(size[0] - spec.width), corner(size[1] - spec.height)


def _floored(surplus: int) -> int:
    """Half of what is cut off, rounded down: as transformers places the crop."""
    return surplus // 2


def _rounded(surplus: int) -> int:
    """Half of what is cut off, as torchvision places the crop.

    Rounded to the even neighbour; a picture that is too small is padded first, with the odd row or
    column behind it.
    """
    return -(-surplus // 2) if surplus < 0 else round(surplus / 2)
