"""What a certificate is to be measured on, and how it comes in front of a tower."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cliprt._card import ImageSpec, TextSpec
from cliprt._errors import CheckpointError
from cliprt._texts import TextTokenizer
from cliprt_export._model import ImageSide, TextSide
from cliprt_export._own_items import Labelled, Side
from cliprt_export._precision import QUANTISED
from cliprt_export._samples import (
    CALIBRATION,
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
        calibrate_on_drawn: whether drawn items may be calibrated on. Only drawn weights may: what
            they see is as meaningless as they are.
    """

    folder: Path | None = None
    labelled: Labelled | None = None
    prompt: str = PROMPT
    samples: int | None = None
    calibrated: frozenset[str] = field(default_factory=frozenset)
    calibrate_on_drawn: bool = False

    def __post_init__(self) -> None:
        if "{}" not in self.prompt:
            raise ValueError(
                f"the prompt must hold {{}}, where the class goes; got {self.prompt!r}"
            )
        if self.samples is not None and self.samples < 2:
            raise ValueError(f"at least 2 items must be measured, got {self.samples}")

    def without(self, calibrated: Iterable[Samples]) -> Plan:
        """The same plan, leaving out what was calibrated on."""
        digests = frozenset(digest for samples in calibrated for digest in samples.digests())
        return replace(self, calibrated=self.calibrated | digests)

    def count(self, side: ImageSide | TextSide) -> Count:
        """How many items of a tower to measure."""
        if self.samples is not None:
            return Count(self.samples, least=min(self.samples, 40), labelled=self.samples)
        few, many = PICTURES if isinstance(side, ImageSide) else TEXTS
        # Whoever brings items wants to know about neighbours too.
        own = self.folder is not None or self.labelled is not None
        return default_count(operations(side.tower), (max(few, 40) if own else few, many))


@dataclass(frozen=True)
class Feed:
    """How items become inputs of a tower.

    Attributes:
        spec: preprocessing, or tokens.
        tokenizer: of a text tower, else None.
    """

    spec: ImageSpec | TextSpec
    tokenizer: TextTokenizer | None = None

    def samples(self, plan: Plan, count: Count, side: Side = "certificate") -> Samples:
        """The items of a plan.

        Raises:
            InvalidInput: a folder of the plan has nothing that can be read.
        """
        if isinstance(self.spec, ImageSpec):
            return pictures(
                self.spec,
                count,
                side=side,
                folder=plan.folder,
                labelled=plan.labelled if side == "certificate" else None,
                calibrated=plan.calibrated,
            )
        assert self.tokenizer is not None, "a text tower has a tokenizer"
        return texts(
            self.spec,
            self.tokenizer,
            count,
            side=side,
            folder=plan.folder,
            calibrated=plan.calibrated,
        )

    def prompts(self, plan: Plan) -> Samples | None:
        """The classes' texts, in their order; None for pictures or without classes."""
        if isinstance(self.spec, ImageSpec) or self.tokenizer is None or plan.labelled is None:
            return None
        wanted = [plan.prompt.replace("{}", name) for name in plan.labelled.classes]
        tokens = padded(self.spec, self.tokenizer(wanted))
        none = np.zeros(0, dtype=np.int64)
        return Samples(tokens, text_lengths(self.spec, tokens), none, given=0, drawn=0, skipped=0)


def calibration_items(side: ImageSide | TextSide, plan: Plan) -> Samples:
    """The items that a tower's quantised variants are calibrated on.

    Args:
        side: the tower and how it is fed.
        plan: holds the user's folder.

    Raises:
        CheckpointError: there is no folder, or it has nothing for this tower.
        InvalidInput: nothing of the folder can be read.
    """
    feed, images = feed_of(side), isinstance(side, ImageSide)
    what = "pictures" if images else "texts (.txt files with a text on each line)"
    if plan.folder is None and not plan.calibrate_on_drawn:
        raise CheckpointError(
            f"{', '.join(QUANTISED)} need {what} like those that will be embedded, to measure the "
            "range of every layer's values; pass --calibrate FOLDER"
        )
    count = default_count(operations(side.tower), CALIBRATION["image" if images else "text"])
    only = Count(count.most, least=count.most if plan.folder is None else 1)
    samples = feed.samples(plan, only, side="calibration")
    if plan.folder is not None and not samples.given:
        raise CheckpointError(f"the folder to calibrate on holds no {what}")
    return samples


def feed_of(side: ImageSide | TextSide) -> Feed:
    """How the items of a checkpoint's tower are made."""
    if isinstance(side, ImageSide):
        return Feed(side.spec)
    return Feed(side.spec, TextTokenizer(side.tokenizer_json, side.spec, LIMITS))
