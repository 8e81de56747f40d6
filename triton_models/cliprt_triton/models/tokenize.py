"""Strings to tokens inside Triton's Python backend, exactly as the client makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt._bundle import TOKENIZER
from cliprt._errors import ModelUnavailable
from cliprt._names import LENGTHS_PARAMETER
from cliprt._texts import TextTokenizer, parse_lengths, text_of
from cliprt_triton.models._backend import Setup, answer, check_numpy, each_answered, strings_of


class Texts:
    """Makes tokens of strings."""

    def __init__(self, setup: Setup) -> None:
        """Loads the tokenizer that lies in the model's folder.

        Raises:
            ModelUnavailable: the bundle has no text tower.
            DeploymentError: the tokenizer cannot be loaded, or the limits cannot be used.
        """
        if (spec := setup.card.text) is None:
            raise ModelUnavailable(f"{setup.card.name} has no text tower")
        content = (setup.folder / TOKENIZER).read_text(encoding="utf-8")
        self._tokenizer = TextTokenizer(content, spec, setup.limits)
        self._lengths = parse_lengths(setup.parameters[LENGTHS_PARAMETER])

    def tokens(self, request: Any) -> NDArray[np.int32]:
        """The tokens of a request: int32 [batch, length].

        Raises:
            InvalidInput: a text is no usable one.
        """
        data = strings_of(request, "text")
        ids = self._tokenizer([text_of(item, index) for index, item in enumerate(data)])
        return self._tokenizer.pad(ids, lengths=self._lengths)


class TritonPythonModel:
    """Tokenizes the texts of each request; a bad request fails alone."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Loads the tokenizer."""
        check_numpy()
        self._texts = Texts(Setup(args))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers each request with its tokens, or with what is wrong with a bad item of it."""
        return each_answered(requests, lambda request: answer(tokens=self._texts.tokens(request)))
