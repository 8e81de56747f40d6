"""Pictures of a finished folder are found again where the source has them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import fsspec
import numpy as np
import pytest
from batch_inputs import small_pictures, write_source
from batch_sources import tar

from cliprt_batch import JobOptions, embed
from cliprt_batch._addresses import read_bytes
from cliprt_batch._collection import Collection, Entry
from cliprt_batch._encoders import LocalEncoder
from cliprt_batch._items import Ref
from cliprt_batch._pictures import find_pictures, place_of
from cliprt_batch._source import Source

FILES = {f"{n:05d}.jpg": data for n, data in enumerate(small_pictures(30, seed=6).values())}
OPTIONS = JobOptions(towers=("image",), shard_size=12)


def entries_of(out: Path) -> list[Entry]:
    collection = Collection(out)
    return collection.entries(np.arange(collection.rows))


def content(picture: Ref | bytes | None) -> str | None:
    if picture is None:
        return None
    data = read_bytes(picture, 2**20) if isinstance(picture, Ref) else picture
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("layout", ["npy", "parquet"])
@pytest.mark.parametrize("kind", ["tar", "parquet", "jsonl"])
def test_every_picture_is_the_one_that_was_embedded(
    encoder: LocalEncoder, tmp_path: Path, kind: str, layout: str
) -> None:
    files = {**FILES, "00003.jpg": b"no picture", "00014.jpg": b"nor this"}
    source = write_source(kind, tmp_path, files, {})
    options = JobOptions(towers=("image",), shard_size=12, layout=layout)  # type: ignore[arg-type]
    embed(Source(str(source)), tmp_path / "out", encoder, options)
    good = [entry for entry in entries_of(tmp_path / "out") if entry.width]
    assert len(good) == 28
    found = find_pictures(tmp_path / "out", good[::-1])
    assert [content(picture) for picture in found] == [entry.sha256 for entry in good[::-1]]


def test_of_two_with_the_same_key_each_is_itself(encoder: LocalEncoder, tmp_path: Path) -> None:
    one, two, three = list(FILES.values())[:3]
    source = tmp_path / "a.tar"
    source.write_bytes(tar([("a.jpg", one), ("b.jpg", two), ("a.jpg", three)]))
    embed(Source(str(source)), tmp_path / "out", encoder, OPTIONS)
    entries = entries_of(tmp_path / "out")
    found = find_pictures(tmp_path / "out", entries)
    assert [content(picture) for picture in found] == [
        hashlib.sha256(data).hexdigest() for data in (one, two, three)
    ]


@pytest.mark.parametrize("what", ["gone", "another", "cut off", "no plan"])
def test_a_source_that_is_not_what_it_was_shows_nothing(
    encoder: LocalEncoder, tmp_path: Path, what: str
) -> None:
    source, out = write_source("tar", tmp_path, FILES, {}), tmp_path / "out"
    embed(Source(str(source)), out, encoder, OPTIONS)
    entries = entries_of(out)
    if what == "gone":
        source.unlink()
    elif what == "another":
        source.write_bytes(tar([("other.jpg", FILES["00000.jpg"])]))
    elif what == "cut off":
        source.write_bytes(source.read_bytes()[:700])
    else:
        (out / "_cliprt" / "plan.jsonl").unlink()
    assert find_pictures(out, entries) == [None] * len(entries)


def test_tars_of_stores_are_not_fetched(encoder: LocalEncoder, tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/shown.tar", tar(FILES.items()))
    try:
        embed(Source("memory://shown.tar"), tmp_path / "out", encoder, OPTIONS)
        entries = entries_of(tmp_path / "out")
        assert find_pictures(tmp_path / "out", entries) == [None] * len(entries)
    finally:
        store.rm("/shown.tar")


@pytest.mark.parametrize("place", ["a.png", "./a.png", "", "file://a.png", "\ud800"])
def test_metadata_that_name_no_place_are_not_opened(place: str) -> None:
    assert place_of(place) is None
