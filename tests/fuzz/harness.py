"""What a target of fuzzing is: bytes go in, and a promise is kept or broken.

A target is a function of bytes that raises where a promise is broken: an exception that is not
documented, an answer that is not right. Fuzzing with coverage (``run.py``), with hypothesis
(``test_properties.py``) and the replay of the corpus (``test_corpus.py``) all call the same ones.
"""

from __future__ import annotations

import atexit
import functools
import random
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from fuzz.mutation import Raw

import cliprt

CORPUS = Path(__file__).resolve().parent / "corpus"

MOST_SECONDS = 20.0
"""Seconds of processor time that one input may cost: thousands of times what a usual one does."""

MOST_LETTERS = 3000
"""Letters that a refusal may have; it may quote a path or a value, and not a file."""

Mutator: TypeAlias = Callable[[bytes, random.Random, Raw], bytes]

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
_LIBRARY = str(Path(cliprt.__file__).parent.parent)
_PYTHON = f"{Path(random.__file__).parent}/"


@dataclass(frozen=True)
class Target:
    """One promise about one reader of bytes.

    Attributes:
        name: of the target, and of its folder in the corpus.
        keeps: raises where the promise is broken.
        mutate: changes an input so that most of what a reader looks at first stays right.
        most: bytes of an input.
    """

    name: str
    keeps: Callable[[bytes], None]
    mutate: Mutator
    most: int


TARGETS: dict[str, Target] = {}


def target(
    mutate: Mutator, *, most: int = 4096
) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Makes a function a target that has its name."""

    def add(keeps: Callable[[bytes], None]) -> Callable[[bytes], None]:
        TARGETS[keeps.__name__] = Target(keeps.__name__, keeps, mutate, most)
        return keeps

    return add


def check(tested: Target, data: bytes) -> None:
    """Gives an input to a target.

    Raises:
        BaseException: the promise is broken.
    """
    with warnings.catch_warnings(record=True) as escaped:
        warnings.simplefilter("always")
        began = time.process_time()
        tested.keeps(data)
        took = time.process_time() - began
    assert not escaped, f"a warning escaped: {escaped[0].message!r}"
    assert took <= MOST_SECONDS, f"it took {took:.1f} s"


class Outcome:
    """Whether what was read is accepted."""

    accepted = False
    error: BaseException | None = None


@contextmanager
def refusing(*kinds: type[BaseException]) -> Iterator[Outcome]:
    """What is read is accepted, or refused in a documented way and in words for people."""
    outcome = Outcome()
    try:
        yield outcome
        outcome.accepted = True
    except kinds as error:
        outcome.error = error
        check_words(str(error))


def check_words(said: str) -> None:
    """A message names no addresses or paths of the program, and can be printed."""
    assert said, "it says nothing"
    assert len(said) <= MOST_LETTERS, f"it says {len(said)} letters: {said[:200]!r}"
    assert not _ADDRESS.search(said), f"it names an address: {said!r}"
    assert _LIBRARY not in said, f"it names the library's folder: {said!r}"
    assert _PYTHON not in said, f"it names Python's folder: {said!r}"
    assert "MemoryError" not in said, f"it took all memory: {said!r}"
    strange = [letter for letter in said if not letter.isprintable()]
    assert not strange, f"it holds {strange[0]!r}: {said[:200]!r}"


@functools.cache
def scratch() -> Path:
    """A folder for what targets read from disk."""
    folder = Path(tempfile.mkdtemp(prefix="cliprt-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def written(name: str, content: bytes) -> Path:
    """A file of that content in the scratch folder."""
    path = scratch() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def seeds(tested: Target) -> list[Path]:
    """The kept inputs of a target."""
    return sorted(path for path in (CORPUS / tested.name).glob("*") if path.is_file())
