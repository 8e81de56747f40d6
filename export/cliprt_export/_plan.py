"""What a certificate is to be measured on, and how it comes in front of a tower."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cliprt._card import ImageSpec, TextSpec
from cliprt._texts import TextTokenizer
from cliprt_export._model import ImageSide, TextSide
from cliprt_export._own_items import Labelled
from cliprt_export._samples import (
    LIMITS,
    PICTURES,
    TEXTS,
    Count,
    Samples,
    default_count,
    padded,
    pictures,
    text_lengths,
    texts,
)
from cliprt_export._work import operations

PROMPT = "a photo of a {}"


@dataclass(frozen=True)
class Plan:
    """What to measure on, beside what cliprt draws.

    Attributes:
        folder: the user's pictures and texts; the held-out part is measured on.
        labelled: pictures with classes.
        prompt: template of a class's text.
        samples: how many items of each tower; None decides by its size.
        calibrated: digests of inputs that were calibrated on.
    """

    folder: Path | None = None
    labelled: Labelled | None = None
    prompt: str = PROMPT
    samples: int | None = None
    calibrated: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if "{}" not in self.prompt:
            raise ValueError(
                f"the prompt must hold {{}}, where the class goes; got {self.prompt!r}"
            )
        if self.samples is not None and self.samples < 2:
            raise ValueError(f"at least 2 items must be measured, got {self.samples}")

    def count(self, side: ImageSide | TextSide) -> Count:
        """How many items of a tower to measure."""
        if self.samples is not None:
            return Count(self.samples, least=min(self.samples, 40), labelled=self.samples)
        bounds = PICTURES if isinstance(side, ImageSide) else TEXTS
        return default_count(operations(side.tower), bounds)


@dataclass(frozen=True)
class Feed:
    """How items become inputs of a tower.

    Attributes:
        spec: preprocessing, or tokens.
        tokenizer: of a text tower, else None.
    """

    spec: ImageSpec | TextSpec
    tokenizer: TextTokenizer | None = None

    def samples(self, plan: Plan, count: Count) -> Samples:
        """The items of a plan.

        Raises:
            InvalidInput: a folder of the plan has nothing that can be read.
        """
        if isinstance(self.spec, ImageSpec):
            return pictures(
                self.spec,
                count,
                folder=plan.folder,
                labelled=plan.labelled,
                calibrated=plan.calibrated,
            )
        assert self.tokenizer is not None, "a text tower has a tokenizer"
        return texts(
            self.spec, self.tokenizer, count, folder=plan.folder, calibrated=plan.calibrated
        )

    def prompts(self, plan: Plan) -> Samples | None:
        """The classes' texts, in their order; None for pictures or without classes."""
        if isinstance(self.spec, ImageSpec) or self.tokenizer is None or plan.labelled is None:
            return None
        wanted = [plan.prompt.replace("{}", name) for name in plan.labelled.classes]
        tokens = padded(self.spec, self.tokenizer(wanted))
        none = np.zeros(0, dtype=np.int64)
        return Samples(tokens, text_lengths(self.spec, tokens), none, given=0, drawn=0, skipped=0)


def feed_of(side: ImageSide | TextSide) -> Feed:
    """How the items of a checkpoint's tower are made."""
    if isinstance(side, ImageSide):
        return Feed(side.spec)
    return Feed(side.spec, TextTokenizer(side.tokenizer_json, side.spec, LIMITS))
