"""What OpenCLIP does to a string before its tokenizer sees it.

Written from the steps that OpenCLIP and OpenAI's CLIP publish; ids are equal only if every one of
them is taken, in this order.
"""

from __future__ import annotations

import html
import string
from typing import Literal

Cleaning = Literal["none", "whitespace", "lower", "canonicalize", "siglip"]

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean(text: str, cleaning: Cleaning) -> str:
    """Cleans a text.

    Args:
        text: any string without lone surrogates.
        cleaning: which steps; see ``TextSpec.cleaning``.

    Returns:
        The text as the tokenizer takes it.
    """
    # SigLIP's tokenizer cleans for itself, in pieces between its special tokens.
    if cleaning in ("none", "siglip"):
        return text
    # Twice, because captions from the web are often escaped twice.
    text = html.unescape(html.unescape(_mended(text)))
    if cleaning == "canonicalize":
        text = text.replace("_", " ").translate(_WITHOUT_PUNCTUATION)
        return _joined(text.lower())
    text = _joined(text)
    return text.lower() if cleaning == "lower" else text


def _mended(text: str) -> str:
    """Wrongly decoded characters put right, control characters and the like removed."""
    # Loaded with the first text, so that `import cliprt` stays light.
    import ftfy

    return ftfy.fix_text(text)


def _joined(text: str) -> str:
    """Runs of whitespace as one space, none at the ends."""
    return " ".join(text.split())
