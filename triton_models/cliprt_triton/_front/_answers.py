"""Embeddings as OpenAI's JSON."""

from __future__ import annotations

import asyncio
import base64

import msgspec
import numpy as np
from numpy.typing import NDArray

# Rows that are written before others get a turn: a call of 2,048 items makes tens of megabytes.
_ROWS = 32

_encoder = msgspec.json.Encoder()


async def embeddings_json(
    embeddings: NDArray[np.float32], *, as_base64: bool, model: str, tokens: int
) -> bytes:
    """The answer to ``POST /v1/embeddings``.

    Args:
        embeddings: float32 [n, dim], rows of length 1, in the order of the input.
        as_base64: little-endian float32 as base64, or numbers; both hold every bit.
        model: that made them.
        tokens: that the text tower saw.
    """
    rows: list[bytes] = []
    little = embeddings.astype("<f4", copy=False)
    for place, row in enumerate(little):
        values = base64.b64encode(row.tobytes()).decode() if as_base64 else row.tolist()
        entry = {"object": "embedding", "index": place, "embedding": values}
        rows.append(_encoder.encode(entry))
        if place % _ROWS == _ROWS - 1:
            await asyncio.sleep(0)
    tail = {"model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    # The tail begins with its brace, which the list takes the place of.
    return b"".join(
        [b'{"object":"list","data":[', b",".join(rows), b"],", _encoder.encode(tail)[1:]]
    )
