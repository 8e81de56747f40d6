"""Token ids equal those of transformers' CLIPTokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fuzz import samples
from hostile import strings
from hypothesis import given, settings
from hypothesis import strategies as st

from cliprt import Bundle, BundleError, InvalidInput, Limits, TextSpec
from cliprt._texts import TextTokenizer, parse_lengths, text_of

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "tokens.json").read_text())


def tokenizer_of(bundle: Bundle, limits: Limits | None = None) -> TextTokenizer:
    content = bundle.file("tokenizer.json").read_text(encoding="utf-8")
    return TextTokenizer(content, bundle.card.text, limits or Limits())


@pytest.fixture(scope="module")
def openai(small_bundle: Bundle) -> TextTokenizer:
    return tokenizer_of(small_bundle)


def test_there_are_at_least_three_hundred_strings() -> None:
    assert len(set(strings())) >= 300


def test_openai_ids_equal_the_reference(openai: TextTokenizer) -> None:
    assert openai(strings()) == GOLDEN["openai"]


def test_demo_ids_equal_the_reference(demo_bundle: Bundle) -> None:
    assert tokenizer_of(demo_bundle)(strings()) == GOLDEN["demo"]


def test_ids_do_not_depend_on_the_batch(openai: TextTokenizer) -> None:
    assert [openai([text])[0] for text in strings()[:150]] == GOLDEN["openai"][:150]


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5))
@settings(max_examples=100)
def test_every_text_has_a_start_and_an_end(openai: TextTokenizer, texts: list[str]) -> None:
    spec = openai._spec
    for ids in openai(texts):
        assert 2 <= len(ids) <= spec.context_length
        assert (ids[0], ids[-1]) == (spec.vocabulary - 2, spec.end_id)
        assert all(0 <= token < spec.vocabulary for token in ids)


def test_batches_are_cut_to_the_longest_text(openai: TextTokenizer) -> None:
    tokens = openai.pad(openai(["a", "a photo of a cat"]))
    assert tokens.shape == (2, 7)
    assert tokens.dtype == np.int32
    assert tokens[0].tolist() == [49406, 320, 49407, 49407, 49407, 49407, 49407]


def test_towers_of_a_fixed_length_get_the_whole_context(small_bundle: Bundle) -> None:
    content = small_bundle.file("tokenizer.json").read_text(encoding="utf-8")
    spec = TextSpec(
        context_length=12,
        fixed_length=True,
        pooling="end",
        cleaning="none",
        end_id=5,
        pad_id=1,
        vocabulary=49408,
    )
    tokenizer = TextTokenizer(content, spec, Limits())
    assert tokenizer.pad(tokenizer(["a"])).tolist() == [[49406, 320, 49407] + [1] * 9]


def test_long_texts_keep_their_end_token(openai: TextTokenizer) -> None:
    (ids,) = openai(["cat " * 100])
    assert (len(ids), ids[-1]) == (77, 49407)


def test_long_texts_can_be_refused(openai: TextTokenizer) -> None:
    assert openai(["cat " * 75], truncate=False)
    with pytest.raises(InvalidInput, match=r"item 1: .*77 tokens") as caught:
        openai(["a", "cat " * 76], truncate=False)
    assert caught.value.index == 1


@pytest.mark.parametrize("value", [None, 7, b"bytes", ["a"], 1.5])
def test_what_is_no_string_is_refused(openai: TextTokenizer, value: object) -> None:
    with pytest.raises(InvalidInput, match="item 2: a text must be a str") as caught:
        openai(["a", "b", value])  # type: ignore[list-item]
    assert caught.value.index == 2


def test_lone_surrogates_are_refused(openai: TextTokenizer) -> None:
    with pytest.raises(InvalidInput, match="item 0: .*surrogate at character 2"):
        openai(["ab\ud800"])


def test_the_length_limit_is_named(small_bundle: Bundle) -> None:
    with pytest.raises(InvalidInput, match=r"10,001 characters, the limit max_text_characters"):
        tokenizer_of(small_bundle, Limits(max_text_characters=10_000))(["x" * 10_001])


def test_a_damaged_tokenizer_is_a_bundle_error(small_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be loaded"):
        TextTokenizer("{}", small_bundle.card.text, Limits())


def test_texts_are_filled_up_to_a_welcome_length(openai: TextTokenizer) -> None:
    ids = openai(["a b c"])
    assert len(ids[0]) == 5
    for lengths, length in [((), 5), ((4, 8, 77), 8), ((5, 8), 5), ((2, 3), 5)]:
        tokens = openai.pad(ids, lengths=lengths)
        assert tokens.shape == (1, length)
        assert tokens[0, :5].tolist() == ids[0]


def test_welcome_lengths_are_ascending_numbers() -> None:
    assert parse_lengths("") == ()
    assert parse_lengths("16,32,77") == (16, 32, 77)
    for wrong in ("32,16", "16,16", "0,5", "a", "16,"):
        with pytest.raises(ValueError, match=r"ascending|invalid literal"):
            parse_lengths(wrong)


def test_bytes_that_are_no_text_are_refused() -> None:
    assert text_of("naïve 🐈\0".encode(), 0) == "naïve 🐈\0"
    with pytest.raises(InvalidInput, match=r"item 4: the text is not valid UTF-8 at byte 2 \(inv"):
        text_of(b"ab\xff", 4)


def contradicting(content: str, *path: str | int, value: object) -> str:
    """A tokenizer.json in which one value is another."""
    whole = json.loads(content)
    inside = whole
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return json.dumps(whole)


def test_a_tokenizer_that_makes_the_library_panic_is_a_bundle_error(small_bundle: Bundle) -> None:
    """Its panics are no Exception."""
    content = small_bundle.file("tokenizer.json").read_text(encoding="utf-8")
    prefix = contradicting(content, "model", "continuing_subword_prefix", value="a" * 50)
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be loaded"):
        TextTokenizer(prefix, small_bundle.card.text, Limits())


def test_a_tokenizer_that_names_no_such_token_is_a_bundle_error_at_its_first_text() -> None:
    single = contradicting(
        samples.tokenizer().decode(), "post_processor", "single", 0, "SpecialToken", "id", value="?"
    )
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be used"):
        TextTokenizer(single, samples.TEXT, Limits())(["ab"])
    unknown = contradicting(samples.tokenizer().decode(), "model", "unk_token", value="?")
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be used: Unk token"):
        TextTokenizer(unknown, samples.TEXT, Limits())(["ab z"])
