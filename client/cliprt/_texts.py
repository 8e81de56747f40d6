"""Strings to tokens, exactly as the checkpoint's own tokenizer makes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cliprt._card import TextSpec
from cliprt._cleaning import clean
from cliprt._errors import BundleError, DeploymentError, InvalidInput
from cliprt._json import one_line
from cliprt._limits import Limits
from cliprt._sentencepiece import SiglipTokenizer


class TextTokenizer:
    """Tokenizes for one model. Safe to use from many threads."""

    def __init__(self, tokenizer_json: str, spec: TextSpec, limits: Limits) -> None:
        """Loads a tokenizer.

        Args:
            tokenizer_json: content of the bundle's ``tokenizer.json``.
            spec: the card's account of the text tower.
            limits: bounds on the texts.

        Raises:
            BundleError: the tokenizer cannot be loaded.
        """
        with library_errors(BundleError, "tokenizer.json cannot be loaded"):
            if spec.cleaning == "siglip":
                self._siglip: SiglipTokenizer | None = SiglipTokenizer(tokenizer_json)
            else:
                self._siglip = None
                self._tokenizer = Tokenizer.from_str(tokenizer_json)
                # Cuts from the right and keeps the end token last.
                self._tokenizer.enable_truncation(spec.context_length)
                self._tokenizer.no_padding()
        self._spec = spec
        self._limits = limits

    def __call__(self, texts: Sequence[str], *, truncate: bool = True) -> list[list[int]]:
        """Tokenizes texts.

        Args:
            texts: the strings.
            truncate: whether texts beyond the context are cut, as the checkpoint's own pipeline
                does, or refused.

        Returns:
            Per text its ids, start and end tokens included, at most context_length of them.

        Raises:
            InvalidInput: an item is not a string, has lone surrogates, is longer than the limit, or
                is longer than the context and may not be cut.
            BundleError: tokenizer.json was loaded, and contradicts itself.
        """
        found: list[list[int]] = []
        for item in self.each(texts, truncate=truncate):
            if isinstance(item, InvalidInput):
                raise item
            found.append(item)
        return found

    def each(
        self, texts: Sequence[str], *, first: int = 0, truncate: bool = True
    ) -> list[list[int] | InvalidInput]:
        """Tokenizes texts; one that cannot be tokenized costs no other.

        Args:
            texts: the strings.
            first: index of the first one in the caller's list, for error messages.
            truncate: as for a call.

        Returns:
            Per text its ids, or the error that a call would raise.
        """
        problems = [self._problem(text, index) for index, text in enumerate(texts, start=first)]
        good = [text for text, problem in zip(texts, problems, strict=True) if problem is None]
        with library_errors(BundleError, "tokenizer.json cannot be used"):
            tokenized = iter(self._by_siglip(good) if self._siglip else self._by_library(good))
        found: list[list[int] | InvalidInput] = []
        for index, problem in enumerate(problems, start=first):
            if problem is not None:
                found.append(problem)
                continue
            ids, cut = next(tokenized)
            found.append(self._too_long(index) if cut and not truncate else ids)
        return found

    def pad(
        self, ids: Sequence[Sequence[int]], *, lengths: Sequence[int] = ()
    ) -> NDArray[np.int32]:
        """Makes a batch of tokenized texts.

        Args:
            ids: per text its ids.
            lengths: ascending, the only lengths that are welcome, as ``parse_lengths`` reads them;
                none where any is.

        Returns:
            int32 [batch, length]. Length is the least welcome one that holds the longest text where
            the tower does not see what follows the end token, and the context for all others.
        """
        return fill_up(ids, self._spec, lengths)

    def _by_library(self, texts: Sequence[str]) -> list[tuple[list[int], bool]]:
        """Ids of each text, and whether it was cut, where tokenizer.json says everything."""
        cleaned = [clean(text, self._spec.cleaning) for text in texts]
        encodings = self._tokenizer.encode_batch(cleaned)
        return [(self._zeroed(item.ids), bool(item.overflowing)) for item in encodings]

    def _zeroed(self, ids: list[int]) -> list[int]:
        zeroed = self._spec.zeroed_id
        return ids if zeroed is None else [0 if token == zeroed else token for token in ids]

    def _by_siglip(self, texts: Sequence[str]) -> list[tuple[list[int], bool]]:
        """The same where the rules of SigLIP's tokenizer surround it."""
        assert self._siglip is not None
        room = self._spec.context_length - 1
        tokenized = [self._siglip(text) for text in texts]
        return [([*ids[:room], self._spec.end_id], len(ids) > room) for ids in tokenized]

    def _too_long(self, index: int) -> InvalidInput:
        return InvalidInput(
            f"the text has more than {self._spec.context_length} tokens, the context of the model; "
            "shorten it or pass truncate=True",
            index=index,
        )

    def _problem(self, text: object, index: int) -> InvalidInput | None:
        """Why an item cannot be tokenized, if it cannot."""
        if not isinstance(text, str):
            return InvalidInput(f"a text must be a str, got {type(text).__name__}", index=index)
        if len(text) > self._limits.max_text_characters:
            return InvalidInput(
                f"the text has {len(text):,} characters, the limit max_text_characters is "
                f"{self._limits.max_text_characters:,}; shorten it or raise the limit",
                index=index,
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return InvalidInput(
                f"the text has a lone surrogate at character {error.start}, which is not valid "
                "Unicode; decode its source with errors='replace'",
                index=index,
            )
        return None


@contextmanager
def library_errors(kind: type[DeploymentError], what: str) -> Iterator[None]:
    """Whatever the library raises over nonsense, as an error of ours that says what cannot be.

    That is a bare Exception, or where it panics a BaseException of a type that it does not export.
    """
    try:
        yield
    except (kind, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001
        raise kind(f"{what}: {one_line(error)}") from None


def fill_up(
    ids: Sequence[Sequence[int] | NDArray[np.int32]], spec: TextSpec, lengths: Sequence[int]
) -> NDArray[np.int32]:
    """A batch of tokenized texts; arguments and result as of ``TextTokenizer.pad``."""
    context = spec.context_length
    length = context if spec.fixed_length else fitting_length(map(len, ids), lengths)
    tokens = np.full((len(ids), length), spec.pad_id, dtype=np.int32)
    for row, text in zip(tokens, ids, strict=True):
        row[: len(text)] = text
    return tokens


def parse_lengths(value: str) -> tuple[int, ...]:
    """The lengths that a text tower's configuration names under ``LENGTHS_PARAMETER``.

    Raises:
        ValueError: they are no ascending numbers with commas between them.
    """
    lengths = tuple(int(number) for number in value.split(",")) if value else ()
    if any(longer <= shorter for shorter, longer in pairwise((0, *lengths))):
        raise ValueError(f"lengths must be ascending numbers from 1, got {value!r}")
    return lengths


def fitting_length(texts: Iterable[int], lengths: Sequence[int]) -> int:
    """The least of the given lengths that holds all texts; that of the longest if there is none."""
    longest = max(texts)
    return next((length for length in lengths if length >= longest), longest)


def text_of(data: bytes, index: int) -> str:
    """The string that bytes on the wire stand for.

    Args:
        data: UTF-8.
        index: of the text in the caller's list.

    Raises:
        InvalidInput: they are no UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"the text is not valid UTF-8 at byte {error.start} ({error.reason}); encode it as "
            "UTF-8",
            index=index,
        ) from None


def is_cut_at_end(spec: TextSpec) -> bool:
    """Whether nothing behind the token whose state counts can change an embedding."""
    return not spec.fixed_length and spec.pooling in ("end", "highest")


def real_lengths(tokens: NDArray[np.int32], end_id: int | None) -> NDArray[np.intp]:
    """How many tokens of each text can change its embedding.

    Args:
        tokens: int32 [batch, length].
        end_id: the token after which nothing counts; None where the one of the highest id is it.

    Returns:
        [batch], from 1 to length.
    """
    lengths: NDArray[np.intp]
    if end_id is None:
        lengths = tokens.argmax(axis=1) + 1
    else:
        ends = tokens == end_id
        lengths = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, tokens.shape[1])
    return lengths
