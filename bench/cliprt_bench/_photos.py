"""Drawn photographs.

They are noise whose amplitude falls with frequency as in photographs, in colour, and decode at the
speed of those.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def drawn(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Pixels, uint8 [height, width, 3], with the detail of a photograph."""
    random = np.random.Generator(np.random.PCG64(seed))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    planes = []
    for _ in range(3):
        phases = random.standard_normal((2, *frequency.shape))
        plane = np.fft.irfft2((phases[0] + 1j * phases[1]) * frequency**-1.3, (height, width))
        planes.append(plane / plane.std())
    light, blue, red = planes
    channels = (light * 50 + red * 14, light * 50 - red * 8 + blue * 3, light * 50 - blue * 16)
    colours = np.stack(channels, axis=-1) + 118
    colours += random.normal(scale=1.5, size=colours.shape)  # the sensor's own
    pixels: NDArray[np.uint8] = colours.clip(0, 255).astype(np.uint8)
    return pixels


def jpeg(pixels: NDArray[np.uint8], quality: int = 90) -> bytes:
    """A JPEG file with halved chroma; at quality 90 about 2.8 bits a pixel."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=2)
    return buffer.getvalue()


def photo(width: int, height: int, seed: int) -> bytes:
    """A JPEG file with the detail of a photograph."""
    return jpeg(drawn(width, height, seed))
