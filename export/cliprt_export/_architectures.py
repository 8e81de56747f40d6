"""The published CLIP architectures, by the names OpenCLIP gave them.

Sizes are those of Radford et al. 2021 (RN*, ViT-B, ViT-L), of LAION's and OpenCLIP's configurations
(ViT-H, ViT-g, ViT-bigG), and of Zhai et al. 2023 and Alabdulmohsin et al. 2023 (SigLIP). OpenAI's
have the activation they were trained with, quick_gelu.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cliprt_export._specs import (
    Activation,
    ImageTower,
    ResNetTower,
    TextTower,
    TransformerSpec,
    VitTower,
)

Triple = tuple[float, float, float]

_CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)
_HALF: Triple = (0.5, 0.5, 0.5)
_RESCALE = 1 / 255

_CLIP_VOCABULARY, _CLIP_CONTEXT = 49408, 77
_SIGLIP_VOCABULARY, _SIGLIP_CONTEXT = 32000, 64


@dataclass(frozen=True)
class Architecture:
    """A pair of towers, and how it was published to be fed.

    Attributes:
        image: the image tower.
        text: the text tower.
        resize: see ``cliprt.ImageSpec.resize``.
        cleaning: see ``cliprt.TextSpec.cleaning``.
        logit_bias: the bias that training began with, None for models trained with a softmax.
    """

    image: ImageTower
    text: TextTower
    resize: Literal["shortest", "squash"] = "shortest"
    cleaning: Literal["lower", "canonicalize"] = "lower"
    logit_bias: float | None = None


def _clip_text(width: int, layers: int, dim: int, activation: Activation) -> TextTower:
    return TextTower(
        vocabulary=_CLIP_VOCABULARY,
        context=_CLIP_CONTEXT,
        dim=dim,
        # Heads of 64 in every published size.
        transformer=TransformerSpec(width, layers, width // 64, 4 * width, activation, 1e-5),
        pooling="highest",
        end_id=_CLIP_VOCABULARY - 1,
    )


def _resnet(
    side: int, stem: int, blocks: tuple[int, int, int, int], dim: int, text_width: int
) -> Architecture:
    tower = ResNetTower(
        height=side,
        width=side,
        dim=dim,
        stem=stem,
        blocks=blocks,
        heads=stem // 2,
        mean=_CLIP_MEAN,
        std=_CLIP_STD,
        rescale=_RESCALE,
    )
    return Architecture(tower, _clip_text(text_width, 12, dim, "quick_gelu"))


def _vit(side: int, patch: int, transformer: TransformerSpec, text: TextTower) -> Architecture:
    tower = VitTower(
        height=side,
        width=side,
        patch=patch,
        dim=text.dim,
        transformer=transformer,
        mean=_CLIP_MEAN,
        std=_CLIP_STD,
        rescale=_RESCALE,
    )
    return Architecture(tower, text)


def _openai(side: int, patch: int, width: int, layers: int, text_width: int) -> Architecture:
    activation: Activation = "quick_gelu"
    transformer = TransformerSpec(width, layers, width // 64, 4 * width, activation, 1e-5)
    return _vit(side, patch, transformer, _clip_text(text_width, 12, text_width, activation))


def _laion(
    width: int, layers: int, head_width: int, hidden: int, text_width: int, text_layers: int
) -> Architecture:
    transformer = TransformerSpec(width, layers, width // head_width, hidden, "gelu", 1e-5)
    return _vit(224, 14, transformer, _clip_text(text_width, text_layers, text_width, "gelu"))


def _siglip(
    side: int, patch: int, width: int, layers: int, heads: int, hidden: int
) -> Architecture:
    """Both towers have the same transformer."""
    transformer = TransformerSpec(width, layers, heads, hidden, "gelu_tanh", 1e-6)
    image = VitTower(
        height=side,
        width=side,
        patch=patch,
        dim=width,
        transformer=transformer,
        mean=_HALF,
        std=_HALF,
        rescale=_RESCALE,
        pooling="attention",
        class_token=False,
        patch_bias=True,
        pre_norm=False,
        projection=False,
    )
    text = TextTower(
        vocabulary=_SIGLIP_VOCABULARY,
        context=_SIGLIP_CONTEXT,
        dim=width,
        transformer=transformer,
        pooling="last",
        end_id=_SIGLIP_VOCABULARY - 1,
        causal=False,
        projection="affine",
    )
    return Architecture(image, text, "squash", "canonicalize", -10.0)


ARCHITECTURES: dict[str, Architecture] = {
    "RN50": _resnet(224, 64, (3, 4, 6, 3), 1024, 512),
    "RN101": _resnet(224, 64, (3, 4, 23, 3), 512, 512),
    "RN50x4": _resnet(288, 80, (4, 6, 10, 6), 640, 640),
    "RN50x16": _resnet(384, 96, (6, 8, 18, 8), 768, 768),
    "RN50x64": _resnet(448, 128, (3, 15, 36, 10), 1024, 1024),
    "ViT-B-32": _openai(224, 32, 768, 12, 512),
    "ViT-B-16": _openai(224, 16, 768, 12, 512),
    "ViT-L-14": _openai(224, 14, 1024, 24, 768),
    "ViT-L-14-336": _openai(336, 14, 1024, 24, 768),
    "ViT-H-14": _laion(1280, 32, 80, 5120, 1024, 24),
    "ViT-g-14": _laion(1408, 40, 88, 6144, 1024, 24),
    "ViT-bigG-14": _laion(1664, 48, 104, 8192, 1280, 32),
    "ViT-B-16-SigLIP": _siglip(224, 16, 768, 12, 12, 3072),
    "ViT-SO400M-14-SigLIP-384": _siglip(384, 14, 1152, 27, 16, 4304),
}
"""By name, in order of size within each kind."""
