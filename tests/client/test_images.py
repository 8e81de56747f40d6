"""Pixels equal those of transformers' CLIPImageProcessor (Pillow backend), bit for bit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from bad_pictures import BAD, TOO_LARGE, jpeg, spec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cliprt import ImageSpec, ImageTooLarge, InvalidInput, Limits, _images
from cliprt._images import preprocess
from pictures import SIZES, file_cases, in_mode, pil_cases, pixels, rgb

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "pixels.json").read_text())
LIMITS = Limits()


CASES = [*pil_cases(), *file_cases()]


@pytest.mark.parametrize(("name", "image"), CASES, ids=[name for name, _ in CASES])
def test_pixels_equal_the_reference(name: str, image: Image.Image | bytes) -> None:
    found = preprocess(image, spec(), LIMITS)
    assert found.shape == (64, 64, 3)
    assert hashlib.sha256(found.tobytes()).hexdigest() == GOLDEN[name]


def test_the_golden_file_covers_at_least_sixty_pictures() -> None:
    assert len(CASES) >= 60
    assert {name for name, _ in CASES} == set(GOLDEN)


def test_every_way_in_gives_the_same_pixels(tmp_path: Path) -> None:
    image = rgb(90, 70)
    buffer = BytesIO()
    image.save(buffer, "PNG")
    path = tmp_path / "picture.png"
    path.write_bytes(buffer.getvalue())
    array = np.asarray(image)
    strided = np.repeat(np.repeat(array, 2, axis=0), 2, axis=1)[::2, ::2]
    ways = [
        image,
        buffer.getvalue(),
        bytearray(buffer.getvalue()),
        memoryview(buffer.getvalue()),
        str(path),
        path,
        array,
        strided,
        array[::-1][::-1],
    ]
    found = [preprocess(way, spec(), LIMITS) for way in ways]
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_the_callers_image_is_left_alone() -> None:
    image = in_mode("RGBA")
    before = image.tobytes()
    preprocess(image, spec(), LIMITS)
    assert (image.mode, image.tobytes()) == ("RGBA", before)


@given(width=st.integers(1, 300), height=st.integers(1, 300), side=st.integers(1, 80))
@settings(max_examples=60)
def test_shape_is_always_the_towers(width: int, height: int, side: int) -> None:
    limits = Limits(max_image_aspect_ratio=300)
    assert preprocess(pixels(width, height), spec(side), limits).shape == (side, side, 3)


def test_squash_ignores_the_aspect_ratio() -> None:
    found = preprocess(rgb(100, 40), spec(resize="squash", crop="none"), LIMITS)
    expected = rgb(100, 40).resize((64, 64), Image.Resampling.BICUBIC)
    assert np.array_equal(found, np.asarray(expected))


def test_a_crop_larger_than_the_picture_pads_with_black() -> None:
    found = preprocess(rgb(10, 13), spec(resize="none"), LIMITS)
    assert np.array_equal(found[26:39, 27:37], np.asarray(rgb(10, 13)))
    assert found[:26].max() == found[:, :27].max() == found[:, 37:].max() == 0


# OpenAI's and OpenCLIP's way.
LAST = {"convert": "last", "transparency": "drop", "crop": "round"}


def test_converted_last_a_picture_is_resized_in_its_own_mode() -> None:
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "HSV", "I", "F", "I;16"):
        image = in_mode(mode)
        expected = image.resize((94, 64), Image.Resampling.BICUBIC).crop((15, 0, 79, 64))
        found = preprocess(image, spec(**LAST), LIMITS)
        assert np.array_equal(found, np.asarray(expected.convert("RGB"))), mode


def test_palettes_are_resized_by_the_nearest_pixel_if_converted_last() -> None:
    image = in_mode("P")
    found = preprocess(image, spec(**LAST), LIMITS)
    nearest = image.convert("RGB").resize((94, 64), Image.Resampling.NEAREST).crop((15, 0, 79, 64))
    assert np.array_equal(found, np.asarray(nearest))


def test_dropped_transparency_shows_the_colour_behind_it() -> None:
    image = Image.new("RGBA", (64, 64), (200, 10, 30, 0))
    assert preprocess(image, spec(), LIMITS).min() == 255
    dropped = preprocess(image, spec(transparency="drop"), LIMITS)
    assert np.unique(dropped.reshape(-1, 3), axis=0).tolist() == [[200, 10, 30]]


@pytest.mark.parametrize("transparency", [3, bytes(range(64))])
def test_transparent_palettes_are_dropped_in_silence(transparency: int | bytes) -> None:
    image = in_mode("P")
    plain = preprocess(image, spec(**LAST), LIMITS)
    image.info["transparency"] = transparency
    assert np.array_equal(preprocess(image, spec(**LAST), LIMITS), plain)
    assert image.info["transparency"] == transparency


@pytest.mark.parametrize(
    ("crop", "surplus", "corner"),
    [
        ("floor", 1, 0), ("round", 1, 0), ("floor", 3, 1), ("round", 3, 2), ("round", 5, 2),
        ("round", 4, 2), ("floor", -1, -1), ("round", -1, 0), ("floor", -3, -2), ("round", -3, -1),
    ],
)  # fmt: skip
def test_half_a_pixel_at_the_crops_corner(crop: str, surplus: int, corner: int) -> None:
    side = 20
    image = rgb(side + surplus, side)
    found = preprocess(image, spec(side, resize="none", crop=crop), LIMITS)
    expected = image.crop((corner, 0, corner + side, side))
    assert np.array_equal(found, np.asarray(expected))


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((100, 100), (60, 60)),
        ((300, 40), (300, 40)),
        ((33, 200), (60, 364)),
        ((61, 41), (60, 40)),
        ((75, 40), (75, 40)),
        ((101, 67), (60, 40)),
    ],
)
def test_a_picture_covers_a_target_that_is_not_square(
    size: tuple[int, int], resized: tuple[int, int]
) -> None:
    changes = {"height": 40, "width": 60, "resize_height": 40, "resize_width": 60}
    found = preprocess(rgb(*size), spec(resize="cover", **LAST, **changes), LIMITS)
    image = rgb(*size).resize(resized, Image.Resampling.BICUBIC)
    left, top = round((resized[0] - 60) / 2), round((resized[1] - 40) / 2)
    assert np.array_equal(found, np.asarray(image.crop((left, top, left + 60, top + 40))))


@pytest.mark.parametrize(("value", "text"), BAD.values(), ids=BAD)
def test_what_is_no_image_is_refused(value: object, text: str) -> None:
    with pytest.raises(InvalidInput, match=text) as caught:
        preprocess(value, spec(), LIMITS)  # type: ignore[arg-type]
    # Pillow's own text holds the address of an object.
    assert "0x" not in str(caught.value)


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInput, match="not a regular file"):
        preprocess(tmp_path / "pipe", spec(), LIMITS)


def test_a_closed_image_is_refused() -> None:
    image = Image.open(BytesIO(jpeg(rgb(20, 20))))
    image.close()
    with pytest.raises(InvalidInput, match="truncated, damaged or closed"):
        preprocess(image, spec(), LIMITS)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("value", "limit"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_what_is_too_large_names_the_limit(value: object, limit: str) -> None:
    with pytest.raises(ImageTooLarge, match=limit):
        preprocess(value, spec(), LIMITS)  # type: ignore[arg-type]


def test_a_large_file_is_refused_by_its_size_alone(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    with path.open("wb") as file:
        file.truncate(40 * 2**20)
    with pytest.raises(ImageTooLarge, match="max_image_bytes"):
        preprocess(path, spec(), LIMITS)


@given(data=st.binary(max_size=400))
@settings(max_examples=200)
def test_no_bytes_crash_the_decoder(data: bytes) -> None:
    for prefix in (b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF", b"BM"):
        with contextlib.suppress(InvalidInput):
            preprocess(prefix + data, spec(8), Limits(max_image_pixels=10**6))


def plain_pixels(image: Image.Image, card: ImageSpec, size: tuple[int, int]) -> np.ndarray:
    """What Pillow's own resize and crop give, one whole step after the other."""
    if card.convert == "first":
        image = image.convert("RGB")
    image = image.resize(size, Image.Resampling[card.resample.upper()])
    if card.crop != "none":
        left, top = (size[0] - card.width) / 2, (size[1] - card.height) / 2
        corner = (
            (math.floor(left), math.floor(top))
            if card.crop == "floor"
            else tuple(-math.floor(-v) if v < 0 else round(v) for v in (left, top))
        )
        image = image.crop((*corner, corner[0] + card.width, corner[1] + card.height))
    return np.asarray(image.convert("RGB"))


@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    target=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    crop=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    resample=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]),
    mode=st.sampled_from(["RGB", "RGB", "L", "CMYK", "LA", "RGBA", "P", "1", "YCbCr", "F"]),
    convert=st.sampled_from(["first", "last"]),
    corner=st.sampled_from(["floor", "round"]),
    way=st.sampled_from(["shortest", "squash", "cover"]),
)
# Sizes at which Pillow 13 begins with the columns, and their neighbours at which it does not.
@example(2, 5, (1, 1), (1, 1), "bilinear", "RGB", "first", "floor", "shortest")
@example(300, 700, (60, 60), (60, 60), "bicubic", "RGB", "first", "floor", "shortest")
@example(300, 600, (60, 60), (60, 60), "bicubic", "RGB", "first", "floor", "shortest")
@example(300, 601, (60, 60), (60, 60), "bicubic", "RGB", "first", "floor", "shortest")
@example(40, 700, (60, 60), (50, 60), "lanczos", "RGB", "first", "round", "squash")
@settings(max_examples=300)
def test_only_what_the_crop_keeps_is_computed_and_nothing_else_changes(
    width: int, height: int, target: tuple[int, int], crop: tuple[int, int], resample: str,
    mode: str, convert: str, corner: str, way: str,
) -> None:  # fmt: skip
    if way == "shortest":
        target = (target[0], target[0])
        size = (target[0], int(target[0] * height / width))
        if width > height:
            size = (int(target[0] * width / height), target[0])
    elif way == "squash":
        size = target
    else:
        ratio = min(width / target[0], height / target[1])
        size = round(width / ratio), round(height / ratio)
    card = spec(
        resize=way, resize_width=target[0], resize_height=target[1], width=crop[0], height=crop[1],
        crop=corner, resample=resample, convert=convert, transparency="drop",
    )  # fmt: skip
    image = rgb(width, height, seed=width + height).convert(mode)
    found = preprocess(image, card, Limits(max_image_aspect_ratio=1000))
    assert np.array_equal(found, plain_pixels(image, card, size))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_usual_spec_equals_plain_calls_at_every_size(size: tuple[int, int]) -> None:
    image = rgb(*size)
    width, height = size
    longest = int(224 * max(size) / min(size))
    resized = (224, longest) if width <= height else (longest, 224)
    found = preprocess(image, spec(224), Limits(max_image_aspect_ratio=200))
    assert np.array_equal(found, plain_pixels(image, spec(224), resized))


def scaled(size: tuple[int, int], card: ImageSpec, **options: object) -> np.ndarray:
    return preprocess(jpeg(rgb(*size), **options), card, LIMITS, fast_jpeg=True)


@pytest.mark.parametrize(
    ("size", "scale"),
    [((255, 600), 1), ((256, 600), 2), ((600, 511), 2), ((600, 512), 4), ((1023, 1400), 4),
     ((1024, 1400), 8), ((3000, 3001), 8)],
)  # fmt: skip
def test_large_jpegs_are_decoded_at_a_part_of_their_size_on_request(
    size: tuple[int, int], scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[tuple[int, int]] = []
    real = _images.resize_and_crop

    def spy(image: Image.Image, *rest: object) -> Image.Image:
        decoded.append(image.size)
        return real(image, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(_images, "resize_and_crop", spy)
    assert scaled(size, spec(64)).shape == (64, 64, 3)
    preprocess(jpeg(rgb(*size)), spec(64), LIMITS)
    assert decoded == [tuple(-(-side // scale) for side in size), size]
    assert min(decoded[0]) >= (64 * _images.FAST_JPEG_MARGIN if scale > 1 else 1)


@pytest.mark.parametrize("size", [(801, 603), (603, 801), (1000, 300), (130, 1201)])
@pytest.mark.parametrize(
    "changes",
    [{}, {"convert": "last", "crop": "round"}, {"resize": "squash", "crop": "none"},
     {"resize": "cover", "resize_width": 48}, {"resample": "bilinear"}],
    ids=str,
)  # fmt: skip
def test_a_scaled_decode_shows_the_same_picture(
    size: tuple[int, int], changes: dict[str, object]
) -> None:
    # Waves without sharp edges: a shift by a tenth of a pixel of the result would show.
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    waves = [np.sin(x / (17 + k) * 0.7 + k) + np.cos(y / (23 - k) * 0.6) for k in range(3)]
    data = jpeg(Image.fromarray((np.stack(waves, -1) * 55 + 128).astype(np.uint8)), quality=98)
    card = spec(64, **changes)
    exact = preprocess(data, card, LIMITS).astype(int)
    fast = preprocess(data, card, LIMITS, fast_jpeg=True).astype(int)
    assert np.abs(exact - fast).mean() < 1
    assert np.abs(exact - fast).max() <= 8


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_scaled_decode_takes_every_kind_of_jpeg(mode: str) -> None:
    image = Image.fromarray(pixels(40, 30)).resize((800, 600)).convert(mode)
    exact = preprocess(jpeg(image), spec(64), LIMITS).astype(int)
    fast = preprocess(jpeg(image), spec(64), LIMITS, fast_jpeg=True).astype(int)
    assert 0 < np.abs(exact - fast).mean() < 2


def test_a_scaled_decode_touches_nothing_but_jpeg_files() -> None:
    image = rgb(800, 600)
    buffer = BytesIO()
    image.save(buffer, "PNG")
    lazy = Image.open(BytesIO(jpeg(image)))
    for given_image in (image, np.asarray(image), buffer.getvalue(), lazy):
        fast = preprocess(given_image, spec(64), LIMITS, fast_jpeg=True)
        assert np.array_equal(fast, preprocess(given_image, spec(64), LIMITS))
    assert lazy.size == (800, 600)
    card = spec(64, resize="none")
    assert np.array_equal(scaled((800, 600), card), preprocess(jpeg(image), card, LIMITS))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "value", [v for v, _ in [*BAD.values(), *TOO_LARGE.values()]], ids=[*BAD, *TOO_LARGE]
)
def test_a_scaled_decode_refuses_with_the_same_words(value: object) -> None:
    with pytest.raises(InvalidInput) as exact:
        preprocess(value, spec(8), LIMITS)  # type: ignore[arg-type]
    with pytest.raises(type(exact.value)) as fast:
        preprocess(value, spec(8), LIMITS, fast_jpeg=True)  # type: ignore[arg-type]
    assert str(fast.value) == str(exact.value)


def test_limits_hold_for_the_size_before_a_scaled_decode() -> None:
    with pytest.raises(ImageTooLarge, match="800 x 600"):
        preprocess(jpeg(rgb(800, 600)), spec(64), Limits(max_image_pixels=400_000), fast_jpeg=True)
