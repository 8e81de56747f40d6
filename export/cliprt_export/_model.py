"""A checkpoint as the export sees it, whichever family it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from cliprt._card import ImageSpec, TextSpec
from cliprt_export._specs import ImageTower, Tensors, TextTower


@dataclass(frozen=True)
class ImageSide:
    """An image tower, its weights, and how it is fed.

    Attributes:
        tower: its sizes.
        tensors: looks up its weights.
        spec: preprocessing.
    """

    tower: ImageTower
    tensors: Tensors
    spec: ImageSpec


@dataclass(frozen=True)
class TextSide:
    """A text tower, its weights, and how it is fed.

    Attributes:
        tower: its sizes.
        tensors: looks up its weights.
        spec: tokens.
        tokenizer_json: content of tokenizer.json.
    """

    tower: TextTower
    tensors: Tensors
    spec: TextSpec
    tokenizer_json: str


@dataclass(frozen=True)
class ClipModel:
    """A checkpoint: two towers, or one.

    Attributes:
        family: name of the reader that made it.
        name: what the checkpoint is called, without any path.
        revision: commit of the hub repository, or None.
        image: the image side, or None.
        text: the text side, or None.
        logit_scale: factor of the cosine similarity, or None where a single tower has none.
        logit_bias: added to the logits by models trained with a sigmoid loss, else None.
    """

    family: str
    name: str
    revision: str | None
    image: ImageSide | None
    text: TextSide | None
    logit_scale: float | None
    logit_bias: float | None = None

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        side = self.image or self.text
        assert side is not None, "a model has at least one tower"
        return side.tower.dim

    def sides(self) -> dict[str, ImageSide | TextSide]:
        """The towers there are, by name: ``image``, ``text``."""
        both = {"image": self.image, "text": self.text}
        return {name: side for name, side in both.items() if side is not None}
