"""Strings are cleaned in OpenCLIP's steps and order."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from cliprt import Bundle, Limits
from cliprt._cleaning import clean
from cliprt._texts import TextTokenizer

# Text: as whitespace, lower and canonicalize clean it.
CASES = {
    "  A \t cat\n ": ("A cat", "a cat", "a cat"),
    "snake_case, it's!": ("snake_case, it's!", "snake_case, it's!", "snake case its"),
    "&amp;amp; &lt;b&gt;": ("& <b>", "& <b>", "b"),
    "< &amp;amp;amp;": ("< &amp;", "< &amp;", "amp"),
    "schÃ¶n â€” ok": ("schön — ok", "schön — ok", "schön — ok"),
    "“quoted”": ('"quoted"', '"quoted"', "quoted"),
    "a\x00b\x1cc": ("abc", "abc", "abc"),
    "a&nbsp;\u3000\u2028b": ("a b", "a b", "a b"),
    "ＦＵＬＬ ﬁ": ("FULL fi", "full fi", "full fi"),
    "İ STRASSE ẞ": ("İ STRASSE ẞ", "i̇ strasse ß", "i̇ strasse ß"),
    "_ _": ("_ _", "_ _", ""),
    "": ("", "", ""),
}


@pytest.mark.parametrize("text", CASES)
def test_the_steps_of_every_name(text: str) -> None:
    found = tuple(clean(text, name) for name in ("whitespace", "lower", "canonicalize"))  # type: ignore[arg-type]
    assert found == CASES[text]


def test_no_cleaning_changes_nothing() -> None:
    for text in CASES:
        assert clean(text, "none") == text


def test_the_tokenizer_cleans_as_the_card_says(small_bundle: Bundle) -> None:
    content = small_bundle.file("tokenizer.json").read_text(encoding="utf-8")
    assert small_bundle.card.text is not None
    ids = {}
    for name in ("none", "canonicalize"):
        spec = msgspec.structs.replace(small_bundle.card.text, cleaning=name)
        (ids[name],) = TextTokenizer(content, spec, Limits())(["a_photo, of &lt;a cat!"])
    assert ids["canonicalize"] == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert ids["none"] != ids["canonicalize"]


def test_an_id_that_the_card_names_becomes_zero(small_bundle: Bundle) -> None:
    content = small_bundle.file("tokenizer.json").read_text(encoding="utf-8")
    assert small_bundle.card.text is not None
    spec = msgspec.structs.replace(small_bundle.card.text, zeroed_id=320)
    assert TextTokenizer(content, spec, Limits())(["a cat a"]) == [[49406, 0, 2368, 0, 49407]]


def test_ftfy_is_loaded_with_the_first_text_only() -> None:
    code = "import sys, cliprt, cliprt._texts; sys.exit('ftfy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
