"""Bounds on what one input may cost, checked before the cost arises."""

from __future__ import annotations

from dataclasses import dataclass, fields

# Twice PIL.Image.MAX_IMAGE_PIXELS: what Pillow refuses whatever this package allows.
PILLOW_MAX_PIXELS = 178_956_970


@dataclass(frozen=True)
class Limits:
    """What a client accepts; anything beyond is refused with the limit's name and value.

    Attributes:
        max_image_bytes: length of an encoded image.
        max_image_pixels: width x height of an image, known from its header before it is decoded.
            The default is the size at which Pillow starts to warn of decompression bombs, twice
            that the size it refuses and so the greatest value.
        max_image_aspect_ratio: longer by shorter side. A resize of the shorter side multiplies
            the longer one: a 1 x 65,500 picture would become 9.9 GB.
        max_jpeg_scans: how often a JPEG file may go through its pixels. Progressive files have some
            ten scans; each may take a tenth of a second at the greatest size, and ten bytes.
        max_text_characters: characters of a text, counted before it is tokenized.
    """

    max_image_bytes: int = 32 * 2**20
    max_image_pixels: int = 89_478_485
    max_image_aspect_ratio: float = 100.0
    max_jpeg_scans: int = 100
    max_text_characters: int = 100_000

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"{field.name} must be positive, got {getattr(self, field.name)}")
        if self.max_image_pixels > PILLOW_MAX_PIXELS:
            raise ValueError(
                f"max_image_pixels must not exceed {PILLOW_MAX_PIXELS:,}, Pillow's own limit, "
                f"got {self.max_image_pixels:,}"
            )
