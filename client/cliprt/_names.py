"""The names that a server and its clients must agree on."""

from __future__ import annotations

import re
from dataclasses import dataclass

PIXELS = "pixels"
TOKENS = "tokens"
EMBEDDING = "embedding"

CARD_PARAMETER = "cliprt_card"
"""Key under which a tower's Triton configuration carries the card, as JSON."""

LENGTHS_PARAMETER = "cliprt_lengths"
"""Key under which a text tower's configuration says to which lengths texts are filled up.

Ascending numbers with commas between them, the last one the context length; empty where any length
is welcome. Runtimes that batch only requests of equal length name a few, so that requests meet.
"""

PRECISION_PARAMETER = "cliprt_precision"
"""Key under which a tower's configuration says in which precision it is computed; others have none.
"""

TOO_LATE_TEXT = "request timeout expired"
"""What Triton says, in lower case, to a request that waited too long in its queue."""

OVERLOAD_TEXTS = ("exceeds maximum queue size", TOO_LATE_TEXT)
"""What Triton says, in lower case, when it refuses work that it could do later.

The status is that of a dead server or of a failed model; only the text differs.
"""

UNHEALTHY_TEXT = "is not healthy: "
"""What a health model says of towers that answer wrongly, with the status of a dead server."""

LIMITS_PARAMETER = "cliprt_limits"
"""Key under which a model that takes files or strings carries the bounds on them, as JSON."""

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
    def decode(self) -> str:
        """Encoded pictures to pixels."""
        return f"{self.prefix}_decode"

    @property
    def tokenize(self) -> str:
        """Strings to tokens."""
        return f"{self.prefix}_tokenize"

    @property
    def image_file(self) -> str:
        """Encoded pictures to embeddings."""
        return f"{self.prefix}_image_file"

    @property
    def text_string(self) -> str:
        """Strings to embeddings."""
        return f"{self.prefix}_text_string"

    @property
    def both(self) -> str:
        """Pairs of an encoded picture and a string to both embeddings and their similarity."""
        return self.prefix

    @property
    def health(self) -> str:
        """Known answers of the live towers."""
        return f"{self.prefix}_health"

    @property
    def card(self) -> str:
        """The files a client needs: their names to their contents."""
        return f"{self.prefix}_card"


def served_version(space: str) -> int:
    """The version number under which Triton serves models of a space.

    Every answer of Triton carries it and every request may demand it, whatever the runtime. So a
    client is refused, not answered from another space, when the server was given another model.

    Args:
        space: of the card, hexadecimal.

    Returns:
        1 to 2**32.
    """
    return int(space[:8], 16) + 1
