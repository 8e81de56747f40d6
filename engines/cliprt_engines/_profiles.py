"""Optimisation profiles: for which shapes an engine is built, and which one a batch takes.

The first profile of an engine takes every shape that the engine takes at all: a Triton that is told
nothing uses only that one. The others are narrower and faster where they fit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from cliprt._card import ImageSpec, TextSpec
from cliprt._errors import InvalidInput

_MOST = 2**31 - 1

LEAST_LENGTH = 2
"""A text has a start and an end token."""

_BUCKETS = (16, 32)
"""Lengths of text that get profiles of their own: captions of ten words, and of twenty."""

_SMALL_BATCH = 8
_GIBIBYTE = 2**30
# Greatest batch by the least memory of the GPU: a batch of 256 pictures of 224 pixels takes about
# 2 GiB in the widest published tower, and two towers and several contexts share the GPU.
_BATCHES = ((40 * _GIBIBYTE, 256), (14 * _GIBIBYTE, 128), (0, 64))
_PIXELS = 224 * 224


class Span(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """The sizes of one dimension.

    Attributes:
        least: smallest that is taken.
        best: what the engine is tuned for.
        most: greatest that is taken.
    """

    least: int
    best: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.best <= self.most <= _MOST:
            raise ValueError(f"a span needs 1 <= least <= best <= most < 2^31, got {self}")

    def __str__(self) -> str:
        return f"{self.least}:{self.best}:{self.most}"

    def __contains__(self, size: int) -> bool:
        return self.least <= size <= self.most


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Shapes of the input that an engine takes and is tuned for.

    Attributes:
        batch: items.
        length: tokens of a text; None where the tower's length cannot change, as for pictures.
    """

    batch: Span
    length: Span | None = None

    def __str__(self) -> str:
        return f"{self.batch}" if self.length is None else f"{self.batch}x{self.length}"

    def fits(self, batch: int, length: int | None) -> bool:
        """Whether it takes a batch of that shape."""
        return batch in self.batch and (
            self.length is None or (length is not None and length in self.length)
        )

    def contains(self, other: Profile) -> bool:
        """Whether it takes every shape that another one takes."""
        if (self.length is None) != (other.length is None):
            return False
        pairs = [(self.batch, other.batch)]
        if self.length is not None and other.length is not None:
            pairs.append((self.length, other.length))
        return all(one.least <= two.least and two.most <= one.most for one, two in pairs)

    def shapes(
        self, shape: Sequence[int | None]
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """The least, the best and the greatest shape of the input.

        Args:
            shape: of the input without the batch; None where the length goes.
        """

        def filled(which: str) -> tuple[int, ...]:
            length = 0 if self.length is None else getattr(self.length, which)
            sizes = tuple(length if size is None else size for size in shape)
            return (getattr(self.batch, which), *sizes)

        return filled("least"), filled("best"), filled("most")


def pick_profile(profiles: Sequence[Profile], batch: int, length: int | None = None) -> int:
    """Number of the narrowest profile that takes a batch.

    Args:
        profiles: an engine's.
        batch: items.
        length: tokens of each; None for towers whose length cannot change.

    Raises:
        InvalidInput: none takes it.
    """
    fitting = [index for index, profile in enumerate(profiles) if profile.fits(batch, length)]
    if not fitting:
        shape = f"{batch}" if length is None else f"{batch} x {length} tokens"
        known = ", ".join(map(str, profiles))
        raise InvalidInput(
            f"the engine takes no batch of {shape}; its profiles are {known} "
            "(least:best:most of the batch, x of the length). Use a smaller batch, or build it "
            "with --profiles"
        )
    return min(fitting, key=lambda index: _width(profiles[index]))


def _width(profile: Profile) -> int:
    return profile.batch.most * (1 if profile.length is None else profile.length.most)


def greatest_batch(memory_bytes: int | None, spec: ImageSpec | TextSpec) -> int:
    """The greatest batch that engines are built for unless options say otherwise.

    Args:
        memory_bytes: of the GPU; None where it is not known, which counts as 16 GiB.
        spec: of the tower; pictures of more pixels come in smaller batches.
    """
    known = 16 * _GIBIBYTE if memory_bytes is None else memory_bytes
    batch = next(batch for least, batch in _BATCHES if known >= least)
    if isinstance(spec, ImageSpec):
        while batch > _SMALL_BATCH and batch * spec.height * spec.width > 256 * 2 * _PIXELS:
            batch //= 2
    return batch


def default_profiles(
    spec: ImageSpec | TextSpec, memory_bytes: int | None = None
) -> tuple[Profile, ...]:
    """The profiles of a tower unless options say otherwise.

    Pictures: any batch, tuned for half of the greatest; and batches of up to 8, tuned for one.
    Texts: any batch of any length; any batch of each bucket of lengths; and up to 8 short ones.

    Args:
        spec: of the tower.
        memory_bytes: of the GPU; None where it is not known.
    """
    most = greatest_batch(memory_bytes, spec)
    every, few = Span(1, max(most // 2, 1), most), Span(1, 1, min(_SMALL_BATCH, most))
    if isinstance(spec, ImageSpec) or spec.fixed_length:
        return (Profile(batch=every), Profile(batch=few))
    context = spec.context_length
    buckets = [length for length in _BUCKETS if length < context]
    lengths = [Span(LEAST_LENGTH, length, length) for length in (context, *buckets)]
    shortest = lengths[1] if buckets else lengths[0]
    return (
        *(Profile(batch=every, length=length) for length in lengths),
        Profile(batch=few, length=shortest),
    )


def parse_profiles(text: str, spec: ImageSpec | TextSpec) -> tuple[Profile, ...]:
    """Reads profiles such as ``1:32:64,1:1:8`` or ``1:32:64x2:16:16,1:32:64x2:77:77``.

    Each is LEAST:BEST:MOST of the batch, and for texts of changing length x and the same of the
    length. A single number N stands for 1:N:N, or 2:N:N as a length. The widest is put first.

    Raises:
        InvalidInput: the text is none of that, or fits another tower.
    """
    changing = isinstance(spec, TextSpec) and not spec.fixed_length
    profiles = [_parse_profile(part.strip(), changing) for part in text.split(",")]
    profiles.sort(key=_width, reverse=True)
    check_profiles(profiles, spec)
    return tuple(profiles)


def check_profiles(profiles: Sequence[Profile], spec: ImageSpec | TextSpec) -> None:
    """Refuses profiles that do not fit a tower, or of which none takes what the others take.

    Raises:
        InvalidInput: they do not fit.
    """
    if not profiles:
        raise InvalidInput("an engine needs at least one profile")
    changing = isinstance(spec, TextSpec) and not spec.fixed_length
    first = profiles[0]
    for profile in profiles:
        if (profile.length is not None) != changing:
            raise InvalidInput(
                f"the profile {profile} "
                + ("lacks a length: write BATCHxLENGTH" if changing else "has a length too many")
            )
        if profile.length is not None and isinstance(spec, TextSpec):
            if profile.length.most > spec.context_length:
                raise InvalidInput(
                    f"the profile {profile} has texts of {profile.length.most} tokens; the tower "
                    f"takes at most {spec.context_length}"
                )
            if profile.length.least < LEAST_LENGTH:
                raise InvalidInput(f"the profile {profile} has texts of fewer than 2 tokens")
        if not first.contains(profile):
            raise InvalidInput(
                f"the first profile must take every shape of the others; {first} does not take "
                f"all of {profile}"
            )


def _parse_profile(text: str, changing: bool) -> Profile:
    batch, cross, length = text.partition("x")
    spans = [_parse_span(batch, 1)] + ([_parse_span(length, LEAST_LENGTH)] if cross else [])
    if changing and not cross:
        raise InvalidInput(f"the profile {text!r} lacks a length: write BATCHxLENGTH")
    return Profile(batch=spans[0], length=spans[1] if cross else None)


def _parse_span(text: str, least: int) -> Span:
    if not re.fullmatch(r"[0-9]{1,6}(:[0-9]{1,6}:[0-9]{1,6})?", text):
        raise InvalidInput(f"{text!r} is neither a number nor LEAST:BEST:MOST")
    sizes = [int(size) for size in text.split(":")]
    if len(sizes) == 1:
        sizes = [min(least, sizes[0]), sizes[0], sizes[0]]
    try:
        return Span(*sizes)
    except ValueError as error:
        raise InvalidInput(str(error)) from None
