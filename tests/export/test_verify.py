"""Measuring a bundle again: what has changed since export is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from checkpoints import SMALL, Tensors, write_checkpoint
from click.testing import CliRunner, Result
from onnx import numpy_helper

from cliprt import Bundle, BundleError, InvalidInput
from cliprt._bundle import sha256_of
from cliprt_export import export_checkpoint, read_certificate, verify_bundle
from cliprt_export._verify_cli import verify
from pictures import rgb


@pytest.fixture(scope="session")
def two_precisions(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_checkpoint(
        small_checkpoint,
        tmp_path_factory.mktemp("two") / "bundle",
        precisions=("fp32", "fp16"),
        samples=48,
    )


def tampered(bundle: Bundle, folder: Path, file: str) -> Path:
    """A copy with another weight in one tower, and with that tower's true SHA-256 in the card."""
    copy = Path(shutil.copytree(bundle.path, folder / "copy"))
    model = onnx.load(copy / file)
    (weight,) = (w for w in model.graph.initializer if w.name == "blocks.1.mlp.down.weight")
    values = numpy_helper.to_array(weight).copy()
    values[:, 0] *= -1
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, copy / file)
    card = json.loads((copy / "card.json").read_text())
    card["files"][file] = {
        "sha256": sha256_of(copy / file),
        "size": (copy / file).stat().st_size,
    }
    (copy / "card.json").write_text(json.dumps(card))
    return copy


def run(*arguments: object) -> Result:
    return CliRunner().invoke(verify, [str(argument) for argument in arguments])


def test_without_the_checkpoint_known_answers_and_fp32_are_compared_with(
    two_precisions: Bundle,
) -> None:
    result = verify_bundle(two_precisions.path)
    assert result.passed
    assert [(row.tower, row.precision, row.against) for row in result.rows] == [
        ("image", "fp32", "known answers"),
        ("image", "fp16", "known answers"),
        ("image", "fp16", "fp32 tower"),
        ("text", "fp32", "known answers"),
        ("text", "fp16", "known answers"),
        ("text", "fp16", "fp32 tower"),
    ]
    assert [row.found.items for row in result.rows] == [4, 4, 48, 5, 5, 48]
    assert not any(row.same_items for row in result.rows)


def test_with_the_checkpoint_the_certificate_is_repeated(
    two_precisions: Bundle, small_checkpoint: Path
) -> None:
    result = verify_bundle(two_precisions.path, checkpoint=str(small_checkpoint))
    assert result.passed
    assert [(row.tower, row.precision) for row in result.rows] == [
        ("image", "fp32"),
        ("image", "fp16"),
        ("text", "fp32"),
        ("text", "fp16"),
    ]
    certificate = read_certificate(two_precisions)
    for row in result.rows:
        assert (row.against, row.same_items) == ("original weights", True)
        assert row.certified == certificate.towers[row.tower][row.precision]
        assert row.found.p01_cosine == pytest.approx(row.certified.p01_cosine, abs=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_tower_with_other_weights_is_found(
    precision: str, two_precisions: Bundle, tmp_path: Path
) -> None:
    copy = tampered(two_precisions, tmp_path, f"image.{precision}.onnx")
    result = verify_bundle(copy)
    assert not result.passed
    # Known answers tell which one is wrong: the other precision and the other tower agree.
    assert {
        (row.tower, row.precision)
        for row in result.rows
        if row.missed and row.against == "known answers"
    } == {("image", precision)}


def test_the_changed_layer_is_found(
    two_precisions: Bundle, small_checkpoint: Path, tmp_path: Path
) -> None:
    copy = tampered(two_precisions, tmp_path, "image.fp16.onnx")
    result = verify_bundle(
        copy, checkpoint=str(small_checkpoint), precisions=("fp16",), layers=True
    )
    image, text = result.rows
    drifting = [layer.name for layer in image.layers if not (layer.cosine or 0) > 0.9999]
    assert drifting[0] == "blocks.1.mlp.down"
    assert text.layers
    assert all((layer.cosine or 0) > 0.9999 for layer in text.layers)


def test_layers_need_the_checkpoint(two_precisions: Bundle) -> None:
    with pytest.raises(InvalidInput, match="pass --checkpoint as well"):
        verify_bundle(two_precisions.path, layers=True)


def test_other_weights_are_no_checkpoint_of_the_bundle(
    two_precisions: Bundle, tmp_path: Path
) -> None:
    def change(tensors: Tensors) -> Tensors:
        tensors["text_projection.weight"][0, 0] += 1e-3
        return tensors

    other = write_checkpoint(tmp_path / "other", SMALL, change=change)
    with pytest.raises(BundleError, match="what differs: text weights$"):
        verify_bundle(two_precisions.path, checkpoint=str(other))


def test_a_precision_that_is_not_there(small_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="no tower in fp16; it has fp32"):
        verify_bundle(small_bundle.path, precisions=("fp16",))


def test_accuracy_is_measured_on_labelled_pictures(two_precisions: Bundle, tmp_path: Path) -> None:
    for index, label in enumerate(("cat", "dog")):
        (tmp_path / label).mkdir()
        for seed in range(5):
            rgb(60, 50, seed=10 * index + seed).save(tmp_path / label / f"{seed}.png")
    (row,) = (
        row
        for row in verify_bundle(two_precisions.path, evaluate=tmp_path, precisions=("fp16",)).rows
        if (row.tower, row.against) == ("image", "fp32 tower")
    )
    assert row.found.top1 is not None
    assert row.found.top1_reference is not None


def test_the_command_prints_a_table(two_precisions: Bundle) -> None:
    result = run(two_precisions.path, "--samples", 8)
    assert result.exit_code == 0
    assert "known answers that the original weights gave" in result.stdout
    (line,) = (
        line for line in result.stdout.splitlines() if line.split()[:3] == ["text", "fp16", "fp32"]
    )
    assert line.split()[4] == "8"


def test_the_command_fails_below_a_bar(two_precisions: Bundle) -> None:
    arguments = (two_precisions.path, "--samples", 8, "--precision", "fp16")
    result = run(*arguments, "--min-cosine", "fp16=1")
    assert result.exit_code == 1
    assert "missed: image fp16 against the known answers: cosine" in result.stdout
    # The bar of another precision is no bar here.
    assert run(*arguments, "--min-cosine", "fp32=1").exit_code == 0


def test_the_command_writes_json(two_precisions: Bundle, small_checkpoint: Path) -> None:
    arguments = ("--checkpoint", small_checkpoint, "--layers", "--json", "--precision", "fp32")
    result = run(two_precisions.path, *arguments)
    content: dict[str, Any] = json.loads(result.stdout)
    assert content["passed"] is True
    image = content["rows"][0]
    assert image["same_items"] is True
    assert image["layers"][0]["name"] == "patch"
    assert np.isclose(image["found"]["p01_cosine"], 1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--precision", "fp4"], "'fp4' is none of fp32"),
        (["--min-cosine", "fp16=much"], "'much' is no number"),
        (["--min-cosine", "2"], "between -1 and 1"),
        (["--min-cosine", "half=0.9"], "'half' is none of"),
        (["--prompt", "a photo"], "it must hold {}"),
    ],
)
def test_options_that_make_no_sense(options: list[str], text: str, small_bundle: Bundle) -> None:
    result = run(small_bundle.path, *options)
    assert result.exit_code == 2
    assert text in result.stderr
