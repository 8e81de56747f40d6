"""Texts of every kind that callers send: what is promised for each, by the number in the list."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

CONTEXT = 32
"""Tokens that the demo's text tower takes, start and end among them."""


@dataclass(frozen=True)
class Text:
    """A text.

    Attributes:
        name: what it is.
        value: the text.
        refused: what the refusal says, as a pattern; None where it is taken.
        like: a text that is embedded the same; None where nothing simpler is.
    """

    name: str
    value: str
    refused: str | None = None
    like: str | None = None


def words(count: int) -> str:
    """A text of so many tokens, besides start and end."""
    return " ".join(["a"] * count)


_WHOLE = words(CONTEXT - 2)

NO_TEXTS = {
    "null": (37, b"null"),
    "a number": (37, b"7"),
    "a list": (37, b'["a"]'),
    "half of a pair": (43, b'"a \\ud800 b"'),
    "bytes that are no UTF-8": (47, b'"a \xff b"'),
}
"""What stands in the place of a text and is none, with its number, as JSON."""

TEXTS: list[tuple[int, Text]] = [
    (36, Text("nothing", "", like=" ")),
    (36, Text("white space", "   \n", like="")),
    (38, Text("200 tokens", words(200), like=_WHOLE)),
    (38, Text("1,900 words", "word " * 1_900, like="word " * 200)),
    (39, Text("one token less than fits", words(CONTEXT - 3))),
    (39, Text("as many tokens as fit", _WHOLE)),
    (39, Text("one token more than fits", words(CONTEXT - 1), like=_WHOLE)),
    (40, Text("a word of a million characters", "a" * 1_000_000, "max_text_characters")),
    (40, Text("a word of 10,000 characters", "a" * 10_000)),
    (42, Text("an end in the text", "a red circle<|endoftext|> a blue star", like="a red circle")),
    (42, Text("an end in capitals", "a red circle <|EndOfText|> a star")),
    (42, Text("a start in the text", "<|startoftext|> a red circle")),
    (44, Text("NUL", "a\0b")),
    (44, Text("control characters", "a\x01\x1b[31m\x7f b")),
    (44, Text("a byte order mark", "\ufeffa red circle")),
    (44, Text("no width", "a\u200bred\u2060circle")),
    (44, Text("right to left", "a \u202eder circle\u202c")),
    (45, Text("composed", "caf\u00e9", like=unicodedata.normalize("NFD", "caf\u00e9"))),
    (45, Text("a family", "\U0001f468\u200d\U0001f469\u200d\U0001f467")),
    (45, Text("Chinese", "\u7ea2\u8272\u7684\u5706")),
    (45, Text("Arabic", "\u062f\u0627\u0626\u0631\u0629")),
    (45, Text("Thai", "\u0e27\u0e07\u0e01\u0e25\u0e21")),
    (46, Text("wrongly decoded", "caf\u00c3\u00a9 \u00e2\u20ac\u2122")),
    (46, Text("escaped twice", "a &amp;amp;lt; b")),
    (46, Text("HTML", "<b>a red</b> circle<br/>")),
    (48, Text("capitals and spaces", "  A  RED\tcircle\n", like="a red circle")),
]
