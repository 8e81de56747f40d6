"""What embeddings are compared on: pictures and texts for whole towers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pictures import pixels

ROOT = Path(__file__).resolve().parent.parent
DEMO_PICTURES = ROOT / "demo" / "pictures"


def demo_pictures() -> list[Path]:
    """The demo's sample pictures."""
    entries = json.loads((DEMO_PICTURES / "captions.json").read_text(encoding="utf-8"))
    return [DEMO_PICTURES / entry["file"] for entry in entries]


def arrays(count: int, side: int) -> list[NDArray[np.uint8]]:
    """Pictures of mixed sizes and shapes, as uint8 [height, width, 3]."""
    return [pixels(side + 13 * k % 97, side + 29 * k % 61, 3, seed=k) for k in range(count)]


def texts(context: int) -> list[str]:
    """A text of each length from one word to beyond the context, and some real ones."""
    words = "a picture of three small red circles on the left of two large blue stars".split()  # noqa: SIM905
    by_length = [
        " ".join(words[k % len(words)] for k in range(count)) for count in range(1, context + 6)
    ]
    return [*by_length, "", "<|endoftext|> after the end", "naïve café 🐈", "UPPER, lower; 123!"]
