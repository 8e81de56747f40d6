"""The promises of the targets, for inputs that hypothesis draws: always the same ones."""

from __future__ import annotations

import random
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from fuzz.harness import check, seeds
from fuzz.inputs import LIMITS, spec_of, tokenizers
from fuzz.mutation import raw_changes
from fuzz.targets import TARGETS
from hypothesis import given, settings
from hypothesis import strategies as st

from cliprt import Bundle
from cliprt._images import preprocess
from cliprt_engines import OnnxTower
from pictures import in_mode

EXAMPLES = settings(max_examples=50, derandomize=True, database=None)


@pytest.mark.parametrize("name", sorted(TARGETS))
@EXAMPLES
@given(drawn=st.integers(0, 2**32), steps=st.integers(1, 4))
def test_a_changed_input_keeps_the_promise(name: str, drawn: int, steps: int) -> None:
    tested, rng = TARGETS[name], random.Random(drawn)
    data = rng.choice(seeds(tested)).read_bytes()
    for _ in range(steps):
        data = tested.mutate(data, rng, raw_changes(rng))[: tested.most]
    check(tested, data)


@pytest.mark.parametrize("name", sorted(TARGETS))
@EXAMPLES
@given(data=st.binary(max_size=200))
def test_any_bytes_keep_the_promise(name: str, data: bytes) -> None:
    check(TARGETS[name], data)


FORMATS: dict[str, tuple[tuple[str, ...], dict[str, st.SearchStrategy[Any]]]] = {
    "JPEG": (
        ("L", "RGB", "CMYK"),
        {
            "quality": st.integers(1, 100),
            "progressive": st.booleans(),
            "subsampling": st.integers(0, 2),
        },
    ),
    "PNG": (
        ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        {"compress_level": st.integers(0, 9), "transparency": st.just(3)},
    ),
    "GIF": (("1", "L", "P", "RGB"), {"interlace": st.booleans()}),
    "WEBP": (("RGB", "RGBA"), {"lossless": st.booleans(), "quality": st.integers(0, 100)}),
    "BMP": (("1", "L", "P", "RGB"), {}),
}


@st.composite
def encoded(draw: st.DrawFn) -> bytes:
    """A file of any format that is decoded, of a mode that the format has."""
    kind = draw(st.sampled_from(sorted(FORMATS)))
    modes, options = FORMATS[kind]
    mode = draw(st.sampled_from(modes))
    chosen = {name: draw(values) for name, values in options.items() if draw(st.booleans())}
    if mode not in ("L", "P"):
        chosen.pop("transparency", None)
    width, height = draw(st.integers(1, 90)), draw(st.integers(1, 61))
    out = BytesIO()
    in_mode(mode).crop((0, 0, width, height)).save(out, kind, **chosen)
    return out.getvalue()


@EXAMPLES
@given(encoded())
def test_a_picture_is_accepted_with_the_pixels_of_plain_calls(data: bytes) -> None:
    if spec_of(data).resize != "none":
        assert preprocess(data, spec_of(data), LIMITS).dtype == np.uint8
    check(TARGETS["picture"], data)


@EXAMPLES
@given(encoded(), st.floats(0, 0.99))
def test_a_picture_that_is_cut_off_keeps_the_promise(data: bytes, part: float) -> None:
    check(TARGETS["picture"], data[: int(part * len(data))])


@EXAMPLES
@given(st.lists(st.text(st.characters(), max_size=60), min_size=1, max_size=4))
def test_texts_of_any_letters_keep_the_promise(texts: list[str]) -> None:
    check(TARGETS["text"], "\x1e".join(texts).encode("utf-8", "surrogatepass"))


LETTERS = st.characters(exclude_categories=["Cs"])


@EXAMPLES
@given(st.lists(st.text(LETTERS, max_size=300), min_size=1, max_size=8), st.randoms())
def test_ids_do_not_depend_on_the_order(texts: list[str], rng: random.Random) -> None:
    order = list(range(len(texts)))
    rng.shuffle(order)
    for tokenizer in tokenizers().values():
        found = tokenizer(texts)
        assert tokenizer([texts[place] for place in order]) == [found[place] for place in order]


@pytest.fixture(scope="module")
def towers(small_bundle: Bundle) -> dict[str, OnnxTower]:
    return {
        tower: OnnxTower(small_bundle.file(f"{tower}.fp32.onnx"), threads=1)
        for tower in ("image", "text")
    }


@EXAMPLES
@given(data=st.data())
def test_any_tensor_of_the_right_form_has_unit_vectors_alone_and_among_others(
    towers: dict[str, OnnxTower], data: st.DataObject
) -> None:
    rows, drawn = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 2**32))
    rng = np.random.default_rng(drawn)
    if data.draw(st.booleans()):
        tower, batch = towers["image"], rng.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
        # Pictures of one colour are what normalisations divide by zero at.
        batch[rng.random(rows) < 0.5] = data.draw(st.sampled_from([0, 1, 127, 255]))
    else:
        length = data.draw(st.integers(2, 77))
        tower, batch = towers["text"], rng.integers(0, 49408, (rows, length), dtype=np.int32)
        # Rows without an end, with several, and of nothing else.
        batch[rng.random(batch.shape) < data.draw(st.sampled_from([0, 0.1, 1]))] = 49407
    found = tower.run(batch)
    assert (found.dtype, found.shape) == (np.float32, (rows, 24))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(tower.run(batch), found)
    for row in range(rows):
        np.testing.assert_allclose(tower.run(batch[row : row + 1])[0], found[row], atol=1e-5)
