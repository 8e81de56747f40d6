"""What comes out is what `LocalClip` says of the same pictures and texts, in every layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from batch_inputs import caption, small_pictures, write_source
from click.testing import CliRunner
from numpy.typing import NDArray
from siglip_checkpoints import write_siglip

from cliprt._cli import main
from cliprt_batch import JobOptions, embed
from cliprt_batch._encoders import LocalEncoder
from cliprt_batch._source import Source
from cliprt_engines import LocalClip
from cliprt_export import export_checkpoint
from folders import write_calibration

DEMO = Path(__file__).resolve().parents[2] / "demo" / "checkpoint"
COUNT = 90
FILES = {f"{n:05d}.jpg": data for n, data in enumerate(small_pictures(COUNT, seed=5).values())}
CAPTIONS = {name: caption(number) for number, name in enumerate(FILES)}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Pictures with captions; the fourth has a bad picture, the sixth no caption."""
    captions = {name: text for name, text in CAPTIONS.items() if name != "00005.jpg"}
    files = {**FILES, "00003.jpg": b"no picture"}
    return Source(str(write_source("jsonl", tmp_path_factory.mktemp("right"), files, captions)))


def embeddings(column: object) -> NDArray[np.float32]:
    return np.array(column.to_pylist(), np.float32)  # type: ignore[attr-defined]


def test_both_towers(
    encoder: LocalEncoder, clip: LocalClip, source: Source, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    embed(source, out, encoder, JobOptions(towers=("image", "text"), shard_size=40), workers=2)
    names = [name for name in FILES if name not in ("00003.jpg", "00005.jpg")]
    images, texts, rows = [], [], []
    for number in range(3):
        images.append(np.load(out / "img_emb" / f"img_emb_{number:06d}.npy"))
        texts.append(np.load(out / "text_emb" / f"text_emb_{number:06d}.npy"))
        rows += pq.read_table(out / "metadata" / f"metadata_{number:06d}.parquet").to_pylist()
    np.testing.assert_allclose(
        np.concatenate(images), clip.encode_image([FILES[name] for name in names]), atol=1e-6
    )
    np.testing.assert_allclose(
        np.concatenate(texts), clip.encode_text([CAPTIONS[name] for name in names]), atol=1e-6
    )
    assert [row["key"] for row in rows] == names
    assert [row["caption"] for row in rows] == [CAPTIONS[name] for name in names]
    assert [(row["width"], row["height"]) for row in rows[:3]] == [(66, 60), (67, 60), (68, 60)]
    assert {row["error"] for row in rows} == {None}


def test_float16_is_float32_rounded(encoder: LocalEncoder, source: Source, tmp_path: Path) -> None:
    for dtype in ("float32", "float16"):
        embed(source, tmp_path / dtype, encoder, JobOptions(dtype=dtype))  # type: ignore[arg-type]
    exact, half = (
        np.load(tmp_path / dtype / "img_emb" / "img_emb_000000.npy")
        for dtype in ("float32", "float16")
    )
    assert (exact.dtype, half.dtype) == (np.float32, np.float16)
    assert np.array_equal(exact.astype(np.float16), half)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_parquet_has_a_row_for_each_item(
    encoder: LocalEncoder, clip: LocalClip, source: Source, tmp_path: Path, dtype: str
) -> None:
    out = tmp_path / "out"
    options = JobOptions(towers=("image", "text"), layout="parquet", dtype=dtype)  # type: ignore[arg-type]
    embed(source, out, encoder, options)
    table = pq.read_table(out / "embeddings" / "embeddings_000000.parquet")
    errors = table["error"].to_pylist()
    assert [row for row, error in enumerate(errors) if error] == [3, 5]
    assert errors[3].startswith("decode: ")
    assert errors[5].startswith("source: ")
    images = table["image_embedding"].to_pylist()
    assert images[3] is None or set(images[3]) == {None}
    good = [row for row in range(COUNT) if row != 3]
    found = np.array([images[row] for row in good], np.float32)
    expected = clip.encode_image([list(FILES.values())[row] for row in good])
    np.testing.assert_allclose(found, expected, atol=1e-6 if dtype == "float32" else 1e-3)


def test_texts_alone(encoder: LocalEncoder, clip: LocalClip, tmp_path: Path) -> None:
    lines = [caption(number) for number in range(70)]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    embed(
        Source(str(tmp_path / "texts.txt")),
        tmp_path / "out",
        encoder,
        JobOptions(towers=("text",)),
    )
    found = np.load(tmp_path / "out" / "text_emb" / "text_emb_000000.npy")
    np.testing.assert_allclose(found, clip.encode_text(lines), atol=1e-6)
    assert not (tmp_path / "out" / "img_emb").exists()


def test_int8_cpu(source: Source, tmp_path: Path) -> None:
    write_calibration(tmp_path / "calibrate", 64)
    bundle = export_checkpoint(
        DEMO, tmp_path / "bundle", precisions=["fp32", "int8-cpu"], calibrate=tmp_path / "calibrate"
    )
    out = tmp_path / "out"
    arguments = ["embed", source.address, "--out", str(out), "--bundle", str(bundle.path)]
    done = CliRunner().invoke(main, [*arguments, "--precision", "int8-cpu", "--workers", "1"])
    assert done.exit_code == 0, done.output
    found = np.load(out / "img_emb" / "img_emb_000000.npy")
    pictures = [data for name, data in FILES.items() if name != "00003.jpg"]
    with LocalClip(bundle.path, precision="int8-cpu") as quantised:
        expected = quantised.encode_image(pictures)
    with LocalClip(bundle.path) as exact:
        assert np.abs(found - exact.encode_image(pictures)).max() > 1e-4
    # Batches of another size are quantised anew: each has a range of its own.
    assert (found * expected).sum(axis=1).min() > 0.999
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert "image_precision: the folder has int8-cpu, asked for is fp32" in refused.output


def test_a_tower_that_is_not_there(tmp_path: Path) -> None:
    checkpoint = write_siglip(tmp_path / "checkpoint", kind="siglip_vision_model", seed=8)
    bundle = export_checkpoint(checkpoint, tmp_path / "bundle")
    (tmp_path / "texts.txt").write_text("a text\n")
    done = CliRunner().invoke(
        main,
        [
            "embed",
            str(tmp_path / "texts.txt"),
            "--what",
            "text",
            "--out",
            str(tmp_path / "out"),
            "--bundle",
            str(bundle.path),
        ],
    )
    assert done.exit_code == 1
    assert "no text tower" in done.output
    assert "Traceback" not in done.output
