"""What is measured on: split by content, drawn alike everywhere, unreadable items counted."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cliprt import Bundle, InvalidInput
from cliprt._card import ImageSpec, TextSpec
from cliprt._texts import TextTokenizer
from cliprt_export._drawn import drawn_picture, drawn_texts
from cliprt_export._own_items import (
    check_folder_of_items,
    find_labelled,
    find_pictures,
    side_of,
    split_items,
)
from cliprt_export._samples import LIMITS, Count, default_count, pictures, texts
from cliprt_export._specs import ResNetTower, TextTower, TransformerSpec, VitTower
from cliprt_export._work import operations
from pictures import rgb

SIDES = ("calibration", "certificate")
MEAN = (0.5, 0.5, 0.5)


@pytest.fixture
def image(small_bundle: Bundle) -> ImageSpec:
    assert small_bundle.card.image is not None
    return small_bundle.card.image


@pytest.fixture
def text(small_bundle: Bundle) -> tuple[TextSpec, TextTokenizer]:
    assert small_bundle.card.text is not None
    content = small_bundle.file("tokenizer.json").read_text(encoding="utf-8")
    return small_bundle.card.text, TextTokenizer(content, small_bundle.card.text, LIMITS)


def folder_of(folder: Path, count: int, lines: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        rgb(40 + seed, 30, seed=seed).save(folder / f"{seed}.png")
    if lines:
        (folder / "texts.txt").write_text("\n".join(f"text number {k}" for k in range(lines)))
    return folder


def row_set(inputs: NDArray[np.generic]) -> set[bytes]:
    return {row.tobytes() for row in inputs}


def test_the_sides_never_share_an_item(
    image: ImageSpec, text: tuple[TextSpec, TextTokenizer], tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "own", 60, lines=80)
    count = Count(80, least=1)
    seen, held = (pictures(image, count, side=side, folder=folder) for side in SIDES)
    assert (seen.given + held.given, seen.drawn, held.drawn) == (60, 0, 0)
    assert seen.given > 2 * held.given > 0
    assert not row_set(seen.inputs) & row_set(held.inputs)
    read, kept = (texts(*text, count, side=side, folder=folder) for side in SIDES)
    assert read.given + kept.given == 80
    assert not row_set(read.inputs) & row_set(kept.inputs)


def test_a_copy_lies_on_the_side_of_its_original(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "own", 20)
    (folder / "copies").mkdir()
    for file in list(folder.glob("*.png")):
        (folder / "copies" / f"x{file.name}").write_bytes(file.read_bytes())

    def digest(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    found = list(find_pictures(folder))
    assert len(found) == 40
    sides = [set(map(digest, split_items(found, digest, side))) for side in SIDES]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 20


def test_an_item_keeps_its_side_when_others_come() -> None:
    digests = [hashlib.sha256(bytes([k])).hexdigest() for k in range(200)]
    few = set(split_items(digests[:50], str, "certificate"))
    assert few == set(split_items(digests, str, "certificate")) & set(digests[:50])
    assert 30 < sum(side_of(digest) == "certificate" for digest in digests) < 70


def test_pixels_that_were_calibrated_on_are_left_out_in_any_format(
    image: ImageSpec, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "own", 30)
    seen = pictures(image, Count(40, least=1), side="calibration", folder=folder)
    again = tmp_path / "again"
    for label in ("one", "two"):
        (again / label).mkdir(parents=True)
    for index, file in enumerate(sorted(folder.glob("*.png"))):
        target = again / ("one", "two")[index % 2] / f"{file.stem}.bmp"
        Image.open(file).save(target)
    labelled = find_labelled(again)
    held = pictures(image, Count(1), labelled=labelled, calibrated=seen.digests())
    assert 0 < len(held.labels) == 30 - seen.given
    assert not row_set(seen.inputs) & row_set(held.inputs)


def test_everything_calibrated_on_leaves_nothing_to_evaluate(
    image: ImageSpec, tmp_path: Path
) -> None:
    for label in ("one", "two"):
        rgb(50, 40, seed=len(label) + ord(label[0])).save(
            folder_of(tmp_path / "set" / label, 0) / "only.png"
        )
    labelled = find_labelled(tmp_path / "set")
    known = pictures(image, Count(2, least=1), labelled=labelled).digests()
    with pytest.raises(InvalidInput, match="every picture of the evaluation folder was calibrated"):
        pictures(image, Count(2, least=1), labelled=labelled, calibrated=known)


def test_drawn_items_of_the_sides_differ(
    image: ImageSpec, text: tuple[TextSpec, TextTokenizer]
) -> None:
    one, other = (pictures(image, Count(30), side=side) for side in SIDES)
    assert not row_set(one.inputs) & row_set(other.inputs)
    known = texts(*text, Count(200), side="calibration")
    held = texts(*text, Count(200), calibrated=known.digests())
    assert not row_set(known.inputs) & row_set(held.inputs)


def test_drawn_items_are_the_same_everywhere() -> None:
    """Digests fixed when this was written: another machine or NumPy must not change them."""
    whole = hashlib.sha256()
    for seed in range(12):
        whole.update(drawn_picture(seed).tobytes())
    assert whole.hexdigest()[:16] == "dda98199c7304dbe"
    joined = "\n".join(drawn_texts(64, 0))
    assert hashlib.sha256(joined.encode()).hexdigest()[:16] == "f5c01e262143e055"


def test_drawn_pictures_vary() -> None:
    shapes = {drawn_picture(seed).shape for seed in range(64)}
    assert len(shapes) > 60
    assert all(height != width for height, width, _ in shapes)
    ratios = [width / height for height, width, _ in shapes]
    assert min(ratios) < 0.5 < 2 < max(ratios)


def test_drawn_texts_go_from_one_word_beyond_the_context(
    text: tuple[TextSpec, TextTokenizer],
) -> None:
    drawn = drawn_texts(128, 0)
    assert len(set(drawn)) == 128
    assert {1, 90} <= {len(line.split()) for line in drawn}
    assert sum(any(ord(letter) > 0x2FF for letter in line) for line in drawn) > 10
    lengths = texts(*text, Count(128)).lengths
    assert lengths is not None
    assert (lengths.min(), lengths.max()) == (3, 77)


def test_the_digest_says_whether_the_same_was_measured(image: ImageSpec) -> None:
    assert pictures(image, Count(5)).digest() == pictures(image, Count(5)).digest()
    assert pictures(image, Count(5)).digest() != pictures(image, Count(6)).digest()


def test_unreadable_pictures_are_counted(image: ImageSpec, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "own", 20)
    for index in range(12):
        (folder / f"bad{index}.jpg").write_bytes(b"no picture %d" % index)
    sides = [pictures(image, Count(40, least=1), side=side, folder=folder) for side in SIDES]
    assert sum(side.skipped for side in sides) == 12
    assert sum(side.given for side in sides) == 20


def test_a_folder_of_unreadable_pictures_is_refused(image: ImageSpec, tmp_path: Path) -> None:
    for index in range(12):
        (tmp_path / f"bad{index}.jpg").write_bytes(b"no picture %d" % index)
    with pytest.raises(InvalidInput, match=r"none of the \d+ items tried .* not an image"):
        pictures(image, Count(8), side="calibration", folder=tmp_path)


def test_a_text_file_that_is_no_utf8_is_counted(
    text: tuple[TextSpec, TextTokenizer], tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "own", 0, lines=40)
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
    found = texts(*text, Count(40, least=1), side="calibration", folder=folder)
    assert (found.skipped, found.drawn) == (1, 0)


def test_few_own_items_are_filled_up(image: ImageSpec, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "own", 10)
    found = pictures(image, Count(60, least=40), side="calibration", folder=folder)
    assert found.given + found.drawn == 40
    assert 0 < found.given < 11


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="holds no pictures"):
        check_folder_of_items(tmp_path)
    with pytest.raises(InvalidInput, match="is no folder"):
        check_folder_of_items(tmp_path / "nowhere")


def test_classes_are_sub_folders(tmp_path: Path) -> None:
    for name in ("red_car", "blue boat"):
        folder_of(tmp_path / name / "deep", 2)
    (tmp_path / "empty").mkdir()
    labelled = find_labelled(tmp_path)
    assert labelled.classes == ("blue boat", "red car")
    assert all(("blue boat" in str(file)) == (label == 0) for file, label in labelled.files)
    (tmp_path / "one").mkdir()
    with pytest.raises(InvalidInput, match="0 sub-folders with pictures"):
        find_labelled(tmp_path / "one")


def test_arithmetic_of_known_models() -> None:
    """ViT-B/32 takes 8.7e9 operations a picture and its text tower 6e9, RN50 12e9 (twice MACs)."""
    transformer = TransformerSpec(768, 12, 12, 3072, "quick_gelu", 1e-5)
    vit = VitTower(224, 224, 32, 512, transformer, MEAN, MEAN, 1 / 255)
    assert operations(vit) == pytest.approx(8.7e9, rel=0.05)
    words = TransformerSpec(512, 12, 8, 2048, "quick_gelu", 1e-5)
    assert operations(TextTower(49408, 77, 512, words, "end", 49407)) == pytest.approx(
        6.0e9, rel=0.05
    )
    resnet = ResNetTower(224, 224, 1024, 64, (3, 4, 6, 3), 32, MEAN, MEAN, 1 / 255)
    assert operations(resnet) == pytest.approx(12e9, rel=0.15)


def test_big_towers_are_measured_on_fewer_items() -> None:
    counts = [default_count(work, (6, 128)).most for work in (1e12, 4e10, 1e9)]
    assert counts == [6, 15, 128]
