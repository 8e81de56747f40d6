"""The command that was given, as a card keeps it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

PRIVATE = frozenset(
    [
        *("--bundle", "--url", "--openai", "--python", "--pictures", "--captions", "--out"),
        *("--tls-ca", "--tls-key", "--tls-certificate", "--tls-server-name", "--token-file"),
        "--server-pid",
    ]
)
"""Options whose values are paths, addresses or the like, which are nobody's business."""


def command_line(words: Sequence[str] | None = None) -> str:
    """The command without what is private.

    Args:
        words: behind ``cliprt``; None means those that this process was started with.
    """
    kept, hidden = ["cliprt"], False
    for word in sys.argv[1:] if words is None else words:
        name, equals, _ = word.partition("=")
        private = name in PRIVATE
        kept.append("…" if hidden else f"{name}=…" if private and equals else word)
        hidden = private and not equals and not hidden
    return " ".join(kept)
