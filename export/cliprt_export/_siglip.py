"""Reads Hugging Face SigLIP, and SigLIP 2 of a fixed resolution, which has the same layout.

What fills up a text is seen by the tower and not masked: so the models were trained, and so their
published tokenizers leave ``attention_mask`` out of ``model_input_names``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt._card import TextSpec
from cliprt._errors import CheckpointError
from cliprt_export._checkpoint import Checkpoint
from cliprt_export._config import positive, whole
from cliprt_export._hf_clip import (
    check_no_more_layers,
    factor_of,
    image_spec,
    named_tensors,
    processor_json,
)
from cliprt_export._model import ClipModel, ImageSide, TextSide
from cliprt_export._siglip_tokenizer import read_siglip_tokenizer
from cliprt_export._specs import (
    Activation,
    Tensors,
    TextTower,
    TransformerSpec,
    VitTower,
    tower_tensors,
)

FAMILY = "siglip"

# The defaults of transformers' SiglipVisionConfig and SiglipTextConfig; configurations are saved
# without the keys that equal them.
_COMMON = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
_VISION = {
    **_COMMON,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "vision_use_head": True,
}
_TEXT = {
    **_COMMON,
    "vocab_size": 32000,
    "max_position_embeddings": 64,
    "projection_size": None,
}
# The defaults of its SiglipImageProcessor.
_PROCESSOR: dict[str, Any] = {
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 3,
    "do_center_crop": False,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
_ACTIVATIONS: dict[str, Activation] = {
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
}
_KINDS = {
    "siglip": ("image", "text"),
    "siglip_vision_model": ("image",),
    "siglip_text_model": ("text",),
}
_FLEXIBLE = ("siglip2", "siglip2_vision_model", "siglip2_text_model")

_IMAGE_NAMES = {
    "patch.weight": "embeddings.patch_embedding.weight",
    "patch.bias": "embeddings.patch_embedding.bias",
    "positions": "embeddings.position_embedding.weight",
    "post_norm": "post_layernorm",
    "blocks": "encoder.layers",
    "head.attention.out": "head.attention.out_proj",
    "head.norm": "head.layernorm",
    "head.mlp.up": "head.mlp.fc1",
    "head.mlp.down": "head.mlp.fc2",
}
_TEXT_NAMES = {
    "token_embedding": "embeddings.token_embedding.weight",
    "positions": "embeddings.position_embedding.weight",
    "post_norm": "final_layer_norm",
    "blocks": "encoder.layers",
    "projection": "head",
}
# Rows of the attention head's joined matrix.
_JOINED = {"query": 0, "key": 1, "value": 2}


def is_siglip(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint has a configuration of transformers' SigLIP or SigLIP 2."""
    return checkpoint.config().get("model_type") in (*_KINDS, *_FLEXIBLE)


def read_siglip(checkpoint: Checkpoint) -> ClipModel:
    """Maps a checkpoint's configuration and tensors onto the towers.

    Raises:
        CheckpointError: its files contradict each other, or ask for what is not supported.
    """
    config = checkpoint.json("config.json")
    kind = str(config.get("model_type"))
    if kind in _FLEXIBLE:
        raise CheckpointError(
            f"{checkpoint.name} is of model_type {kind!r}, SigLIP 2 for pictures of any size and "
            "shape (NaFlex); supported is SigLIP 2 of a fixed resolution, whose model_type is "
            "'siglip', for instance google/siglip2-base-patch16-224"
        )
    sides = _KINDS[kind]
    # A model of one tower has that tower's configuration at the top.
    try:
        vision, text = (
            {**defaults, **(config.get(f"{name}_config") or {} if kind == "siglip" else config)}
            for name, defaults in (("vision", _VISION), ("text", _TEXT))
        )
        if len(sides) == 2 and whole(vision, "hidden_size") != _text_dim(text):
            raise CheckpointError(
                f"{checkpoint.name} embeds pictures in {vision['hidden_size']} dimensions and "
                f"texts in {_text_dim(text)}; they could not be compared"
            )
        image = _image_side(checkpoint, vision) if "image" in sides else None
        words = _text_side(checkpoint, text) if "text" in sides else None
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the configuration of {checkpoint.name} is not usable: {error}"
        ) from None
    scale = bias = None
    if kind == "siglip":
        scale = factor_of(checkpoint, float(checkpoint.tensor("logit_scale", (1,))[0]))
        bias = float(checkpoint.tensor("logit_bias", (1,))[0])
    return ClipModel(
        family=FAMILY,
        name=checkpoint.name,
        revision=checkpoint.revision,
        image=image,
        text=words,
        logit_scale=scale,
        logit_bias=bias,
    )


def _image_side(checkpoint: Checkpoint, section: dict[str, Any]) -> ImageSide:
    side = whole(section, "image_size")
    if whole(section, "num_channels") != 3:
        raise CheckpointError(f"pictures of {section['num_channels']} channels are not supported")
    if not section["vision_use_head"]:
        raise CheckpointError(
            f"{checkpoint.name} has no pooling head (vision_use_head is false), so that its image "
            "tower gives no embedding"
        )
    processor = processor_json(checkpoint).get("image_processor_type", "SiglipImageProcessor")
    if str(processor).removesuffix("Fast").removesuffix("Pil") != "SiglipImageProcessor":
        raise CheckpointError(
            f"{checkpoint.name} has a {processor}; supported is SiglipImageProcessor"
        )
    spec = image_spec(checkpoint, side, _PROCESSOR)
    if (spec.height, spec.width) != (side, side):
        raise CheckpointError(
            f"the processor makes pictures of {spec.height} x {spec.width}, "
            f"the image tower takes {side} x {side}"
        )
    transformer = _transformer(section)
    tower = VitTower(
        height=side,
        width=side,
        patch=whole(section, "patch_size"),
        dim=transformer.width,
        transformer=transformer,
        mean=spec.mean,
        std=spec.std,
        rescale=spec.rescale,
        pooling="attention",
        class_token=False,
        patch_bias=True,
        pre_norm=False,
        projection=False,
    )
    return ImageSide(tower, _image_tensors(checkpoint, tower), spec)


def _text_side(checkpoint: Checkpoint, section: dict[str, Any]) -> TextSide:
    tokenizer = read_siglip_tokenizer(checkpoint)
    transformer = _transformer(section)
    positions, vocabulary = whole(section, "max_position_embeddings"), whole(section, "vocab_size")
    if tokenizer.ids > vocabulary:
        raise CheckpointError(
            f"the tokenizer of {checkpoint.name} has {tokenizer.ids} ids, "
            f"the text tower takes {vocabulary}"
        )
    tower = TextTower(
        vocabulary=vocabulary,
        # Every text is filled up to this length, and pooled at its end.
        context=min(positions, tokenizer.max_length or positions),
        dim=_text_dim(section),
        transformer=transformer,
        pooling="last",
        end_id=tokenizer.end_id,
        causal=False,
        projection="affine",
    )
    spec = TextSpec(
        context_length=tower.context,
        fixed_length=tower.fixed_length,
        pooling=tower.pooling,
        cleaning=tokenizer.cleaning,
        end_id=tokenizer.end_id,
        pad_id=tokenizer.pad_id,
        vocabulary=vocabulary,
    )
    return TextSide(tower, _text_tensors(checkpoint, tower, positions), spec, tokenizer.json)


def _text_dim(section: dict[str, Any]) -> int:
    """Length of a text's embedding: the width, unless the head gives another."""
    named = section["projection_size"] is not None
    return whole(section, "projection_size" if named else "hidden_size")


def _transformer(section: dict[str, Any]) -> TransformerSpec:
    activation = section["hidden_act"]
    if activation not in _ACTIVATIONS:
        raise CheckpointError(
            f"the activation {activation!r} is not supported; "
            f"supported are {', '.join(_ACTIVATIONS)}"
        )
    return TransformerSpec(
        width=whole(section, "hidden_size"),
        layers=whole(section, "num_hidden_layers"),
        heads=whole(section, "num_attention_heads"),
        hidden=whole(section, "intermediate_size"),
        activation=_ACTIVATIONS[activation],
        epsilon=positive(section, "layer_norm_eps"),
    )


def _image_tensors(checkpoint: Checkpoint, tower: VitTower) -> Tensors:
    """The image tower's tensors; the head's three projections are stored as one matrix."""
    width, prefix = tower.transformer.width, _prefix(checkpoint, "vision_model")
    joined = f"{prefix}head.attention.in_proj_"
    stored = {
        f"{prefix}head.probe": (1, 1, width),
        f"{joined}weight": (3 * width, width),
        f"{joined}bias": (3 * width,),
    }
    for name, shape in stored.items():
        checkpoint.check(name, shape)
    alike = {
        name: shape
        for name, shape in tower_tensors(tower).items()
        if name != "head.probe" and _joined_part(name) is None
    }
    named = named_tensors(checkpoint, _prefixed(_IMAGE_NAMES, prefix), alike)
    check_no_more_layers(checkpoint, f"{prefix}encoder.layers", tower.transformer.layers)

    def tensor(name: str) -> NDArray[np.float32]:
        if name == "head.probe":
            key = f"{prefix}head.probe"
            return checkpoint.tensor(key, stored[key]).reshape(width)
        if (part := _joined_part(name)) is not None:
            place, kind = part
            rows = checkpoint.tensor(f"{joined}{kind}", stored[f"{joined}{kind}"])
            return np.asarray(rows[place * width : (place + 1) * width])
        return named(name)

    return tensor


def _joined_part(name: str) -> tuple[int, str] | None:
    """Which third of the head's joined matrix or bias a tensor is, and which of the two."""
    head, _, kind = name.rpartition(".")
    role = head.removeprefix("head.attention.")
    return (_JOINED[role], kind) if head != role and role in _JOINED else None


def _text_tensors(checkpoint: Checkpoint, tower: TextTower, positions: int) -> Tensors:
    """The text tower's tensors; positions that no text reaches are left out."""
    prefix, shapes = _prefix(checkpoint, "text_model"), tower_tensors(tower)
    stored = {**shapes, "positions": (positions, tower.transformer.width)}
    named = named_tensors(checkpoint, _prefixed(_TEXT_NAMES, prefix), stored)
    check_no_more_layers(checkpoint, f"{prefix}encoder.layers", tower.transformer.layers)

    def tensor(name: str) -> NDArray[np.float32]:
        return named(name)[: tower.context] if name == "positions" else named(name)

    return tensor


def _prefix(checkpoint: Checkpoint, name: str) -> str:
    """What stands before a tower's names: nothing where transformers 5 saved the tower alone."""
    found = any(tensor.startswith(f"{name}.") for tensor in checkpoint.names())
    return f"{name}." if found else ""


def _prefixed(names: dict[str, str], prefix: str) -> dict[str, str]:
    return {neutral: prefix + name for neutral, name in names.items()}
