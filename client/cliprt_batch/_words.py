"""Texts of unknown origin, made fit for a line of a terminal."""

from __future__ import annotations

LONGEST = 100
"""Characters of a caption or key that a table shows."""


def in_a_line(text: str | None, longest: int = LONGEST) -> str:
    """A text without line ends and control characters, which could move a terminal's cursor.

    Args:
        text: any text; None gives an empty one.
        longest: characters that are kept; what is cut off is marked with an ellipsis.
    """
    # Cut first: a caption may be as long as a book.
    words = "".join(c if c.isprintable() else " " for c in (text or "")[: 4 * longest]).split()
    line = " ".join(words)
    return line if len(line) <= longest else line[: longest - 1] + "…"
