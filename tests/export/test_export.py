"""Export end to end: parity with transformers, memory, and bundles that are whole or absent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import arrays, demo_pictures, texts
from checkpoints import SMALL, write_checkpoint
from conftest import GOLDEN, MeasuredExport
from numpy.typing import NDArray

from cliprt import Bundle, BundleError, CheckpointError, Limits, open_bundle
from cliprt._images import preprocess
from cliprt._texts import TextTokenizer
from cliprt_engines import OnnxTower
from cliprt_export import _variants, export_checkpoint

FILES = {
    "card.json",
    "certificate.json",
    "golden.npz",
    "image.fp32.onnx",
    "precisions.json",
    "text.fp32.onnx",
    "tokenizer.json",
}


def embed(bundle: Bundle, images: list[object], strings: list[str]) -> list[NDArray[np.float32]]:
    card = bundle.card
    pixels = np.stack([preprocess(image, card.image, Limits()) for image in images])  # type: ignore[arg-type]
    tokenizer_json = bundle.file("tokenizer.json").read_text(encoding="utf-8")
    tokenizer = TextTokenizer(tokenizer_json, card.text, Limits())
    return [
        OnnxTower(bundle.file("image.fp32.onnx")).run(pixels),
        OnnxTower(bundle.file("text.fp32.onnx")).run(tokenizer.pad(tokenizer(strings))),
    ]


def test_a_bundle_holds_what_the_design_says(small_bundle: Bundle) -> None:
    assert {path.name for path in small_bundle.path.iterdir()} == FILES
    assert set(small_bundle.card.files) == FILES - {"card.json"}


def test_the_demo_model_equals_transformers(
    demo_bundle: Bundle, demo_golden: dict[str, NDArray[np.float32]]
) -> None:
    images, strings = embed(demo_bundle, list(demo_pictures()), texts(32))
    np.testing.assert_allclose(images, demo_golden["images"], atol=1e-5)
    np.testing.assert_allclose(strings, demo_golden["texts"], atol=1e-5)


def test_a_full_size_checkpoint_needs_little_memory(vit_b_32: MeasuredExport) -> None:
    assert vit_b_32.peak_kilobytes < 1.6e6


def test_the_towers_of_vit_b_32_equal_transformers(vit_b_32: MeasuredExport) -> None:
    images, strings = embed(vit_b_32.bundle, list(arrays(8, 224)), texts(77))
    with np.load(GOLDEN / "vit_b_32.npz") as golden:
        np.testing.assert_allclose(images, golden["images"], atol=1e-5)
        np.testing.assert_allclose(strings, golden["texts"], atol=1e-5)
        # The legacy rule pools the same token here; that it is applied is tested with the towers.
        np.testing.assert_allclose(strings, golden["legacy_texts"], atol=1e-5)


def test_equal_checkpoints_give_equal_bundles(small_bundle: Bundle, tmp_path: Path) -> None:
    sharded = write_checkpoint(tmp_path / "checkpoint", SMALL, shards=2)
    again = export_checkpoint(str(sharded), tmp_path / "bundle")
    for name in FILES:
        assert again.file(name).read_bytes() == small_bundle.file(name).read_bytes()


def test_known_answers_are_those_of_the_towers(small_bundle: Bundle) -> None:
    with np.load(small_bundle.file("golden.npz")) as golden:
        image = OnnxTower(small_bundle.file("image.fp32.onnx")).run(golden["pixels"])
        text = OnnxTower(small_bundle.file("text.fp32.onnx")).run(golden["tokens"])
        np.testing.assert_allclose(image, golden["image_embedding"], atol=2e-6)
        np.testing.assert_allclose(text, golden["text_embedding"], atol=2e-6)


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", SMALL)
    data = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError):
        export_checkpoint(str(checkpoint), tmp_path / "out" / "bundle")
    assert not (tmp_path / "out").exists()


def test_an_existing_bundle_survives_a_failed_export(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = export_checkpoint(str(small_checkpoint), tmp_path / "bundle")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_variants, "write_tower", fail)
    with pytest.raises(KeyboardInterrupt):
        export_checkpoint(str(small_checkpoint), tmp_path / "bundle", overwrite=True)
    assert open_bundle(tmp_path / "bundle").card == bundle.card
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_overwriting_must_be_asked_for(small_checkpoint: Path, tmp_path: Path) -> None:
    export_checkpoint(str(small_checkpoint), tmp_path / "bundle")
    with pytest.raises(BundleError, match="already exists; pass --overwrite"):
        export_checkpoint(str(small_checkpoint), tmp_path / "bundle")
    export_checkpoint(str(small_checkpoint), tmp_path / "bundle", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_rename_that_fails_brings_the_old_bundle_back(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where names cannot be exchanged, as on some network file systems."""
    bundle = export_checkpoint(small_checkpoint, tmp_path / "bundle")
    monkeypatch.setattr("cliprt._folders._exchange", lambda one, other: False)
    original, calls = Path.rename, []

    def rename(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(BundleError, match="Input/output error"):
        export_checkpoint(small_checkpoint, tmp_path / "bundle", overwrite=True)
    assert open_bundle(tmp_path / "bundle").card == bundle.card
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_overwriting_follows_a_link(small_checkpoint: Path, tmp_path: Path) -> None:
    export_checkpoint(small_checkpoint, tmp_path / "bundle")
    (tmp_path / "link").symlink_to("bundle")
    export_checkpoint(small_checkpoint, tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "link"]


def test_only_bundles_are_overwritten(small_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    with pytest.raises(BundleError, match="is no bundle; it is not overwritten"):
        export_checkpoint(str(small_checkpoint), tmp_path / "precious", overwrite=True)
    assert (tmp_path / "precious" / "file").exists()


def test_the_command(small_checkpoint: Path, small_bundle: Bundle, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cliprt", "export", str(small_checkpoint), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    # Square brackets are markup elsewhere.
    out = str(tmp_path / "bundle [v1]")
    first = run("--out", out, "--json")
    assert json.loads(first.stdout)["space"] == small_bundle.card.space
    assert first.stderr == ""
    second = run("--out", out)
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr.startswith("Error: ")
    assert len(second.stderr.splitlines()) == 1
    third = run("--out", out, "--overwrite")
    assert third.stdout.startswith(f"bundle  {out}\nspace   {small_bundle.card.space}\n")
