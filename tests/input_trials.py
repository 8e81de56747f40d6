"""Each bad input against each way in: what is tried, and where it cannot be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from input_calls import CALLS
from input_files import FILES, File
from input_objects import OBJECTS, Object
from input_strings import STRINGS, good_like, paired
from input_tensors import TENSORS, Ask
from input_texts import TEXTS, Text
from input_world import (
    ENSEMBLES,
    GOOD_TEXTS,
    ONLINE,
    PAIRS,
    PYTHON,
    SAME,
    TOWERS,
    WAYS,
    Job,
    World,
    plain_words,
    refused,
)
from ways import Unread

from cliprt import InvalidInput


@dataclass(frozen=True)
class Trial:
    """One input and one way in.

    Attributes:
        number: of the kind of input, 1 to 64.
        name: of the input.
        way: the way in.
        run: tries it; AssertionError where the answer is not as promised.
    """

    number: int
    name: str
    way: str
    run: Callable[[World], None]

    @property
    def id(self) -> str:
        return f"{self.number:02d} {self.name}, {self.way}"


# Where a kind of input cannot be given to a way in, and why; or which test holds it there.
_FILES, _TEXTS = "towers take pixels, not files", "towers take tokens, not strings"
_OBJECTS = "only Python's callers have objects and paths; others send the bytes of a file"
_TENSORS = "takes files and strings, no tensors"
_NUMBERS = "files and strings are bytes, no numbers"
_CALLS = "belongs to the objects that Python's callers hold"
_WIRE = "concerns the protocols of the server; Python's callers make no such requests"
_SAME_WIRE = "tried on another way in by the same protocol and the same server"

FILE_NUMBERS = {*range(1, 28), 35}
OBJECT_NUMBERS = {28, 29, 31, 32, 33, 34}
TEXT_NUMBERS = {36, 38, 39, 40, 42, 43, 44, 45, 46, 48}
TENSOR_NUMBERS = {56, 57, 58, 59, 60, 61, 64}
STRING_NUMBERS = {56, 57, 61, 64}
_OFF_THE_WIRE = dict.fromkeys((*PYTHON, "batch"), _WIRE)


def _but(*tried: str, why: str) -> dict[str, str]:
    """The same reason for all ways in but those on which it is tried."""
    return {way: why for way in WAYS if way not in tried}


# By number: ways that the table leaves out, with the reason.
_BY_NUMBER: dict[int, dict[str, str]] = {
    28: {"batch": "tests/batch/test_embed_hostile.py::test_what_is_no_file"},
    29: {"batch": "tests/batch/test_addresses.py::test_nothing_is_fetched_from_the_web",
         "OpenAI": "tests/triton_models/test_front_hostile.py::"
         "test_addresses_and_paths_are_texts_like_any_other"},
    30: _but("OpenAI", why="takes bytes, no base64"),
    37: dict.fromkeys((*ENSEMBLES, PAIRS, *TOWERS), "strings of the protocol are bytes: see 47"),
    41: _but("LocalClip", "ensemble gRPC", why="has the tokenizer of one of these two"),
    47: dict.fromkeys(TOWERS, _TEXTS),
    49: {"batch": "tests/batch/test_source.py::test_an_empty_standard_input_is_refused"}
        | dict.fromkeys(TOWERS, "see 56"),
    50: dict.fromkeys(TOWERS, "see 56"),
    51: {"batch": "every picture of this suite is one bad item among good ones of a batch job"}
        | dict.fromkeys(TOWERS, "a request has no items that could be bad alone: see 59"),
    52: dict.fromkeys(TOWERS, "takes one array, in which rows may be equal"),
    53: {"LocalClip": "is given a bundle, not a name", "batch": "asks through Client"}
        | dict.fromkeys((PAIRS, *TOWERS), _SAME_WIRE),
    54: {"LocalClip": "names no deadline", "batch": "asks through Client",
         "OpenAI": "names no deadline", "ensemble HTTP": "names no deadline",
         "tower HTTP": "names no deadline", PAIRS: _SAME_WIRE, "tower gRPC": _SAME_WIRE},
    55: _but(*PYTHON, why=_CALLS),
    62: _OFF_THE_WIRE | dict.fromkeys((*ENSEMBLES, PAIRS), _SAME_WIRE),
    63: _OFF_THE_WIRE | dict.fromkeys((*ENSEMBLES, PAIRS), _SAME_WIRE),
}  # fmt: skip


def not_tried(number: int, way: str) -> str:
    """Why there is no trial of a kind of input on a way in; empty where there should be one."""
    if reason := _BY_NUMBER.get(number, {}).get(way):
        return reason
    if number in FILE_NUMBERS and way in TOWERS:
        return _FILES
    if number in TEXT_NUMBERS and way in TOWERS:
        return _TEXTS
    if number in OBJECT_NUMBERS and way not in PYTHON:
        return _OBJECTS
    if number in TENSOR_NUMBERS and way in (*PYTHON, "OpenAI", "batch"):
        return _TENSORS
    if number in TENSOR_NUMBERS - STRING_NUMBERS and way in (*ENSEMBLES, PAIRS):
        return _NUMBERS
    return ""


def _of_file(file: File, way: str) -> Callable[[World], None]:
    def run(world: World) -> None:
        first, last = world.files
        batch, call = [first, file.data, last], world.ways[way].images
        if file.refused is not None:
            refused(lambda: call(batch), file.refused, way)
            world.check_neighbours(way, "images", file.data)
            return
        right = world.reference.encode_image([file.like])
        _check_among(world.good_images, call(batch), right)

    return run


def _of_text(text: Text, way: str) -> Callable[[World], None]:
    def run(world: World) -> None:
        first, last = GOOD_TEXTS
        batch, call = [first, text.value, last], world.ways[way].texts
        if text.refused is not None:
            refused(lambda: call(batch), text.refused, way)
            world.check_neighbours(way, "texts", text.value)
            return
        _check_among(world.good_texts, call(batch), _right_of(text, world))

    return run


def _right_of(text: Text, world: World) -> Any:
    """The embedding of a text that is taken."""
    return world.reference.encode_text([text.value if text.like is None else text.like])


def _check_among(good: Any, found: Any, right: Any) -> None:
    """That an item and the good ones on either side of it are answered rightly."""
    both = np.concatenate([good[:1], right, good[1:]])
    np.testing.assert_allclose(found, both, atol=SAME)


def _of_object(given: Object, way: str) -> Callable[[World], None]:
    def run(world: World) -> None:
        folder = world.new_folder()
        call = world.ways[way].images
        if given.refused is not None:
            first, last = world.files
            refused(lambda: call([first, given.make(folder), last]), given.refused, way)
            world.check_neighbours(way, "images", given.make(world.new_folder()))
            return
        assert given.like is not None
        found, right = call([given.make(folder)]), call([given.like()])
        # The same pixels in a batch of the same size: the same bits.
        assert np.array_equal(found, right)

    return run


def _of_file_in_job(file: File, place: int) -> Callable[[World], None]:
    def run(world: World) -> None:
        def right() -> Any:
            return world.reference.encode_image([file.like])

        _check_row(world.picture_job, place, file.refused, right, world.good_images)

    return run


def _of_text_in_job(text: Text, place: int) -> Callable[[World], None]:
    def run(world: World) -> None:
        def right() -> Any:
            return _right_of(text, world)

        _check_row(world.text_job, place, text.refused, right, world.good_texts)

    return run


def _check_row(
    job: Job, place: int, words: str | None, right: Callable[[], Any], good: Any
) -> None:
    """That a row was refused in these words, or embedded rightly, and so those beside it."""
    row = 3 * place + 1
    if words is not None:
        assert re.search(words, job.reasons[row]), job.reasons[row]
        plain_words(job.reasons[row], "batch")
    else:
        (expected,) = right()
        np.testing.assert_allclose(job.embeddings[row], expected, atol=SAME)
    beside = [job.embeddings[row - 1], job.embeddings[row + 1]]
    np.testing.assert_allclose(beside, good, atol=SAME)


def _of_tensors(asked: Ask, way: str) -> Callable[[World], None]:
    said, error = asked.refused, InvalidInput
    if way.endswith("HTTP") and asked.unread:
        said, error = asked.unread, Unread
    elif way.endswith("HTTP") and asked.http is not None:
        said = asked.http

    def run(world: World) -> None:
        if asked.alone:
            (found,) = world.at_once([lambda: world.send(way, asked)])
        else:
            good = good_like(asked)
            right = world.right_of(good)
            # Together, so that they may meet in a batch of the server.
            calls = [lambda one=one: world.send(way, one) for one in (good, asked, good)]
            first, found, last = world.at_once(calls)
            assert not isinstance(first, Exception), first
            assert not isinstance(last, Exception), last
            np.testing.assert_allclose(np.concatenate([first, last]), [*right, *right], atol=SAME)
        if said is not None:
            assert type(found) is error, found
            assert re.search(said, str(found)), found
            plain_words(str(found), way)
            return
        assert isinstance(found, np.ndarray), found
        # Of a shape without a batch there comes one row.
        found = np.atleast_2d(found)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-3)
        if asked.like is not None:
            np.testing.assert_allclose(found, world.send(way, asked.like), atol=SAME)

    return run


def _trials() -> Iterator[Trial]:
    for place, (number, file) in enumerate(FILES):
        for way in ONLINE:
            yield Trial(number, file.name, way, _of_file(file, way))
        yield Trial(number, file.name, "batch", _of_file_in_job(file, place))
    for number, given in OBJECTS:
        for way in PYTHON:
            yield Trial(number, given.name, way, _of_object(given, way))
    for place, (number, text) in enumerate(TEXTS):
        for way in ONLINE:
            yield Trial(number, text.name, way, _of_text(text, way))
        yield Trial(number, text.name, "batch", _of_text_in_job(text, place))
    for number, asked in TENSORS:
        for way in TOWERS:
            yield Trial(number, asked.name, way, _of_tensors(asked, way))
    for number, asked in STRINGS:
        name = f"{asked.name} to {asked.model}"
        for way in ENSEMBLES:
            yield Trial(number, name, way, _of_tensors(asked, way))
        yield Trial(number, name, PAIRS, _of_tensors(paired(asked), PAIRS))
    for call in CALLS:
        for way in call.ways:
            yield Trial(call.number, call.name, way, call.on(way))


TRIALS: list[Trial] = list(_trials())
