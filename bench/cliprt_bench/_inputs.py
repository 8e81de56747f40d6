"""What is embedded while it is measured: drawn photographs and captions, or somebody's own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cliprt._errors import InvalidInput
from cliprt._texts import TextTokenizer
from cliprt_bench._bench_card import Inputs
from cliprt_bench._photos import drawn, jpeg

PICTURES, CAPTIONS = 64, 512
WIDTH, HEIGHT, QUALITY = 640, 480, 90

_WORDS = (  # noqa: SIM905 - easier to read than a list
    "a photo of the small red cat that sleeps on an old wooden chair near some open window "
    "while two dogs run over green grass and blue birds sing above their house"
).split()

# Captions of one length.
_OF_LENGTH = 64

# Captions as people write them, in words.
_SHORTEST, _LONGEST = 4, 14

_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".webp"])


@dataclass(frozen=True)
class InputSet:
    """Pictures and captions, and what a card says of them.

    Attributes:
        pictures: encoded files.
        captions: of usual lengths.
        record: for the card.
    """

    pictures: tuple[bytes, ...]
    captions: tuple[str, ...]
    record: Inputs

    def captions_of(self, length: int, tokenizer: TextTokenizer) -> tuple[str, ...]:
        """Captions that become a given number of tokens, start and end counted.

        Args:
            length: tokens of each.
            tokenizer: of the model.

        Raises:
            InvalidInput: no caption has that length, or it is beyond the model's context.
        """
        costs = _costs(tokenizer)
        found = (_of_length(length, seed, costs, tokenizer) for seed in range(_OF_LENGTH))
        return tuple(dict.fromkeys(found))


def drawn_inputs(pictures: int = PICTURES, captions: int = CAPTIONS) -> InputSet:
    """Photographs of 640 x 480 with the detail of real ones, as JPEG, and captions.

    The digest is of the pixels before their compression, so that two versions of a JPEG library
    do not make two sets of inputs.

    Args:
        pictures: how many.
        captions: how many.
    """
    digest, files = hashlib.sha256(), []
    for seed in range(pictures):
        pixels = drawn(WIDTH, HEIGHT, seed)
        digest.update(pixels.tobytes())
        files.append(jpeg(pixels, QUALITY))
    random = np.random.Generator(np.random.PCG64(0))
    counts = random.integers(_SHORTEST, _LONGEST + 1, captions)
    texts = [_caption(random, count) for count in counts]
    digest.update("\n".join(texts).encode())
    described = (
        f"{pictures} drawn photographs of {WIDTH} x {HEIGHT}, JPEG of quality {QUALITY}; "
        f"{captions} captions of {_SHORTEST} to {_LONGEST} words"
    )
    return InputSet(
        tuple(files), tuple(texts), Inputs(described=described, sha256=digest.hexdigest())
    )


def long_captions(count: int) -> list[str]:
    """Captions of 8 to 14 words, the same ones at every call: what libraries are compared with."""
    random = np.random.Generator(np.random.PCG64(1))
    return [_caption(random, 8 + number % 7) for number in range(count)]


def given_inputs(folder: Path | None, captions: Path | None) -> InputSet:
    """Somebody's own pictures and captions; drawn ones stand in for those that are not given.

    Args:
        folder: of JPEG, PNG and WebP files.
        captions: a file with one caption a line.

    Raises:
        InvalidInput: there are none, or they cannot be read.
    """
    base = drawn_inputs(PICTURES if folder is None else 0)
    files, texts = base.pictures, base.captions
    words = []
    if folder is not None:
        files = tuple(_read(path) for path in _pictures_in(folder))
        words.append(f"{len(files)} pictures of a folder")
    if captions is not None:
        lines = _read(captions).decode("utf-8", "replace").splitlines()
        texts = tuple(line for line in lines if line.strip())
        if not texts:
            raise InvalidInput(f"{captions} holds no caption; write one on each line")
        words.append(f"{len(texts)} captions of a file")
    if not words:
        return base
    digest = hashlib.sha256()
    for content in _with_lengths([*files, *(text.encode() for text in texts)]):
        digest.update(content)
    record = Inputs(described="; ".join(words), sha256=digest.hexdigest())
    return InputSet(files, texts, record)


def _caption(random: np.random.Generator, words: int) -> str:
    return " ".join(_WORDS[place] for place in random.integers(0, len(_WORDS), words))


def _with_lengths(contents: Sequence[bytes]) -> Iterable[bytes]:
    for content in contents:
        yield len(content).to_bytes(8, "little")
        yield content


def _pictures_in(folder: Path) -> list[Path]:
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    except OSError as cause:
        raise InvalidInput(f"{folder} cannot be read: {cause.strerror}") from None
    if not found:
        raise InvalidInput(f"{folder} holds no picture ({', '.join(sorted(_SUFFIXES))})")
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as cause:
        raise InvalidInput(f"{path} cannot be read: {cause.strerror}") from None


def _costs(tokenizer: TextTokenizer) -> dict[str, int]:
    """How many tokens a word adds; letters are there for models that know few words."""
    words = list(dict.fromkeys([*_WORDS, *"abcdefghijklmnopqrstuvwxyz"]))
    alone = tokenizer(words)
    twice = tokenizer([f"{word} {word}" for word in words])
    return {w: len(b) - len(a) for w, a, b in zip(words, alone, twice, strict=True)}


def _of_length(length: int, seed: int, costs: dict[str, int], tokenizer: TextTokenizer) -> str:
    """A caption of so many tokens: drawn words, as long as there is room for them."""
    random = np.random.Generator(np.random.PCG64(seed))
    words: list[str] = []
    room = length - len(tokenizer([""])[0])
    while fitting := [word for word, cost in costs.items() if 0 < cost <= room]:
        words.append(fitting[random.integers(len(fitting))])
        room -= costs[words[-1]]
    caption = " ".join(words)
    if not caption or len(tokenizer([caption])[0]) != length:
        raise InvalidInput(
            f"no caption of {length} tokens could be made; choose another text length"
        )
    return caption
