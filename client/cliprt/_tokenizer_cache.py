"""The served model's tokenizer: fetched once, kept by its hash, trusted only by its hash."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

from cliprt._bundle import TOKENIZER
from cliprt._cache_home import cache_folder
from cliprt._card import Card
from cliprt._errors import ModelUnavailable, ServerError
from cliprt._folders import write_whole


def load_tokenizer_json(card: Card, fetch: Callable[[str], bytes]) -> str:
    """The content of the bundle's tokenizer.json, from the cache or from the server.

    Args:
        card: names the file's SHA-256.
        fetch: gets a file of the served bundle by name.

    Raises:
        ModelUnavailable: the card names no tokenizer.
        ServerError: the server sent something other than the card promises.
    """
    if TOKENIZER not in card.files:
        raise ModelUnavailable("the served model's card names no tokenizer; export it again")
    expected = card.files[TOKENIZER].sha256
    # A cache that cannot be read or written costs a transfer, never an answer.
    with contextlib.suppress(OSError):
        content = _cached(expected).read_bytes()
        if _sha256(content) == expected:
            return content.decode()
    content = fetch(TOKENIZER)
    if _sha256(content) != expected:
        raise ServerError(
            f"the server sent a {TOKENIZER} that is not the one of its card; restart the server"
        )
    with contextlib.suppress(OSError):
        write_whole(_cached(expected), content, private=True)
    return content.decode()


def _cached(sha256: str) -> Path:
    return cache_folder("tokenizers") / f"{sha256}.json"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
