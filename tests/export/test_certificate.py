"""What export measures, and that a tower which is not the original one is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import SMALL, write_checkpoint
from conftest import ROOT

from cliprt import Bundle, BundleError, FidelityError, InvalidInput
from cliprt_export import Bars, Fidelity, _variants, export_checkpoint, read_certificate
from cliprt_export._certificate import encode_certificate
from cliprt_export._precision import Precision
from cliprt_export._specs import TextTower, Tower, VitTower
from draw import COLOURS, Scene, draw
from pictures import rgb

DEMO = ROOT / "demo" / "checkpoint"


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of the demo's kind, in a folder for each colour."""
    folder = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(7)
    for colour in COLOURS:
        (folder / f"{colour}_star").mkdir()
        for index in range(6):
            scene = Scene(colour=colour, pattern="solid", shape="star")
            picture = draw(scene, (120 + index, 100), rng)
            picture.save(folder / f"{colour}_star" / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def certified(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo model in two precisions, with zero-shot accuracy."""
    return export_checkpoint(
        DEMO,
        tmp_path_factory.mktemp("certified") / "bundle",
        precisions=("fp32", "fp16"),
        evaluate=labelled,
        prompt="a picture of a {}",
        samples=64,
    )


def test_every_tower_and_precision_is_measured(certified: Bundle) -> None:
    towers = read_certificate(certified).towers
    assert {name: list(rows) for name, rows in towers.items()} == {
        "image": ["fp32", "fp16"],
        "text": ["fp32", "fp16"],
    }
    for rows in towers.values():
        assert rows["fp32"].p01_cosine > 0.999999
        assert 0.9999 < rows["fp16"].p01_cosine < 0.99999999
        assert rows["fp16"].neighbours is not None
        assert rows["fp16"].neighbours > 0.95
        assert rows["fp32"].max_abs_diff < rows["fp16"].max_abs_diff < 2e-3
        assert rows["fp32"].single_vs_batch < 1e-6


def test_padding_is_measured_on_texts_alone(certified: Bundle) -> None:
    towers = read_certificate(certified).towers
    assert towers["image"]["fp32"].padding is None
    assert towers["text"]["fp32"].padding is not None
    assert towers["text"]["fp32"].padding < 1e-6


def test_zero_shot_accuracy_is_that_of_a_trained_model(certified: Bundle) -> None:
    certificate = read_certificate(certified)
    image = certificate.towers["image"]
    assert certificate.prompt == "a picture of a {}"
    assert certificate.classes[0] == "blue star"
    assert certificate.measured_on["image"].labelled == 48
    # Of eight colours, one in eight would be chance.
    assert image["fp32"].top1_reference is not None
    assert image["fp32"].top1_reference > 75
    assert image["fp32"].top1 == image["fp32"].top1_reference
    assert abs(image["fp16"].top1_loss or 0) < 3
    assert certificate.towers["text"]["fp32"].top1 is None


def test_the_record_says_what_was_measured_where(certified: Bundle) -> None:
    certificate = read_certificate(certified)
    image, text = certificate.measured_on["image"], certificate.measured_on["text"]
    assert (image.items, image.given, image.drawn, image.skipped) == (48, 0, 0, 0)
    assert (text.items, text.labelled, text.drawn) == (64, 0, 64)
    assert certificate.runtime.startswith("onnxruntime ")
    assert certificate.cpu
    assert certificate.bars == Bars()
    assert str(ROOT) not in certified.file("certificate.json").read_text()


def test_a_certificate_of_another_schema_is_refused(certified: Bundle, tmp_path: Path) -> None:
    data = encode_certificate(read_certificate(certified)).replace(b'"schema": 2', b'"schema": 1')
    (tmp_path / "certificate.json").write_bytes(data)
    with pytest.raises(BundleError, match="schema 1, this cliprt reads schema 2"):
        read_certificate(Bundle(path=tmp_path, card=certified.card))


def refusal(monkeypatch: pytest.MonkeyPatch, folder: Path, change: Callable[[Tower], Tower]) -> str:
    """Exports a checkpoint whose towers are written wrongly, and returns why it is refused."""
    original = _variants.write_tower

    def broken(path: Path, tower: Tower, tensors: Any, version: str, precision: Precision) -> None:
        original(path, change(tower), tensors, version, precision)

    monkeypatch.setattr(_variants, "write_tower", broken)
    checkpoint = write_checkpoint(folder / "checkpoint", SMALL)
    with pytest.raises(FidelityError) as error:
        export_checkpoint(checkpoint, folder / "out" / "bundle", samples=48)
    assert not (folder / "out").exists() or not list((folder / "out").iterdir())
    return str(error.value)


def test_normalisation_left_out_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def change(tower: Tower) -> Tower:
        if isinstance(tower, VitTower):
            return replace(tower, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        return tower

    message = refusal(monkeypatch, tmp_path, change)
    assert message.startswith(
        "the image tower in fp32 misses the bar, measured on 48 items: cosine"
    )
    assert "the bar is 0.99999" in message
    assert "The layer that drifts first: patch, which is the first below the bar" in message


@pytest.mark.parametrize(("side", "kind"), [("image", VitTower), ("text", TextTower)])
def test_a_wrong_activation_is_refused(
    side: str, kind: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def change(tower: Tower) -> Tower:
        if isinstance(tower, kind):
            transformer = replace(tower.transformer, activation="gelu")  # type: ignore[union-attr]
            return replace(tower, transformer=transformer)  # type: ignore[arg-type]
        return tower

    message = refusal(monkeypatch, tmp_path, change)
    assert message.startswith(f"the {side} tower in fp32 misses the bar")
    assert "The layer that drifts first: blocks.0.mlp.hidden, which" in message


def test_wrong_pooling_of_texts_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def change(tower: Tower) -> Tower:
        return replace(tower, pooling="first") if isinstance(tower, TextTower) else tower

    message = refusal(monkeypatch, tmp_path, change)
    assert message.startswith("the text tower in fp32 misses the bar")
    # In the last block only the pooled token is computed; everything before it is right.
    assert "first: blocks.2.attention.scores of the pooled token, which" in message


def test_wrong_pooling_of_pictures_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def change(tower: Tower) -> Tower:
        return replace(tower, pooling="average") if isinstance(tower, VitTower) else tower

    message = refusal(monkeypatch, tmp_path, change)
    assert message.startswith("the image tower in fp32 misses the bar")
    assert "first: projection, which is the first below the bar" in message
    assert message.endswith("right before it the graph has no pooled, post_norm")


def test_a_bar_that_fp16_cannot_reach(tmp_path: Path) -> None:
    """The previous bundle stays."""
    before = export_checkpoint(DEMO, tmp_path / "bundle", samples=40)
    bars = Bars(min_cosine={"fp32": 0.999, "fp16": 1.0})
    with pytest.raises(FidelityError, match="leave the precision out of --precision, or lower"):
        export_checkpoint(
            DEMO,
            tmp_path / "bundle",
            precisions=("fp16",),
            bars=bars,
            samples=40,
            overwrite=True,
        )
    assert read_certificate(before).towers["image"].keys() == {"fp32"}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def found(**figures: Any) -> Fidelity:
    good = {"min_cosine": 1.0, "p01_cosine": 1.0, "mean_cosine": 1.0, "max_abs_diff": 0.0}
    return Fidelity(**{"items": 50, "single_vs_batch": 0.0, **good, **figures})


@pytest.mark.parametrize(
    ("figures", "bars", "text"),
    [
        ({"p01_cosine": 0.9}, Bars(), r"cosine \(1st percentile\) 0\.9, the bar is 0\.99999"),
        ({"p01_cosine": float("nan")}, Bars(), "nan, the bar is 0.99999"),
        ({"neighbours": 0.8}, Bars(min_overlap=0.9), "neighbours 0.8, the bar is 0.9"),
        ({"neighbours": float("nan")}, Bars(min_overlap=0.9), "neighbours nan"),
        (
            {"top1_reference": 90.0, "top1": 88.0},
            Bars(max_top1_loss=0.5),
            "top-1 in points 2, at most 0.5",
        ),
        ({"single_vs_batch": 1e-3}, Bars(), "single and batch 0.001, at most 1e-05"),
        ({"padding": float("nan")}, Bars(), "difference by padding nan"),
    ],
)
def test_what_misses_a_bar(figures: dict[str, float], bars: Bars, text: str) -> None:
    (missed,) = bars.missed("fp32", found(**figures))
    assert re.search(text, missed)


def test_a_bar_for_what_was_not_measured_is_missed() -> None:
    (missed,) = Bars(min_overlap=0.9).missed("fp32", found())
    assert "was not measured" in missed
    assert Bars(max_top1_loss=0.5).missed("fp32", found()) == []


def test_a_bar_on_accuracy_needs_labels(small_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="pass --evaluate FOLDER"):
        export_checkpoint(small_checkpoint, tmp_path / "bundle", bars=Bars(max_top1_loss=0.5))
    assert not list(tmp_path.iterdir())


def test_bars_are_numbers_that_can_be() -> None:
    with pytest.raises(ValueError, match="between -1 and 1"):
        Bars(min_cosine={"fp16": 99.0})
    with pytest.raises(ValueError, match="between 0 and 100 points"):
        Bars(max_top1_loss=float("nan"))
    with pytest.raises(ValueError, match="precision 'half'"):
        Bars(min_cosine={"half": 0.9})


def test_held_out_items_are_measured_on(tmp_path: Path) -> None:
    for seed in range(60):
        rgb(50 + seed, 40, seed=seed).save(tmp_path / f"{seed}.png")
    (tmp_path / "texts.txt").write_text("\n".join(f"number {k}" for k in range(60)))
    bundle = export_checkpoint(DEMO, tmp_path / "bundle", calibrate=tmp_path, samples=40)
    recorded = read_certificate(bundle).measured_on
    assert 5 < recorded["image"].given < 25
    assert recorded["image"].items == 40
    assert 5 < recorded["text"].given < 25


def test_folders_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for options in ({"calibrate": tmp_path / "empty"}, {"evaluate": tmp_path / "empty"}):
        with pytest.raises(InvalidInput, match="empty"):
            export_checkpoint("no/checkpoint-at-all", tmp_path / "bundle", **options)  # type: ignore[arg-type]
