"""Pictures to pixels, exactly as the checkpoint's own processor makes them.

There are two references. ``CLIPImageProcessor`` of transformers with its Pillow backend converts to
RGB (transparency over white), resizes with integer arithmetic and crops the centre. OpenAI's and
OpenCLIP's transforms, made of torchvision's, resize and crop a picture in its own mode and convert
it last. The same Pillow calls in the same order give the same bytes; scaling and normalisation are
left to the tower.
"""

from __future__ import annotations

import math
import os
import stat
import threading
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from cliprt._card import ImageSpec
from cliprt._errors import ImageTooLarge, InvalidInput
from cliprt._jpeg_scans import count_scans
from cliprt._limits import Limits
from cliprt._resizing import resize_and_crop, resized_size

ImageInput: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[np.uint8]"
)
"""A path, an encoded file, a Pillow image, or uint8 pixels [height, width, 3] in RGB order."""


class Ready:
    """Pixels that were preprocessed already, elsewhere: uint8 [height, width, 3]."""

    __slots__ = ("pixels",)

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = pixels


_LOADING = threading.Lock()

FAST_JPEG_MARGIN = 2.0
"""A scaled decode leaves at least this many times the sides that the resize makes."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Encoded formats that are decoded; Pillow's parsers of all others are never reached."""

# Pillow reads a file piece by piece, and spends one to three microseconds of Python on each. Files
# of pictures have a few hundred pieces, the oddest some ten thousand; metadata may have millions.
_MOST_READS = 300_000

# Pixels that are put over white at once. The steps in between take 12 bytes for each.
_BAND_PIXELS = 2**20


def is_single_image(value: object) -> bool:
    """Whether a value is one image rather than a collection of them."""
    if isinstance(value, np.ndarray):
        return value.ndim != 4
    return isinstance(value, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image))


def preprocess(
    image: ImageInput | Ready, spec: ImageSpec, limits: Limits, *, fast_jpeg: bool = False
) -> NDArray[np.uint8]:
    """Makes the image tower's input from one picture.

    Args:
        image: the picture; one that is ready comes back as it is.
        spec: how the tower is fed.
        limits: bounds on the picture, checked before it is decoded.
        fast_jpeg: decode large JPEG files at a half, a quarter or an eighth of their size: see
            ``Decoding``. Pillow images and arrays are not concerned.

    Returns:
        uint8 [height, width, 3], RGB, 0 to 255, as the card's ImageSpec describes it.

    Raises:
        InvalidInput: the value is no image that can be decoded.
        ImageTooLarge: it exceeds the limits.
    """
    if isinstance(image, Ready):
        return image.pixels
    return preprocess_with_size(image, spec, limits, fast_jpeg=fast_jpeg)[0]


def preprocess_with_size(
    image: ImageInput, spec: ImageSpec, limits: Limits, *, fast_jpeg: bool = False
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """As ``preprocess``, with the picture's own width and height."""
    picture, size = _open(image, limits, spec if fast_jpeg else None)
    if spec.convert == "first":
        picture = _to_rgb(picture, spec.transparency)
    picture = _shaped(picture, size, spec)
    if spec.convert == "last":
        picture = _to_rgb(picture, spec.transparency)
    return np.asarray(picture, dtype=np.uint8), size


def _shaped(image: Image.Image, size: tuple[int, int], spec: ImageSpec) -> Image.Image:
    """Resized and cropped; size is the picture's own, before a scaled decode."""
    try:
        image = resize_and_crop(image, size, spec)
    except ValueError as error:
        raise InvalidInput(
            f"an image of Pillow's mode {image.mode} cannot be resized ({_reason(error)}); "
            "convert it to RGB"
        ) from None
    if image.size != (spec.width, spec.height):
        raise InvalidInput(
            f"the image is {image.width} x {image.height}, the tower takes "
            f"{spec.width} x {spec.height} and the checkpoint's processor does not resize"
        )
    return image


def _to_rgb(image: Image.Image, transparency: str) -> Image.Image:
    """Any mode as RGB, transparency over white or dropped."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    try:
        transparent = "A" in image.getbands() or image.info.get("transparency") is not None
        if transparency == "white" and transparent:
            return _over_white(image)
        if "transparency" in image.info:
            # Pillow carries the transparent colour over to the new image, and for some palettes
            # warns or fails; the pixels do not depend on it.
            image = image.copy()
            del image.info["transparency"]
        return image.convert("RGB")
    # Pillow's codecs raise many types on damaged files; none of them may escape as a crash.
    except Exception as error:  # noqa: BLE001
        raise InvalidInput(f"the image cannot be decoded: {_reason(error)}") from None


def _over_white(image: Image.Image) -> Image.Image:
    """A picture with transparency as RGB over white.

    No pixel depends on another, so that bands give the same bytes as the whole, without three more
    pictures of its size.
    """
    rows = max(1, _BAND_PIXELS // image.width)
    if rows >= image.height:
        return _band_over_white(image)
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        whole.paste(_band_over_white(band), (0, top))
    return whole


def _band_over_white(band: Image.Image) -> Image.Image:
    rgba = band.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _open(
    image: ImageInput, limits: Limits, scaled_for: ImageSpec | None
) -> tuple[Image.Image, tuple[int, int]]:
    """A picture whose pixels have been read, and its size before a scaled decode."""
    if isinstance(image, Image.Image):
        _check_size(image.size, limits)
        return _loaded(image), image.size
    if isinstance(image, np.ndarray):
        picture = _from_array(image, limits)
        return picture, picture.size
    return _decode(encoded(image, limits), limits, scaled_for)


def encoded(image: ImageInput, limits: Limits) -> bytes:
    """The bytes of an encoded file, given as such or by its path.

    Raises:
        InvalidInput: it is neither, it is empty, or it cannot be read.
        ImageTooLarge: the file is longer than allowed.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        size = image.nbytes if isinstance(image, memoryview) else len(image)
        _check_bytes(size, limits)
        data = bytes(image)
    elif isinstance(image, (str, os.PathLike)):
        data = _read(image, limits)
    else:
        raise InvalidInput(
            "an image must be a path, bytes, a Pillow image or a uint8 array, "
            f"got {type(image).__name__}"
        )
    if not data:
        raise InvalidInput("the image is empty (0 bytes)")
    return data


def _loaded(image: Image.Image) -> Image.Image:
    """A Pillow image whose pixels have been read; Image.open leaves them in the file."""
    try:
        # Two threads that read the same image at once would both read half of its file.
        with _LOADING:
            image.load()
    except Exception as error:  # noqa: BLE001 - as in _to_rgb
        raise InvalidInput(
            f"the {image.format or 'Pillow'} image cannot be decoded (truncated, damaged or "
            f"closed): {_reason(error)}"
        ) from None
    return image


def _from_array(array: NDArray[np.uint8], limits: Limits) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise InvalidInput(
            f"an image array must be uint8 [height, width, 3] in RGB order, 0 to 255, "
            f"got {array.dtype} {list(array.shape)}"
        )
    _check_size((array.shape[1], array.shape[0]), limits)
    return Image.fromarray(np.ascontiguousarray(array))


def _read(path: str | os.PathLike[str], limits: Limits) -> bytes:
    if isinstance(path, str) and "://" in path[:16]:
        raise InvalidInput("URLs are not fetched; download the image and pass its bytes")
    file = Path(path)
    shown = repr(str(file)[:200])
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput(f"{shown} is not a regular file")
        _check_bytes(status.st_size, limits)
        return file.read_bytes()
    # ValueError: a path with a NUL character.
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidInput(f"{shown} cannot be read: {reason}") from None


def opened(data: bytes, limits: Limits) -> Image.Image:
    """An encoded picture of which the header has been read, and no pixels yet.

    Raises:
        InvalidInput: it is of no format that is decoded.
        ImageTooLarge: it would take more to decode than the limits allow.
    """
    try:
        image = Image.open(_Metered(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels(f"more than {Image.MAX_IMAGE_PIXELS:,}", limits) from None
    except ImageTooLarge:
        raise
    except Exception:  # noqa: BLE001 - as in _to_rgb; and Pillow's text holds a memory address
        raise InvalidInput(
            f"not an image in a supported format ({', '.join(FORMATS)}), or damaged at its "
            "beginning; convert it, or decode it yourself and pass a Pillow image or an array"
        ) from None
    _check_size(image.size, limits)
    # MPO: a JPEG file behind which others follow.
    if image.format in ("JPEG", "MPO"):
        _check_scans(data, limits)
    return image


class _Metered(BytesIO):
    """A file in memory that is read in a bounded number of pieces."""

    _reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads += 1
        if self._reads > _MOST_READS:
            raise ImageTooLarge(
                f"the image's file is made of more pieces than can be read in {_MOST_READS:,} "
                "steps; save it anew, without its metadata"
            )
        return super().read(size)


def _decode(
    data: bytes, limits: Limits, scaled_for: ImageSpec | None
) -> tuple[Image.Image, tuple[int, int]]:
    image = opened(data, limits)
    size = image.size
    # All at once: Pillow's pieces of 64 KB interrupt the decoder.
    if isinstance(image, ImageFile.ImageFile):
        image.decodermaxblock = max(image.decodermaxblock, len(data))
    if scaled_for is not None and image.format == "JPEG" and scaled_for.resize != "none":
        width, height = resized_size(size, scaled_for)
        # Pillow takes the least of 1, 1/2, 1/4 and 1/8 that leaves at least this size.
        image.draft(
            None, (math.ceil(FAST_JPEG_MARGIN * width), math.ceil(FAST_JPEG_MARGIN * height))
        )
    try:
        image.load()
    except ImageTooLarge:
        raise
    except Exception as error:  # noqa: BLE001 - as in _to_rgb
        raise InvalidInput(
            f"the {image.format} image cannot be decoded (truncated or damaged): {_reason(error)}"
        ) from None
    return image, size


def _check_bytes(size: int, limits: Limits) -> None:
    if size > limits.max_image_bytes:
        raise ImageTooLarge(
            f"the image has {size:,} bytes, the limit max_image_bytes is "
            f"{limits.max_image_bytes:,}; scale it down or raise the limit"
        )


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if min(size) < 1:
        raise InvalidInput(f"the image has no pixels ({width} x {height})")
    if width * height > limits.max_image_pixels:
        raise _too_many_pixels(f"{width} x {height} = {width * height:,}", limits)
    if max(size) > limits.max_image_aspect_ratio * min(size):
        raise ImageTooLarge(
            f"the image is {width} x {height}, its sides differ by more than the limit "
            f"max_image_aspect_ratio of {limits.max_image_aspect_ratio:g}; "
            "crop it or raise the limit"
        )


def _check_scans(data: bytes, limits: Limits) -> None:
    if count_scans(data, limits.max_jpeg_scans) > limits.max_jpeg_scans:
        raise ImageTooLarge(
            f"the JPEG image has more scans than the limit max_jpeg_scans of "
            f"{limits.max_jpeg_scans:,}, or segments without end between them; save it anew or "
            "raise the limit"
        )


def _too_many_pixels(found: str, limits: Limits) -> ImageTooLarge:
    return ImageTooLarge(
        f"the image has {found} pixels, the limit max_image_pixels is "
        f"{limits.max_image_pixels:,}; scale it down or raise the limit"
    )


def _reason(error: Exception) -> str:
    """Pillow's reason, unless it names an object by its address."""
    text = str(error)
    return text if text and " object at 0x" not in text else type(error).__name__
