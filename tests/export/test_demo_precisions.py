"""What each precision costs the demo model, and that bad calibration is refused.

The bars are those that the documentation promises. Pictures and captions are drawn as for a user
who follows the README; none of them was seen in training.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from cliprt import Bundle, FidelityError
from cliprt_export import Certificate, export_checkpoint, read_certificate
from cliprt_export._precision import PRECISIONS
from folders import write_calibration, write_evaluation

DEMO = ROOT / "demo" / "checkpoint"
PROMPT = "a picture of a {}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folders")
    write_calibration(folder / "calibrate", 192)
    write_evaluation(folder / "evaluate", 8)
    return folder


@pytest.fixture(scope="module")
def bundle(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_checkpoint(
        DEMO,
        tmp_path_factory.mktemp("precisions") / "bundle",
        precisions=PRECISIONS,
        calibrate=folders / "calibrate",
        evaluate=folders / "evaluate",
        prompt=PROMPT,
    )


@pytest.fixture(scope="module")
def certificate(bundle: Bundle) -> Certificate:
    return read_certificate(bundle)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_fp16_keeps_the_embeddings(certificate: Certificate, tower: str) -> None:
    figures = certificate.towers[tower]["fp16"]
    assert figures.p01_cosine >= 0.9999
    assert figures.neighbours is not None
    assert figures.neighbours >= 0.99


@pytest.mark.parametrize("precision", ["int8", "int8-cpu"])
@pytest.mark.parametrize("tower", ["image", "text"])
def test_int8_stays_close(certificate: Certificate, tower: str, precision: str) -> None:
    figures = certificate.towers[tower][precision]
    assert figures.p01_cosine >= 0.99
    assert figures.neighbours is not None
    assert figures.neighbours >= 0.9


@pytest.mark.parametrize("precision", ["int8", "int8-cpu"])
def test_int8_keeps_zero_shot_accuracy(certificate: Certificate, precision: str) -> None:
    figures = certificate.towers["image"][precision]
    assert figures.top1_reference is not None
    assert figures.top1_reference > 90
    assert figures.top1_loss is not None
    assert figures.top1_loss <= 0.5


def test_int8_is_really_another_computation(certificate: Certificate) -> None:
    for rows in certificate.towers.values():
        assert rows["fp16"].max_abs_diff > 10 * rows["fp32"].max_abs_diff
        assert rows["int8"].max_abs_diff > 5 * rows["fp16"].max_abs_diff


def test_nothing_that_was_calibrated_on_is_measured(certificate: Certificate) -> None:
    assert len(certificate.calibrated_on) > 200
    text = certificate.measured_on["text"]
    assert text.given > 20
    assert certificate.measured_on["image"].labelled == 64 * 8


def test_the_choices_are_recorded(bundle: Bundle) -> None:
    decisions = json.loads(bundle.file("precisions.json").read_text(encoding="utf-8"))
    assert set(decisions) == {"image", "text"}
    assert set(decisions["image"]) == set(PRECISIONS)
    assert decisions["image"]["fp16"] == {"islands": [], "products": {}}
    products = decisions["image"]["int8"]["products"]
    assert len(products) == 4 * 4, "four products in each of four blocks"
    for choice in products.values():
        assert choice["quantised"]
        assert choice["low"] < choice["high"]
        assert 0 < choice["error"] < 0.1


def test_calibration_on_noise_is_refused(folders: Path, tmp_path: Path) -> None:
    noise = tmp_path / "noise"
    noise.mkdir()
    rng = np.random.Generator(np.random.PCG64(0))
    for index in range(64):
        picture = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
        Image.fromarray(picture).save(noise / f"{index}.png")
    shutil.copy(folders / "calibrate" / "captions.txt", noise)
    with pytest.raises(FidelityError, match="the image tower in int8 misses the bar") as error:
        export_checkpoint(
            DEMO,
            tmp_path / "out" / "bundle",
            precisions=["int8"],
            calibrate=noise,
            evaluate=folders / "evaluate",
            prompt=PROMPT,
        )
    assert "calibrate on pictures and texts like your own" in str(error.value)
    assert "The layer that drifts first: blocks." in str(error.value)
    assert not list((tmp_path / "out").iterdir())
