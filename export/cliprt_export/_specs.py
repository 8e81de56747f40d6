"""What a tower is, whichever checkpoint family it comes from.

A family's reader maps its configuration onto these specs and its tensor names onto the names in
``tower_tensors``; the graph builder and the NumPy reference know nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Activation: TypeAlias = Literal["quick_gelu", "gelu", "gelu_tanh"]
Tensors: TypeAlias = Callable[[str], NDArray[np.float32]]
"""Looks up a tower's tensor by its neutral name; float32, in the layout of the tables below."""

Shapes: TypeAlias = dict[str, tuple[int, ...]]

MAX_LAYERS = 1000
"""Far beyond the deepest published model, which has 63."""


@dataclass(frozen=True)
class TransformerSpec:
    """A pre-norm transformer (Vaswani et al. 2017; pre-norm as in Radford et al. 2021).

    Attributes:
        width: length of a token's state.
        layers: number of blocks.
        heads: attention heads; they divide the width.
        hidden: width of the MLP's hidden layer.
        activation: of the MLP; ``quick_gelu`` is x * sigmoid(1.702 x), ``gelu`` the exact Gaussian
            error linear unit, ``gelu_tanh`` its approximation by tanh (Hendrycks and Gimpel 2016).
        epsilon: of every LayerNorm.
        layer_scale: whether what a block adds is scaled per channel (Touvron et al. 2021).
    """

    width: int
    layers: int
    heads: int
    hidden: int
    activation: Activation
    epsilon: float
    layer_scale: bool = False

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads, self.hidden) < 1:
            raise ValueError(f"a transformer's sizes must be positive: {self}")
        # Names of tensors are listed for each layer: a number without reason would fill the memory.
        if self.layers > MAX_LAYERS:
            raise ValueError(f"{self.layers} layers are beyond the limit of {MAX_LAYERS}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by {self.heads} heads")

    @property
    def head_width(self) -> int:
        """Length of one head's query."""
        return self.width // self.heads


@dataclass(frozen=True)
class VitTower:
    """A vision transformer (Dosovitskiy et al. 2021).

    Attributes:
        height: rows of the input, in pixels.
        width: columns of the input, in pixels.
        patch: side of a patch; rows and columns beyond a multiple of it are not seen.
        dim: length of the embedding.
        transformer: its blocks.
        mean: per channel, of pixels scaled to 0..1.
        std: per channel, of pixels scaled to 0..1.
        rescale: factor that scales a byte before mean and std.
        pooling: which state becomes the embedding: that of the ``class`` token, the ``average``
            over all patches, or what a learned query reads by ``attention`` (Zhai et al. 2023).
        class_token: whether a learned token stands before the patches.
        patch_bias: whether the patch embedding has a bias.
        pre_norm: whether a LayerNorm precedes the blocks.
        norm_after_pooling: whether an average is taken of states before the last LayerNorm.
        projection: whether a matrix maps the pooled state to the embedding.
    """

    height: int
    width: int
    patch: int
    dim: int
    transformer: TransformerSpec
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rescale: float
    pooling: Literal["class", "average", "attention"] = "class"
    class_token: bool = True
    patch_bias: bool = False
    pre_norm: bool = True
    norm_after_pooling: bool = False
    projection: bool = True

    def __post_init__(self) -> None:
        if min(self.height, self.width) < self.patch or self.patch < 1:
            raise ValueError(
                f"a picture of {self.height} x {self.width} holds no patch of side {self.patch}"
            )
        if self.pooling == "class" and not self.class_token:
            raise ValueError("a tower without a class token cannot pool there")
        if not self.projection and self.dim != self.transformer.width:
            raise ValueError(
                f"without a projection the embedding has the width {self.transformer.width}, "
                f"not {self.dim}"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.height // self.patch, self.width // self.patch

    @property
    def patches(self) -> int:
        """Number of patches."""
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """Patches, and the class token if there is one."""
        return self.patches + self.class_token


@dataclass(frozen=True)
class ResNetTower:
    """CLIP's modified ResNet (Radford et al. 2021, section 2.4).

    Three stem convolutions, average pools instead of strides, attention pooling at the end. Batch
    norms have been folded into the convolutions before them by the reader.

    Attributes:
        height: rows of the input, in pixels.
        width: columns of the input, in pixels.
        dim: length of the embedding.
        stem: channels after the stem; the four stages put out 4, 8, 16 and 32 times as many.
        blocks: bottlenecks in each stage.
        heads: of the attention pooling.
        mean: per channel, of pixels scaled to 0..1.
        std: per channel, of pixels scaled to 0..1.
        rescale: factor that scales a byte before mean and std.
    """

    height: int
    width: int
    dim: int
    stem: int
    blocks: tuple[int, int, int, int]
    heads: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rescale: float

    def __post_init__(self) -> None:
        if self.height % 32 or self.width % 32:
            raise ValueError(
                f"a ResNet's picture has sides divisible by 32, got {self.height} x {self.width}"
            )
        if max(self.blocks) > MAX_LAYERS:
            raise ValueError(f"{max(self.blocks)} blocks are beyond the limit of {MAX_LAYERS}")
        if self.features % self.heads:
            raise ValueError(f"{self.features} features are not divisible by {self.heads} heads")

    @property
    def features(self) -> int:
        """Channels after the last stage."""
        return 32 * self.stem

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns after the last stage."""
        return self.height // 32, self.width // 32


ImageTower: TypeAlias = VitTower | ResNetTower


@dataclass(frozen=True)
class TextTower:
    """A text transformer, pooled at one token.

    Attributes:
        vocabulary: number of token ids.
        context: greatest number of tokens.
        dim: length of the embedding.
        transformer: its blocks.
        pooling: see ``cliprt.TextSpec.pooling``.
        end_id: id of the end-of-text token.
        causal: whether a token sees only those before it.
        projection: how the pooled state becomes the embedding: not at all (``none``), by a matrix
            (``linear``), or by a matrix and a bias (``affine``).
    """

    vocabulary: int
    context: int
    dim: int
    transformer: TransformerSpec
    pooling: Literal["end", "highest", "last", "first"]
    end_id: int
    causal: bool = True
    projection: Literal["none", "linear", "affine"] = "linear"

    def __post_init__(self) -> None:
        if self.projection == "none" and self.dim != self.transformer.width:
            raise ValueError(
                f"without a projection the embedding has the width {self.transformer.width}, "
                f"not {self.dim}"
            )

    @property
    def fixed_length(self) -> bool:
        """Whether what fills up a text is seen, so that every text must have the full length."""
        return not self.causal or self.pooling == "last"


Tower: TypeAlias = ImageTower | TextTower


def tower_tensors(tower: Tower) -> Shapes:
    """Names and shapes of all tensors of a tower.

    Linear weights are [out, in], convolutions [out, in, rows, columns].
    """
    if isinstance(tower, VitTower):
        return _vit_tensors(tower)
    if isinstance(tower, ResNetTower):
        return _resnet_tensors(tower)
    return _text_tensors(tower)


def _vit_tensors(tower: VitTower) -> Shapes:
    width = tower.transformer.width
    shapes: Shapes = {"patch.weight": (width, 3, tower.patch, tower.patch)}
    if tower.patch_bias:
        shapes["patch.bias"] = (width,)
    if tower.class_token:
        shapes["class_token"] = (width,)
    shapes["positions"] = (tower.tokens, width)
    if tower.pre_norm:
        shapes |= _norm("pre_norm", width)
    shapes |= _block_tensors(tower.transformer) | _norm("post_norm", width)
    if tower.pooling == "attention":
        shapes["head.probe"] = (width,)
        for role in ("query", "key", "value", "out"):
            shapes |= _linear(f"head.attention.{role}", width, width)
        shapes |= _norm("head.norm", width) | _mlp("head.mlp", width, tower.transformer.hidden)
    if tower.projection:
        shapes["projection.weight"] = (tower.dim, width)
    return shapes


def _text_tensors(tower: TextTower) -> Shapes:
    width = tower.transformer.width
    shapes: Shapes = {
        "token_embedding": (tower.vocabulary, width),
        "positions": (tower.context, width),
        **_block_tensors(tower.transformer),
        **_norm("post_norm", width),
    }
    if tower.projection != "none":
        shapes["projection.weight"] = (tower.dim, width)
    if tower.projection == "affine":
        shapes["projection.bias"] = (tower.dim,)
    return shapes


def _block_tensors(transformer: TransformerSpec) -> Shapes:
    width = transformer.width
    shapes: Shapes = {}
    for layer in range(transformer.layers):
        block = f"blocks.{layer}"
        shapes |= _norm(f"{block}.norm1", width) | _norm(f"{block}.norm2", width)
        for role in ("query", "key", "value", "out"):
            shapes |= _linear(f"{block}.attention.{role}", width, width)
        shapes |= _mlp(f"{block}.mlp", width, transformer.hidden)
        if transformer.layer_scale:
            shapes |= {f"{block}.scale1": (width,), f"{block}.scale2": (width,)}
    return shapes


def _resnet_tensors(tower: ResNetTower) -> Shapes:
    half, stem = tower.stem // 2, tower.stem
    shapes = (
        _convolution("stem.conv1", half, 3, 3)
        | _convolution("stem.conv2", half, half, 3)
        | _convolution("stem.conv3", stem, half, 3)
    )
    channels = stem
    for stage, blocks in enumerate(tower.blocks):
        planes = stem * 2**stage
        for block in range(blocks):
            name = f"stages.{stage}.{block}"
            shapes |= _convolution(f"{name}.conv1", planes, channels, 1)
            shapes |= _convolution(f"{name}.conv2", planes, planes, 3)
            shapes |= _convolution(f"{name}.conv3", 4 * planes, planes, 1)
            if block == 0:
                shapes |= _convolution(f"{name}.shortcut", 4 * planes, channels, 1)
            channels = 4 * planes
    rows, columns = tower.grid
    shapes["head.positions"] = (rows * columns + 1, channels)
    for role in ("query", "key", "value"):
        shapes |= _linear(f"head.attention.{role}", channels, channels)
    return shapes | _linear("head.attention.out", tower.dim, channels)


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, out: int, into: int) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _mlp(name: str, width: int, hidden: int) -> Shapes:
    return _linear(f"{name}.up", hidden, width) | _linear(f"{name}.down", width, hidden)


def _convolution(name: str, out: int, into: int, side: int) -> Shapes:
    return {f"{name}.weight": (out, into, side, side), f"{name}.bias": (out,)}
