"""The names that a server and its clients must agree on."""

from __future__ import annotations

import re
from dataclasses import dataclass

PIXELS = "pixels"
TOKENS = "tokens"
EMBEDDING = "embedding"

CARD_PARAMETER = "cliprt_card"
"""Key under which a tower's Triton configuration carries the card, as JSON."""

_ALLOWED = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class ModelNames:
    """Names of the Triton models of one bundle; a prefix lets one server hold several bundles."""

    prefix: str

    def __post_init__(self) -> None:
        if not _ALLOWED.fullmatch(self.prefix):
            raise ValueError(
                f"a model name may hold letters, digits, '_', '.' and '-' and must start with a "
                f"letter or digit, got {self.prefix!r}"
            )

    @property
    def image(self) -> str:
        """The image tower: pixels to embeddings."""
        return f"{self.prefix}_image"

    @property
    def text(self) -> str:
        """The text tower: tokens to embeddings."""
        return f"{self.prefix}_text"

    @property
    def card(self) -> str:
        """The files a client needs: their names to their contents."""
        return f"{self.prefix}_card"
