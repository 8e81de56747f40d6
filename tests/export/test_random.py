"""Published architectures with drawn weights."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from math import prod
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from cliprt import CheckpointError, open_bundle
from cliprt_export import export_random
from cliprt_export._architectures import ARCHITECTURES, Architecture
from cliprt_export._golden import known_answers
from cliprt_export._precision import WIDE
from cliprt_export._random import drawn_tensors, model_of, random_model
from cliprt_export._specs import ResNetTower, Tower, VitTower, tower_tensors

# OpenCLIP's docs/model_profile.csv: millions of parameters of the image tower and the text tower.
PUBLISHED = {
    "RN50": (38.32, 63.69),
    "RN101": (56.26, 63.43),
    "RN50x4": (87.14, 91.16),
    "RN50x16": (167.33, 123.65),
    "RN50x64": (420.38, 202.88),
    "ViT-B-32": (87.85, 63.43),
    "ViT-B-16": (86.19, 63.43),
    "ViT-L-14": (303.97, 123.65),
    "ViT-L-14-336": (304.29, 123.65),
    "ViT-H-14": (632.08, 354.03),
    "ViT-g-14": (1012.65, 354.03),
    "ViT-bigG-14": (1844.91, 694.66),
    "ViT-B-16-SigLIP": (92.88, 110.27),
    "ViT-SO400M-14-SigLIP-384": (428.23, 449.73),
}


def parameters(tower: Tower) -> int:
    """How many the published model has; a folded batch norm had two per channel, not one."""
    shapes = tower_tensors(tower)
    count = sum(prod(shape) for shape in shapes.values())
    if isinstance(tower, ResNetTower):
        convolutions = [shape for name, shape in shapes.items() if not name.startswith("head.")]
        count += sum(prod(shape) for shape in convolutions if len(shape) == 1)
    return count


def narrow(entry: Architecture) -> Architecture:
    """The same depth, heads and pooling at a small width, so that a pass is quick."""
    image, text = entry.image, entry.text
    if isinstance(image, ResNetTower):
        image = dataclasses.replace(image, height=64, width=64, stem=8, heads=4)
    else:
        small = dataclasses.replace(image.transformer, width=4 * image.transformer.heads, hidden=96)
        dim = image.dim if image.projection else small.width
        image = dataclasses.replace(image, height=56, width=56, transformer=small, dim=dim)
    small = dataclasses.replace(text.transformer, width=4 * text.transformer.heads, hidden=96)
    text = dataclasses.replace(text, transformer=small, dim=image.dim, vocabulary=2000, end_id=1999)
    return dataclasses.replace(entry, image=image, text=text)


def test_there_is_a_figure_for_each() -> None:
    assert set(PUBLISHED) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name: str) -> None:
    entry = ARCHITECTURES[name]
    millions = [round(parameters(tower) / 1e6, 2) for tower in (entry.image, entry.text)]
    assert tuple(millions) == PUBLISHED[name]
    assert entry.image.dim == entry.text.dim


@pytest.mark.parametrize(
    ("name", "side"), [("RN50x4", 288), ("RN50x16", 384), ("RN50x64", 448), ("ViT-L-14-336", 336)]
)
def test_sides_are_the_published_ones(name: str, side: int) -> None:
    image = ARCHITECTURES[name].image
    assert (image.height, image.width) == (side, side)


@pytest.mark.parametrize("name", ["ViT-H-14", "ViT-g-14", "ViT-bigG-14"])
def test_heads_are_the_published_ones(name: str) -> None:
    image = ARCHITECTURES[name].image
    assert isinstance(image, VitTower)
    assert {"ViT-H-14": 80, "ViT-g-14": 88, "ViT-bigG-14": 104}[
        name
    ] == image.transformer.head_width


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_signal_lives_through_all_layers(name: str) -> None:
    """Different inputs give different embeddings, and no value leaves the range of a half."""
    model = model_of(narrow(ARCHITECTURES[name]), name, seed=0)
    for side in model.sides().values():
        known = known_answers(side)
        cosines = known.embeddings @ known.embeddings.T
        others = cosines[~np.eye(len(cosines), dtype=bool)]
        assert others.max() < 0.999
        assert max(known.peaks.values()) < WIDE


def test_a_tensor_depends_on_seed_and_name_alone() -> None:
    tower = narrow(ARCHITECTURES["ViT-B-32"]).image
    one, same, other = (drawn_tensors(tower, stream) for stream in ("0", "0", "1"))
    names = ("blocks.0.mlp.up.weight", "blocks.1.mlp.up.weight")
    first = one(names[0])
    same(names[1])
    np.testing.assert_array_equal(same(names[0]), first)
    assert not np.array_equal(other(names[0]), first)
    assert not np.array_equal(one(names[1]), first)


def test_weights_are_the_same_for_ever() -> None:
    """Figures of speed are compared over years; the bits come from NumPy's stable generator."""
    tensors = drawn_tensors(ARCHITECTURES["ViT-B-32"].image, "0/image")
    first = (tensors("class_token")[:4].astype(np.float64) * 2**24).tolist()
    assert first == [-3192385, -6972827, -3361735, 3951078]


def test_the_tokenizer_fills_the_vocabulary() -> None:
    for name, size in (("ViT-B-32", 49408), ("ViT-B-16-SigLIP", 32000)):
        text = random_model(name).text
        assert text is not None
        tokenizer = Tokenizer.from_str(text.tokenizer_json)
        assert tokenizer.get_vocab_size() == size
        ids = tokenizer.encode("a photo of a cat").ids
        assert (ids[0], ids[-1]) == (size - 2, size - 1)
        assert max(ids[1:-1]) < size - 2


def test_tokens_are_those_of_clip() -> None:
    text = random_model("ViT-B-32").text
    assert text is not None
    ids = Tokenizer.from_str(text.tokenizer_json).encode("a photo of a cat").ids
    assert ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_a_bundle_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "tiny", narrow(ARCHITECTURES["ViT-B-16-SigLIP"]))
    bundle = export_random("tiny", tmp_path / "bundle", seed=3)
    card = open_bundle(bundle.path).card
    assert (card.name, card.family, card.logit_scale, card.logit_bias) == (
        "random-tiny",
        "random",
        100.0,
        -10.0,
    )
    again = export_random("tiny", tmp_path / "again", seed=3)
    other = export_random("tiny", tmp_path / "other", seed=4)
    assert again.card == card
    assert other.card.space != card.space


def test_an_unknown_architecture_is_answered_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no architecture 'ViT-X'; there are RN50, .*SigLIP"):
        export_random("ViT-X", tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "give either CHECKPOINT or --random"),
        (("folder", "--random", "RN50"), "give either CHECKPOINT or --random"),
        (("folder", "--seed", "1"), "--seed is for --random only"),
        (("--random", "RN50", "--revision", "main"), "--revision is for a CHECKPOINT"),
    ],
)
def test_contradicting_arguments(arguments: tuple[str, ...], text: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cliprt", "export", *arguments, "--out", str(tmp_path / "b")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert text in run.stderr


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cliprt", "export", "--random", "RN51"]
    command += ["--out", str(tmp_path / "bundle")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("Error: there is no architecture 'RN51'; there are RN50, ")
