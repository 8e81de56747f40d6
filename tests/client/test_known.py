"""Known answers, and how near an answer must be in each precision."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from cliprt import Bundle, BundleError, _known
from cliprt._known import PRECISIONS, Bar, Known, bar_of, bar_of_folder, cosines


def certificate(precision: str, **figures: Any) -> bytes:
    return msgspec.json.encode({"towers": {"image": {precision: figures}}})


def bar(precision: str, **figures: Any) -> Bar:
    return bar_of(certificate(precision, **figures), "image", precision, origin="here")


@pytest.mark.parametrize("tower", ["image", "text"])
def test_those_of_a_bundle(small_bundle: Bundle, tower: str) -> None:
    known = Known.of(small_bundle.path, tower)
    assert len(known.inputs) == len(known.expected)
    np.testing.assert_allclose(np.linalg.norm(known.expected, axis=1), 1, atol=1e-5)
    found = bar_of_folder(small_bundle.path, tower, "fp32")
    assert (found.min_cosine, found.max_batch_effect) == (0.999_999, 1e-4)


def test_no_more_is_asked_than_the_certificate_promises() -> None:
    good = {"single_vs_batch": 0.0, "padding": None}
    assert bar("int8", min_cosine=0.95, **good).min_cosine == 0.95
    assert bar("int8", min_cosine=0.999, **good).min_cosine == 0.97
    assert bar("fp16", min_cosine=1.0, single_vs_batch=0.004, padding=0.02) == Bar(
        min_cosine=0.999, max_batch_effect=0.04
    )


def test_a_precision_that_was_not_certified_has_its_own_bar() -> None:
    for precision in PRECISIONS:
        found = bar_of(certificate("fp32", min_cosine=1), "image", precision, origin="here")
        assert 0.9 < found.min_cosine < 1
        assert 0 < found.max_batch_effect < 0.05


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(BundleError, match=r"precision 'fp4', this cliprt knows fp32, fp16"):
        bar("fp4", min_cosine=1)
    for content in (b"{}", b"[1]", b"{", certificate("fp32", min_cosine="x")):
        with pytest.raises(BundleError, match="the certificate of here cannot be read"):
            bar_of(content, "image", "fp32", origin="here")


def test_golden_files_that_cannot_be_read_are_refused() -> None:
    def packed(**arrays: Any) -> bytes:
        file = io.BytesIO()
        np.savez(file, **arrays)
        return file.getvalue()

    for content in (b"", b"PK", packed(tokens=np.zeros((1, 4)))):
        with pytest.raises(BundleError, match=r"golden.npz of here cannot be read"):
            Known.read(content, "image", origin="here")
    with pytest.raises(BundleError, match="holds no known answers of the image tower"):
        Known.read(
            packed(pixels=np.zeros((2, 1, 1, 3)), image_embedding=np.zeros((1, 4))),
            "image",
            origin="here",
        )
    with pytest.raises(BundleError, match="golden.npz cannot be read .No such file"):
        Known.of(Path("/nowhere"), "image")
    # Nothing in it is ever executed.
    with pytest.raises(BundleError, match="allow_pickle=False"):
        Known.read(packed(pixels=np.array([{}], dtype=object)), "image", origin="here")


def test_rows_of_another_length_count_as_different() -> None:
    row = np.float32([[0.6, 0.8]])
    assert cosines(row, row)[0] == 1
    assert cosines(2 * row, row)[0] == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"expected embeddings \[2, 2\], got \[1, 2\]"):
        cosines(row, np.float32([[1, 0], [0, 1]]))


def golden(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


UNIT = np.eye(2, 4, dtype=np.float32)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"tokens": np.int32(1), "text_embedding": UNIT}, "no known answers"),
        ({"tokens": np.ones((2, 3)), "text_embedding": UNIT}, "no known answers"),
        ({"tokens": np.ones((2, 3), np.int32), "text_embedding": UNIT > 0}, "no known answers"),
    ],
)
def test_golden_files_hold_what_a_tower_takes(arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        Known.read(golden(**arrays), "text", origin="here")


@pytest.mark.parametrize(
    "content",
    [
        b'{"towers": ' + b"[" * 100_000,
        b'{"towers": {"image": {"fp32": {"min_cosine": 1' + b"0" * 400 + b"}}}}",
        b'{"towers": {"image": {"fp32": "\xff"}}}',
        b"[]",
    ],
)
def test_certificates_that_cannot_be_read_are_refused(content: bytes) -> None:
    with pytest.raises(BundleError, match="the certificate of here cannot be read"):
        bar_of(content, "image", "fp32", origin="here")


def test_golden_files_are_not_unpacked_beyond_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = golden(tokens=np.ones((2, 300), np.int32), text_embedding=UNIT)
    Known.read(whole, "text", origin="here")
    monkeypatch.setattr(_known, "_MAX_GOLDEN_BYTES", 1000)
    with pytest.raises(BundleError, match="unpacks to more than 1,000 bytes"):
        Known.read(whole, "text", origin="here")
