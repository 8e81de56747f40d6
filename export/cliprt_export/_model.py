"""A checkpoint as the export sees it, whichever family it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from cliprt._card import ImageSpec, TextSpec
from cliprt_export._specs import ImageTower, Tensors, TextTower


@dataclass(frozen=True)
class ClipModel:
    """Both towers, their weights, and how they are fed.

    Attributes:
        family: name of the reader that made it.
        image: the image tower.
        text: the text tower.
        image_tensors: looks up the image tower's weights.
        text_tensors: looks up the text tower's weights.
        image_spec: preprocessing.
        text_spec: tokens.
        tokenizer_json: content of tokenizer.json.
        logit_scale: factor of the cosine similarity.
    """

    family: str
    image: ImageTower
    text: TextTower
    image_tensors: Tensors
    text_tensors: Tensors
    image_spec: ImageSpec
    text_spec: TextSpec
    tokenizer_json: str
    logit_scale: float
