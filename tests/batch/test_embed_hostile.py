"""Sources with damaged and hostile items: every good one is embedded, every other one is told."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from batch_inputs import (
    Shape,
    hostile_files,
    small_pictures,
    tiny_png,
    write_files,
    write_source,
)

from cliprt import Bundle, Limits
from cliprt_batch import JobOptions, embed
from cliprt_batch._encoders import WINDOW, LocalEncoder
from cliprt_batch._source import Source
from cliprt_engines import LocalClip

COUNT = 700


@pytest.fixture(scope="module")
def mixed() -> tuple[dict[str, bytes], set[int]]:
    """Pictures by names that sort, every twentieth of them bad; and the numbers of those."""
    good = list(small_pictures(COUNT, seed=3).values())
    good[5] = tiny_png()
    bad = list(hostile_files().values())
    numbers = set(range(7, COUNT, 20))
    files = {
        f"{number:05d}.jpg": bad[number // 20 % len(bad)] if number in numbers else data
        for number, data in enumerate(good)
    }
    return files, numbers


def number_of(key: str) -> int:
    """A picture's number, by its key in whatever source."""
    found = re.findall(r"\d{5}", key)
    assert len(found) == 1
    return int(found[0])


def ledger(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("shape", ["folder", "list", "tar", "parquet", "jsonl"])
def test_pictures(
    encoder: LocalEncoder,
    clip: LocalClip,
    mixed: tuple[dict[str, bytes], set[int]],
    tmp_path: Path,
    shape: Shape,
) -> None:
    files, bad = mixed
    source, out = write_source(shape, tmp_path / "source", files), tmp_path / "out"
    summary = embed(Source(str(source)), out, encoder, workers=2)
    assert (summary.items, summary.failed) == (COUNT, len(bad))
    rows = pq.read_table(out / "metadata" / "metadata_000000.parquet").to_pylist()
    found = np.load(out / "img_emb" / "img_emb_000000.npy")
    numbers = [number_of(row["key"]) for row in rows]
    assert numbers == [number for number in range(COUNT) if number not in bad]
    every = list(files.values())
    alone = clip.encode_image([every[number] for number in numbers])
    np.testing.assert_allclose(found, alone, atol=1e-6)
    # The same pictures in the same batches: the good ones of each window, windows in each part.
    starts = sorted({*range(0, 512, WINDOW), *range(512, COUNT, WINDOW)})
    alike = [
        clip.encode_image([every[n] for n in range(start, end) if n not in bad])
        for start, end in zip(starts, [*starts[1:], COUNT], strict=True)
    ]
    assert np.array_equal(found, np.concatenate(alike))
    failures = ledger(out)
    assert [number_of(str(failure["key"])) for failure in failures] == sorted(bad)
    for failure in failures:
        assert failure["stage"] in ("read", "decode")
        reason = str(failure["reason"])
        assert 10 < len(reason) < 400
        assert " at 0x" not in reason
        assert "Traceback" not in reason
        assert failure["row"] == number_of(str(failure["key"]))


def test_reasons_of_each_kind(encoder: LocalEncoder, tmp_path: Path) -> None:
    files = hostile_files()
    names = {f"{number:05d}.jpg": name for number, name in enumerate(files)}
    folder = tmp_path / "files"
    write_files(folder, dict(zip(names, files.values(), strict=True)))
    embed(Source(str(folder)), tmp_path / "out", encoder, workers=1)
    told = {names[str(each["key"])]: str(each["reason"]) for each in ledger(tmp_path / "out")}
    assert set(told) == set(files)
    for name, words in {
        "zero bytes": "0 bytes",
        "html": "supported format",
        "pdf": "supported format",
        "half a jpeg": "truncated or damaged",
        "last bytes gone": "truncated or damaged",
        "corrupt png": "truncated or damaged",
        "bomb": "max_image_pixels",
        "long": "max_image_aspect_ratio",
    }.items():
        assert words in told[name], name


def test_what_is_no_file(encoder: LocalEncoder, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(tiny_png())
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "link.png").symlink_to("good.png")
    os.mkfifo(tmp_path / "pipe.png")
    lines = [
        *("good.png", "missing.png", "folder.png", "loop.png", "pipe.png", "/dev/zero"),
        *("https://example.com/cat.jpg", "link.png", "a\0b.png", "x" * 5000 + ".png"),
    ]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    embed(Source(str(tmp_path / "list.txt")), tmp_path / "out", encoder, workers=1)
    assert len(np.load(tmp_path / "out" / "img_emb" / "img_emb_000000.npy")) == 2
    told = {each["row"]: str(each["reason"]) for each in ledger(tmp_path / "out")}
    assert sorted(told) == [1, 2, 3, 4, 5, 6, 8, 9]
    assert "No such file" in told[1]
    assert "not a regular file" in told[2]
    assert "not a regular file" in told[4]
    assert "not a regular file" in told[5]
    assert {each["stage"] for each in ledger(tmp_path / "out")} == {"read"}


def test_captions(demo_bundle: Bundle, clip: LocalClip, tmp_path: Path) -> None:
    captions = {
        '"a red circle"': True,
        '""': True,
        '"   "': True,
        '"nul \\u0000 inside"': True,
        json.dumps("word " * 500): True,
        json.dumps("a" * 3001): False,
        '"lone \\ud800 surrogate"': False,
        "17": False,
        "null": False,
        '["a list"]': False,
        '"<|endoftext|> a circle"': True,
    }
    lines = [f'{{"key": "{n}", "caption": {text}}}' for n, text in enumerate(captions)]
    lines += ["{", "[]", "\x00", '{"key": "x"}', "{" * 5000]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    limits, out = Limits(max_text_characters=3000), tmp_path / "out"
    with LocalClip(demo_bundle.path, limits=limits) as limited:
        encoder = LocalEncoder(limited, ("text",), truncate=True)
        embed(
            Source(str(tmp_path / "texts.jsonl")),
            out,
            encoder,
            JobOptions(towers=("text",), limits=limits),
        )
    good = [json.loads(text) for text, is_good in captions.items() if is_good]
    found = np.load(out / "text_emb" / "text_emb_000000.npy")
    np.testing.assert_allclose(found, clip.encode_text(good, truncate=True), atol=1e-6)
    told = {str(each["row"]): each for each in ledger(out)}
    bad = [row for row, is_good in enumerate(captions.values()) if not is_good]
    assert sorted(map(int, told)) == [*bad, *range(len(captions), len(lines))]
    assert told["5"]["stage"] == "text"
    assert "max_text_characters" in str(told["5"]["reason"])
    assert {each["stage"] for row, each in told.items() if row != "5"} <= {"source", "text"}
    rows = pq.read_table(out / "metadata" / "metadata_000000.parquet")
    assert rows["caption"].to_pylist() == good


def test_texts_that_are_not_utf_8(encoder: LocalEncoder, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_bytes(b"a good line\n\xff\xfe no text\nanother good line\n")
    embed(
        Source(str(tmp_path / "texts.txt")),
        tmp_path / "out",
        encoder,
        JobOptions(towers=("text",)),
    )
    assert len(np.load(tmp_path / "out" / "text_emb" / "text_emb_000000.npy")) == 2
    (failure,) = ledger(tmp_path / "out")
    assert (failure["row"], failure["stage"]) == (1, "source")
    assert "not UTF-8" in str(failure["reason"])
