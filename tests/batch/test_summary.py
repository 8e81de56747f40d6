"""What a run tells of itself."""

from __future__ import annotations

import msgspec
import pytest

from cliprt_batch._summary import Reason, Summary

SUMMARY = Summary(
    finished=True,
    model="demo",
    space="0123456789abcdef",
    items=10,
    embedded=7,
    failed=3,
    reasons=[],
    computed=10,
    wall_s=2.0,
    rate=5.0,
    stages={"decode": 0.9},
    slowest="decode",
)


@pytest.mark.parametrize(
    ("embedded", "failed", "nothing"), [(7, 3, False), (0, 3, True), (0, 0, False), (7, 0, False)]
)
def test_whether_nothing_was_embedded(embedded: int, failed: int, nothing: bool) -> None:
    summary = msgspec.structs.replace(SUMMARY, embedded=embedded, failed=failed)
    assert summary.nothing_embedded is nothing


def test_of_limits_it_says_that_others_make_another_job() -> None:
    reasons = [
        Reason("read", "the image has … bytes, the limit max_image_bytes is …; raise the limit", 2),
        Reason("text", "the text is longer than the limit max_text_characters of …", 1),
    ]
    text = msgspec.structs.replace(SUMMARY, reasons=reasons).text()
    assert "with another --max-image-bytes or --max-text-characters it is another one" in text
    assert "--out" in text


def test_without_limits_it_says_nothing_of_them() -> None:
    reasons = [Reason("decode", "not an image in a supported format", 3)]
    text = msgspec.structs.replace(SUMMARY, reasons=reasons).text()
    assert "3 x decode: not an image" in text
    assert "--out" not in text
