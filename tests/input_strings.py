"""Tensors of every kind that callers send to the models of files, of strings and of pairs."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace

from input_files import encoded
from input_tensors import Ask, Raw, lists_of, of_pixels, of_tokens, parameters_of, unread

from pictures import rgb

PICTURE, WORDS = encoded(rgb(70, 50, seed=3)), b"a red circle"

LYING = b"\5\0\0\0ab"
"""A string of fewer bytes than it says, which Triton 24.10 notices only with a batch around it."""

# What Triton says of an input to the model of pairs whose items are not as many as the other's.
_BATCH = "batch size does not match other inputs"


def packed(name: str, items: Sequence[bytes]) -> Raw:
    """A column of strings: each with its length before it."""
    data = b"".join(struct.pack("<I", len(item)) + item for item in items)
    return Raw(name, "BYTES", (len(items), 1), data)


def of_files(items: Sequence[bytes] = (PICTURE,), name: str = "good") -> Ask:
    """A request to the model of files."""
    return Ask(name, "clip_image_file", (packed("image", items),))


def of_strings(items: Sequence[bytes] = (WORDS,), name: str = "good") -> Ask:
    """A request to the model of strings."""
    return Ask(name, "clip_text_string", (packed("text", items),))


def paired(asked: Ask) -> Ask:
    """The same to the model of pairs, beside one good picture or string."""
    if asked.model == "clip_text_string":
        (other,), answer = of_files().inputs, "text_embedding"
    else:
        (other,), answer = of_strings().inputs, "image_embedding"
    if asked.like is not None:
        # A batch that is taken for none is another than that of the other input.
        asked = replace(asked, refused=_BATCH, like=None)
    outputs = tuple(answer if name == "embedding" else name for name in asked.outputs)
    inputs = (*asked.inputs, other)
    return replace(asked, model="clip", inputs=inputs, outputs=outputs, answer=answer)


def good_like(asked: Ask) -> Ask:
    """A good request to the same model."""
    good = [of_pixels(), of_tokens(), of_files(), of_strings()]
    good += [paired(of_files()), paired(of_strings())]
    (found,) = (one for one in good if (one.model, one.answer) == (asked.model, asked.answer))
    return found


def _of_input(model: str, good: Raw) -> Iterator[tuple[int, Ask]]:
    """Requests with another tensor in place of a good one."""
    name = good.name

    def tensor(what: str, refused: str, shape: tuple[int, ...], data: bytes = good.data) -> Ask:
        raw = Raw(name, "BYTES", shape, data)
        return Ask(what, model, (raw,), refused=refused, unread=unread("shape", *shape))

    two = packed(name, [b"a", b"b"]).data
    yield 56, tensor("no batch", "unexpected shape", (1,))
    yield 56, tensor("an axis too many", "unexpected shape", (1, 1, 1))
    yield 56, tensor("no columns", "unexpected shape", (1, 0), b"")
    yield 56, tensor("two columns", "unexpected shape", (1, 2), two)
    yield 56, tensor("no items", f"expected 1 string|{_BATCH}", (0, 1), b"")
    many = packed(name, [b"a"] * 65)
    yield 56, tensor("65 items", f"must be <= 64|{_BATCH}", many.shape, many.data)
    for datatype, size in {"INT32": 4, "FP32": 4, "UINT8": 1, "NONSENSE": 1}.items():
        raw = Raw(name, datatype, (1, 1), bytes(size))
        yield 57, Ask(f"type {datatype!r}", model, (raw,), refused="expects 'BYTES'")
    # The length that a string claims, and what follows.
    for what, data in {
        "no bytes": b"",
        "a byte": b"\1",
        "more bytes than it says": b"\1\0\0\0ab",
        "two where one is said to be": two,
    }.items():
        yield 57, tensor(what, "string elements|incomplete string", (1, 1), data)
    for what, data in {"fewer bytes than it says": LYING, "4 GiB": b"\xff" * 4}.items():
        asked = tensor(what, "incomplete string data", (1, 1), data)
        yield 57, replace(asked, alone=True)
    for what, count in {"2^60 items": 2**60, "2^32 items": 2**32}.items():
        asked = tensor(what, f"names is none|{_BATCH}", (count, 1))
        if model == "clip_text_string":
            # An ensemble of Triton 24.10 takes multiples of 2^32 for no batch, and its one string.
            asked = replace(asked, refused=None, like=of_strings())
        yield 61, asked
    yield 61, tensor("2^64 items", f"unexpected shape|{_BATCH}", (2**32, 2**32))
    yield 61, tensor("2^62 columns", "unexpected shape", (1, 2**62))
    yield 61, tensor("-1 items", f"string elements|{_BATCH}", (-1, 1))
    yield 61, tensor("-1 columns", "dimensions should be specified", (1, -1))
    yield from lists_of(model, good)
    yield from parameters_of(model, good)


STRINGS: list[tuple[int, Ask]] = [
    *_of_input("clip_image_file", *of_files().inputs),
    *_of_input("clip_text_string", *of_strings().inputs),
]
