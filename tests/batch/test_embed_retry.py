"""Items that failed are tried again, and the rest stays as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
import pytest
from batch_inputs import caption, small_pictures, write_source
from batch_runs import output

from cliprt import Bundle
from cliprt_batch import JobOptions, embed
from cliprt_batch._encoders import LocalEncoder
from cliprt_batch._source import Source
from cliprt_engines import LocalClip

COUNT = 620
FILES = {f"{n:05d}.jpg": data for n, data in enumerate(small_pictures(COUNT, seed=8).values())}
NAMES = list(FILES)
BROKEN = [*NAMES[3:600:31], NAMES[-1]]
MENDED = BROKEN[:-4]


@pytest.fixture(scope="module")
def encoder(demo_bundle: Bundle) -> Iterator[LocalEncoder]:
    with LocalClip(demo_bundle.path) as clip:
        yield LocalEncoder(clip, ("image", "text"), truncate=True)


@pytest.mark.parametrize("layout", ["npy", "parquet"])
def test_the_output_becomes_that_of_a_run_that_never_failed(
    encoder: LocalEncoder, tmp_path: Path, layout: Literal["npy", "parquet"]
) -> None:
    captions = {name: caption(number) for number, name in enumerate(NAMES)}
    source = Source(str(write_source("jsonl", tmp_path / "source", FILES, captions)))
    pictures = tmp_path / "source" / "pictures"
    options = JobOptions(towers=("image", "text"), layout=layout, shard_size=300)
    whole, out = tmp_path / "whole", tmp_path / "out"
    for name in BROKEN[len(MENDED) :]:
        (pictures / name).write_bytes(b"no picture")
    embed(source, whole, encoder, options, workers=1)
    for name in MENDED:
        (pictures / name).write_bytes(b"not yet a picture")
    first = embed(source, out, encoder, options, workers=2)
    assert first.failed == len(BROKEN)
    for name in MENDED:
        (pictures / name).write_bytes(FILES[name])
    again = embed(source, out, encoder, options, workers=2, retry_failed=True)
    assert (again.items, again.failed, again.computed) == (COUNT, 4, len(BROKEN))
    assert (out / "failures.jsonl").read_bytes() == (whole / "failures.jsonl").read_bytes()
    assert list(output(out)) == list(output(whole))
    for shard in range(3):
        if layout == "npy":
            for tower in ("img_emb", "text_emb"):
                name = f"{tower}/{tower}_{shard:06d}.npy"
                np.testing.assert_allclose(np.load(out / name), np.load(whole / name), atol=1e-6)
        name = (
            f"metadata/metadata_{shard:06d}.parquet"
            if layout == "npy"
            else f"embeddings/embeddings_{shard:06d}.parquet"
        )
        found, wanted = (pq.read_table(folder / name) for folder in (out, whole))
        plain = [column for column in found.column_names if "embedding" not in column]
        assert found.select(plain).equals(wanted.select(plain))
        for column in set(found.column_names) - set(plain):
            _alike(found[column].to_pylist(), wanted[column].to_pylist())
    # Shards without failures keep their bytes, and the manifest is that of a finished run.
    manifests = [json.loads((folder / "manifest.json").read_bytes()) for folder in (out, whole)]
    assert [manifest["failed"] for manifest in manifests] == [manifests[1]["failed"]] * 2


def _alike(found: list[list[float] | None], wanted: list[list[float] | None]) -> None:
    for one, other in zip(found, wanted, strict=True):
        filled = [
            np.array([np.nan if x is None else x for x in row]) if row is not None else None
            for row in (one, other)
        ]
        assert (filled[0] is None) == (filled[1] is None)
        if filled[0] is not None and filled[1] is not None:
            np.testing.assert_allclose(filled[0], filled[1], atol=1e-6)


def test_one_batch_that_is_alike_gives_the_same_bytes(
    encoder: LocalEncoder, tmp_path: Path
) -> None:
    """All items of a window failed: tried again they make the batch that they would have made."""
    files = dict(list(FILES.items())[:64])
    source = Source(str(write_source("list", tmp_path / "source", files)))
    embed(source, tmp_path / "whole", encoder, workers=1)
    folder = tmp_path / "source" / "pictures"
    folder.rename(tmp_path / "away")
    assert embed(source, tmp_path / "out", encoder, workers=1).failed == 64
    (tmp_path / "away").rename(folder)
    embed(source, tmp_path / "out", encoder, workers=1, retry_failed=True)
    assert output(tmp_path / "out") == output(tmp_path / "whole")


def test_what_was_left_to_do_comes_first(encoder: LocalEncoder, tmp_path: Path) -> None:
    source = Source(str(write_source("list", tmp_path / "source", FILES)))
    options = JobOptions(shard_size=200)
    bad = tmp_path / "source" / "pictures" / NAMES[10]
    bad.write_bytes(b"")
    embed(source, tmp_path / "out", encoder, options, share=(1, 2))
    bad.write_bytes(FILES[NAMES[10]])
    done = embed(source, tmp_path / "out", encoder, options, retry_failed=True)
    assert (done.finished, done.failed, done.items) == (True, 0, COUNT)
