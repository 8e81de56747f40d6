"""Drawn inputs are always the same; given ones are read, and told apart."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from cliprt import Bundle, InvalidInput, Limits
from cliprt._texts import TextTokenizer
from cliprt_bench import _inputs
from cliprt_bench._inputs import drawn_inputs, given_inputs, long_captions


@pytest.fixture(scope="module")
def tokenizer(demo_bundle: Bundle) -> TextTokenizer:
    spec = demo_bundle.card.text
    assert spec is not None
    content = demo_bundle.file("tokenizer.json").read_text(encoding="utf-8")
    return TextTokenizer(content, spec, Limits())


def test_drawn_ones_are_always_the_same() -> None:
    one, other = drawn_inputs(2, 10), drawn_inputs(2, 10)
    assert one == other
    assert len(one.pictures) == 2
    assert len(set(one.pictures)) == 2
    with Image.open(BytesIO(one.pictures[0])) as image:
        assert (image.format, image.size) == ("JPEG", (640, 480))
    # Pinned: cards of different machines are comparable only if this never changes.
    assert one.record.sha256 == "0f7ceb30da02ee2b180c90d41af2b7e00c68f11640be0134b43bde6e74103220"


def test_long_captions_are_always_the_same() -> None:
    found = long_captions(10)
    assert [len(caption.split()) for caption in found] == [8, 9, 10, 11, 12, 13, 14, 8, 9, 10]
    assert long_captions(20)[:10] == found
    # Pinned: figures of different versions are comparable only if this never changes.
    digest = hashlib.sha256("\n".join(found).encode()).hexdigest()
    assert digest == "94ae6d6889b1abb5fc9ff8d9c3cc0cb4ad811fa3a5bef40f7569b9b97ee9f766"


def test_more_of_them_are_other_inputs() -> None:
    assert drawn_inputs(2, 10).record != drawn_inputs(2, 11).record


@pytest.mark.parametrize("length", [3, 4, 7, 12, 24])
def test_captions_have_the_tokens_that_were_asked_for(
    tokenizer: TextTokenizer, length: int
) -> None:
    captions = drawn_inputs(1, 100).captions_of(length, tokenizer)
    assert len(captions) > 1
    assert {len(ids) for ids in tokenizer(list(captions), truncate=False)} == {length}


def test_a_length_that_no_caption_has_is_refused(tokenizer: TextTokenizer) -> None:
    with pytest.raises(InvalidInput, match="choose another text length"):
        drawn_inputs(1, 4).captions_of(1, tokenizer)


def test_given_ones_are_read(tmp_path: Path) -> None:
    Image.new("RGB", (9, 7), "red").save(tmp_path / "a.png")
    (tmp_path / "b.txt").write_text("no picture")
    captions = tmp_path / "captions.txt"
    captions.write_text("a cat\n\na dog\n")
    both = given_inputs(tmp_path, captions)
    assert both.pictures == ((tmp_path / "a.png").read_bytes(),)
    assert both.captions == ("a cat", "a dog")
    assert both.record.described == "1 pictures of a folder; 2 captions of a file"
    captions.write_text("a cata\ndog\n")
    assert given_inputs(tmp_path, captions).record.sha256 != both.record.sha256


def test_what_is_not_given_is_drawn(tmp_path: Path) -> None:
    assert given_inputs(None, None) == drawn_inputs()
    Image.new("RGB", (9, 7), "red").save(tmp_path / "a.png")
    assert given_inputs(tmp_path, None).captions == drawn_inputs(0).captions


def test_what_is_given_is_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*arguments: object) -> None:
        raise AssertionError("a picture was drawn")

    monkeypatch.setattr(_inputs, "drawn", none)
    Image.new("RGB", (9, 7), "red").save(tmp_path / "a.png")
    assert len(given_inputs(tmp_path, None).pictures) == 1


@pytest.mark.parametrize(
    ("folder", "captions", "words"),
    [
        ("none", None, "cannot be read: No such file or directory"),
        ("empty", None, "holds no picture"),
        (None, "empty.txt", "holds no caption; write one on each line"),
        (None, "none.txt", "cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, folder: str | None, captions: str | None, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(InvalidInput, match=words):
        given_inputs(
            None if folder is None else tmp_path / folder,
            None if captions is None else tmp_path / captions,
        )
