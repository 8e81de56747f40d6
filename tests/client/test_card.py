"""Cards and bundles: whole, unchanged, and of a known version, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cliprt import Bundle, BundleError, open_bundle
from cliprt._card import decode_card, encode_card


def changed(bundle: Bundle, **changes: Any) -> bytes:
    return json.dumps({**json.loads(encode_card(bundle.card)), **changes}).encode()


def test_a_card_survives_writing_and_reading(small_bundle: Bundle) -> None:
    card = small_bundle.card
    assert decode_card(encode_card(card), origin="test") == card
    assert decode_card(encode_card(card, indent=2), origin="test") == card


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"schema": 1}, "schema 1, this cliprt reads schema 2"),
        ({"surprise": 1}, "unknown field `surprise`"),
        ({"dim": "24"}, "Expected `int`"),
        ({"dim": 0}, "dim must be positive"),
        ({"text": {}}, "missing required field"),
        ({"image": None, "text": None}, "an image tower or a text tower"),
    ],
)
def test_a_card_that_is_not_understood_is_refused(
    small_bundle: Bundle, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(BundleError, match=text):
        decode_card(changed(small_bundle, **changes), origin="test")


def test_an_image_spec_must_give_a_fixed_size(small_bundle: Bundle) -> None:
    image = json.loads(encode_card(small_bundle.card))["image"]
    with pytest.raises(BundleError, match="without a crop gives no fixed size"):
        decode_card(changed(small_bundle, image={**image, "crop": "none"}), origin="test")


def test_covering_needs_a_crop(small_bundle: Bundle) -> None:
    image = json.loads(encode_card(small_bundle.card))["image"]
    changes = {**image, "resize": "cover", "crop": "none"}
    with pytest.raises(BundleError, match="resize 'cover' without a crop gives no fixed size"):
        decode_card(changed(small_bundle, image=changes), origin="test")


def test_an_end_id_outside_the_vocabulary_is_refused(small_bundle: Bundle) -> None:
    text = json.loads(encode_card(small_bundle.card))["text"]
    with pytest.raises(BundleError, match="end_id 49408 lies outside"):
        decode_card(changed(small_bundle, text={**text, "end_id": 49408}), origin="test")


def test_pooling_at_the_end_needs_a_fixed_length(small_bundle: Bundle) -> None:
    text = json.loads(encode_card(small_bundle.card))["text"]
    with pytest.raises(BundleError, match="pooling 'last' needs texts of a fixed length"):
        decode_card(changed(small_bundle, text={**text, "pooling": "last"}), origin="test")


@pytest.mark.parametrize("evil", ["\x1b]0;owned\x07", "a\nError: b", "a\u202eb"])
def test_a_name_does_not_steer_the_terminal(evil: str, small_bundle: Bundle) -> None:
    entry = {"sha256": "0" * 64, "size": 1}
    for changes in ({"name": evil}, {"revision": evil}, {"files": {evil: entry}}):
        with pytest.raises(BundleError, match="which may not be printed") as caught:
            decode_card(changed(small_bundle, **changes), origin="test")
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("sha256", ["../../secret", "", "0" * 63, "G" * 64, "A" * 64, "0" * 65])
def test_a_hash_that_is_none_makes_no_name_of_a_file(sha256: str, small_bundle: Bundle) -> None:
    files = {"tokenizer.json": {"sha256": sha256, "size": 1}}
    with pytest.raises(BundleError, match="and 1 bytes are no file"):
        decode_card(changed(small_bundle, files=files), origin="test")


@pytest.fixture
def copy(small_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_bundle.path, tmp_path / "bundle"))


def test_a_copy_opens(copy: Path, small_bundle: Bundle) -> None:
    assert open_bundle(copy).card == small_bundle.card


def test_a_changed_byte_is_found(copy: Path) -> None:
    file = copy / "text.fp32.onnx"
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError, match=r"text\.fp32\.onnx is not the file that was exported"):
        open_bundle(copy)


def test_a_missing_file_is_found(copy: Path) -> None:
    (copy / "golden.npz").unlink()
    with pytest.raises(BundleError, match=r"golden\.npz is missing"):
        open_bundle(copy)


def test_a_card_cannot_name_files_outside(copy: Path) -> None:
    card = json.loads((copy / "card.json").read_text())
    card["files"]["../outside"] = {"sha256": "0" * 64, "size": 0}
    (copy / "card.json").write_text(json.dumps(card))
    with pytest.raises(BundleError, match="outside the bundle"):
        open_bundle(copy)


def test_a_folder_without_a_card_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cliprt export CHECKPOINT --out BUNDLE"):
        open_bundle(tmp_path)


def test_an_unknown_file_is_named(small_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"holds no image\.fp16\.onnx; it has certificate\.json"):
        small_bundle.file("image.fp16.onnx")


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (b'{"name": "\xff"}', "it is not UTF-8"),
        (b'{"schema": 2, "identity": {"\xff": "a"}}', "it is not UTF-8"),
        (b'{"\\u001b[31m": 1}', "unknown field"),
        (b"", "truncated"),
    ],
)
def test_a_damaged_card_is_refused_in_words_that_can_be_printed(damage: bytes, text: str) -> None:
    with pytest.raises(BundleError, match=text) as refused:
        decode_card(damage, origin="test")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("part", "changes", "text"),
    [
        ("image", {"height": 2**20, "width": 2**20}, "sides must be from 1 to 2048 pixels"),
        ("image", {"resize_height": 10**6, "resize_width": 10**6}, "sides must be from 1 to 2048"),
        ("text", {"context_length": 2**40}, "context_length must be from 2 to 65536"),
        ("text", {"vocabulary": 2**32}, "ids must fit into int32"),
        ("text", {"zeroed_id": -1}, "zeroed_id -1 lies outside the vocabulary"),
    ],
)
def test_a_card_cannot_make_a_client_take_all_memory(
    small_bundle: Bundle, part: str, changes: dict[str, int], text: str
) -> None:
    section = json.loads(encode_card(small_bundle.card))[part]
    with pytest.raises(BundleError, match=text):
        decode_card(changed(small_bundle, **{part: {**section, **changes}}), origin="test")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"dim": 2**40}, "dim must be positive and at most"),
        ({"logit_scale": -1.0}, "logit_scale must be above 0"),
        ({"logit_scale": 1e30}, "logit_scale must be above 0 and at most"),
        ({"logit_bias": -1e30}, "logit_bias is beyond"),
    ],
)
def test_a_card_of_numbers_that_no_model_has_is_refused(
    small_bundle: Bundle, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(BundleError, match=text):
        decode_card(changed(small_bundle, **changes), origin="test")


@pytest.mark.parametrize(
    ("name", "text"),
    [("a" * 300, "cannot be read"), ("a\x1b[31m", "may not be printed"), ("..", "is missing")],
)
def test_a_card_names_only_files_that_there_can_be(copy: Path, name: str, text: str) -> None:
    card = json.loads((copy / "card.json").read_text())
    card["files"][name] = {"sha256": "0" * 64, "size": 0}
    (copy / "card.json").write_text(json.dumps(card))
    with pytest.raises(BundleError, match=text):
        open_bundle(copy)
