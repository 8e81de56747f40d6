"""Profiles: defaults, what users write, and which one a batch takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliprt import ImageSpec, InvalidInput, TextSpec
from cliprt_engines import Profile, Span
from cliprt_engines._profiles import (
    check_profiles,
    default_profiles,
    greatest_batch,
    parse_profiles,
    pick_profile,
)

GIBIBYTE = 2**30
TEXT = TextSpec(
    context_length=77,
    fixed_length=False,
    pooling="end",
    cleaning="none",
    end_id=9,
    pad_id=0,
    vocabulary=10,
)
FIXED = TextSpec(
    context_length=64,
    fixed_length=True,
    pooling="last",
    cleaning="none",
    end_id=9,
    pad_id=0,
    vocabulary=10,
)


def image(side: int) -> ImageSpec:
    return ImageSpec(
        height=side,
        width=side,
        resize="squash",
        resize_height=side,
        resize_width=side,
        resample="bicubic",
        crop="none",
        convert="first",
        transparency="drop",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        rescale=1 / 255,
    )


@pytest.mark.parametrize(
    ("gibibytes", "side", "batch"),
    [(8, 224, 64), (16, 224, 128), (24, 224, 128), (80, 224, 256), (80, 384, 128), (8, 448, 64)],
)
def test_the_greatest_batch_goes_by_memory_and_pixels(
    gibibytes: int, side: int, batch: int
) -> None:
    assert greatest_batch(gibibytes * GIBIBYTE, image(side)) == batch


def test_unknown_memory_counts_as_16_gibibytes() -> None:
    assert greatest_batch(None, TEXT) == greatest_batch(16 * GIBIBYTE, TEXT) == 128


def test_pictures_have_a_wide_and_a_small_profile() -> None:
    assert [str(p) for p in default_profiles(image(224))] == ["1:64:128", "1:1:8"]


def test_texts_have_buckets_of_lengths() -> None:
    assert [str(p) for p in default_profiles(TEXT)] == [
        "1:64:128x2:77:77",
        "1:64:128x2:16:16",
        "1:64:128x2:32:32",
        "1:1:8x2:16:16",
    ]


def test_texts_of_fixed_length_have_none() -> None:
    assert [str(p) for p in default_profiles(FIXED)] == ["1:64:128", "1:1:8"]


@pytest.mark.parametrize("memory", [None, 4 * GIBIBYTE, 24 * GIBIBYTE, 141 * GIBIBYTE])
@pytest.mark.parametrize("spec", [TEXT, FIXED, image(224), image(448)])
def test_defaults_pass_their_own_check(spec: TextSpec | ImageSpec, memory: int | None) -> None:
    check_profiles(default_profiles(spec, memory), spec)


@given(batch=st.integers(1, 128), length=st.integers(2, 77))
def test_every_shape_of_the_first_profile_finds_one_that_fits(batch: int, length: int) -> None:
    profiles = default_profiles(TEXT)
    index = pick_profile(profiles, batch, length)
    assert profiles[index].fits(batch, length)
    widths = [p.batch.most * p.length.most for p in profiles if p.length and p.fits(batch, length)]
    taken = profiles[index].length
    assert taken is not None
    assert profiles[index].batch.most * taken.most == min(widths)


@pytest.mark.parametrize(
    ("batch", "length", "index"), [(1, 8, 3), (8, 16, 3), (9, 16, 1), (8, 17, 2), (1, 33, 0)]
)
def test_the_narrowest_profile_is_taken(batch: int, length: int, index: int) -> None:
    assert pick_profile(default_profiles(TEXT), batch, length) == index


@pytest.mark.parametrize(("batch", "length"), [(129, 8), (1, 78), (1, 1), (0, 8)])
def test_a_shape_beyond_all_names_them(batch: int, length: int) -> None:
    with pytest.raises(InvalidInput, match=rf"no batch of {batch} x {length} tokens.*1:64:128x2"):
        pick_profile(default_profiles(TEXT), batch, length)


def test_what_users_write_is_read_widest_first() -> None:
    assert parse_profiles("1:1:8, 64", image(224)) == (
        Profile(batch=Span(1, 64, 64)),
        Profile(batch=Span(1, 1, 8)),
    )
    assert parse_profiles("8x16,1:32:64x2:77:77", TEXT) == (
        Profile(batch=Span(1, 32, 64), length=Span(2, 77, 77)),
        Profile(batch=Span(1, 8, 8), length=Span(2, 16, 16)),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither a number nor LEAST:BEST:MOST"),
        ("1:2", "neither a number nor LEAST:BEST:MOST"),
        ("-1", "neither a number nor LEAST:BEST:MOST"),
        ("8:4:2x16", "needs 1 <= least <= best <= most"),
        ("0", "needs 1 <= least <= best <= most"),
        ("8", "lacks a length"),
        ("8x78", "has texts of 78 tokens; the tower takes at most 77"),
        ("8x1:2:3", "has texts of fewer than 2 tokens"),
        ("8x16,1x77", "the first profile must take every shape of the others"),
    ],
)
def test_nonsense_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_profiles(text, TEXT)


def test_a_length_for_pictures_is_refused() -> None:
    with pytest.raises(InvalidInput, match="has a length too many"):
        parse_profiles("8x16", image(224))


def test_shapes_put_the_length_where_the_graph_leaves_it_open() -> None:
    profile = Profile(batch=Span(1, 4, 8), length=Span(2, 16, 77))
    assert profile.shapes((None,)) == ((1, 2), (4, 16), (8, 77))
    assert Profile(batch=Span(1, 2, 4)).shapes((32, 32, 3)) == (
        (1, 32, 32, 3),
        (2, 32, 32, 3),
        (4, 32, 32, 3),
    )
