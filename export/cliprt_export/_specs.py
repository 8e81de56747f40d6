"""What a tower is, whichever checkpoint family it comes from.

A family's reader maps its configuration onto these specs and its tensor names onto the names in
``image_tensors`` and ``text_tensors``; the graph builder and the NumPy reference know nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Activation: TypeAlias = Literal["quick_gelu", "gelu"]
Tensors: TypeAlias = Callable[[str], NDArray[np.float32]]
"""Looks up a tower's tensor by its neutral name; float32, in the layout of the tables below."""

Shapes: TypeAlias = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class TransformerSpec:
    """A pre-norm transformer (Vaswani et al. 2017; pre-norm as in Radford et al. 2021).

    Attributes:
        width: length of a token's state.
        layers: number of blocks.
        heads: attention heads; they divide the width.
        hidden: width of the MLP's hidden layer.
        activation: of the MLP; ``quick_gelu`` is x * sigmoid(1.702 x).
        epsilon: of every LayerNorm.
    """

    width: int
    layers: int
    heads: int
    hidden: int
    activation: Activation
    epsilon: float

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads, self.hidden) < 1:
            raise ValueError(f"a transformer's sizes must be positive: {self}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by {self.heads} heads")

    @property
    def head_width(self) -> int:
        """Length of one head's query."""
        return self.width // self.heads


@dataclass(frozen=True)
class ImageTower:
    """A vision transformer with a class token (Dosovitskiy et al. 2021).

    Attributes:
        height: rows of the input, in pixels.
        width: columns of the input, in pixels.
        patch: side of a patch; rows and columns beyond a multiple of it are not seen.
        dim: length of the embedding.
        transformer: its blocks.
        mean: per channel, of pixels scaled to 0..1.
        std: per channel, of pixels scaled to 0..1.
        rescale: factor that scales a byte before mean and std.
    """

    height: int
    width: int
    patch: int
    dim: int
    transformer: TransformerSpec
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rescale: float

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.height // self.patch, self.width // self.patch

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return self.grid[0] * self.grid[1] + 1


@dataclass(frozen=True)
class TextTower:
    """A causal text transformer, pooled at one token.

    Attributes:
        vocabulary: number of token ids.
        context: greatest number of tokens.
        dim: length of the embedding.
        transformer: its blocks.
        pooling: see ``cliprt.TextSpec.pooling``.
        end_id: id of the end-of-text token.
    """

    vocabulary: int
    context: int
    dim: int
    transformer: TransformerSpec
    pooling: Literal["end", "highest"]
    end_id: int


def image_tensors(tower: ImageTower) -> Shapes:
    """Names and shapes of all tensors of an image tower. Linear weights are [out, in]."""
    width = tower.transformer.width
    return {
        "patch.weight": (width, 3, tower.patch, tower.patch),
        "class_token": (width,),
        "positions": (tower.tokens, width),
        "pre_norm.weight": (width,),
        "pre_norm.bias": (width,),
        **_block_tensors(tower.transformer),
        "post_norm.weight": (width,),
        "post_norm.bias": (width,),
        "projection.weight": (tower.dim, width),
    }


def text_tensors(tower: TextTower) -> Shapes:
    """Names and shapes of all tensors of a text tower. Linear weights are [out, in]."""
    width = tower.transformer.width
    return {
        "token_embedding": (tower.vocabulary, width),
        "positions": (tower.context, width),
        **_block_tensors(tower.transformer),
        "post_norm.weight": (width,),
        "post_norm.bias": (width,),
        "projection.weight": (tower.dim, width),
    }


def _block_tensors(transformer: TransformerSpec) -> Shapes:
    width, hidden = transformer.width, transformer.hidden
    shapes: Shapes = {}
    for layer in range(transformer.layers):
        block = f"blocks.{layer}"
        linears = {
            "attention.query": (width, width),
            "attention.key": (width, width),
            "attention.value": (width, width),
            "attention.out": (width, width),
            "mlp.up": (hidden, width),
            "mlp.down": (width, hidden),
        }
        for norm in ("norm1", "norm2"):
            shapes[f"{block}.{norm}.weight"] = (width,)
            shapes[f"{block}.{norm}.bias"] = (width,)
        for name, shape in linears.items():
            shapes[f"{block}.{name}.weight"] = shape
            shapes[f"{block}.{name}.bias"] = shape[:1]
    return shapes
