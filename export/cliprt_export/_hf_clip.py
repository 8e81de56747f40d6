"""Reads Hugging Face CLIP: ``CLIPModel``, and models of one tower with their projection."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliprt._card import ImageSpec, TextSpec
from cliprt._errors import CheckpointError
from cliprt_export._checkpoint import Checkpoint
from cliprt_export._config import positive, triple, whole
from cliprt_export._hf_tokenizer import HfTokenizer
from cliprt_export._model import ClipModel, ImageSide, TextSide
from cliprt_export._specs import (
    Shapes,
    Tensors,
    TextTower,
    TransformerSpec,
    VitTower,
    tower_tensors,
)

FAMILY = "hf-clip"

# The defaults of transformers' CLIPConfig, CLIPVisionConfig and CLIPTextConfig; configurations are
# saved without the keys that equal them.
_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_TEXT = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
_PROCESSOR: dict[str, Any] = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}

# Configurations from before transformers 4.31 carry this id, and models pool at the highest id
# instead (transformers pull request 24773).
_LEGACY_END_ID = 2

_IMAGE_NAMES = {
    "patch.weight": "vision_model.embeddings.patch_embedding.weight",
    "class_token": "vision_model.embeddings.class_embedding",
    "positions": "vision_model.embeddings.position_embedding.weight",
    # Misspelt in the library, and so in every checkpoint.
    "pre_norm": "vision_model.pre_layrnorm",
    "post_norm": "vision_model.post_layernorm",
    "blocks": "vision_model.encoder.layers",
    "projection.weight": "visual_projection.weight",
}
_TEXT_NAMES = {
    "token_embedding": "text_model.embeddings.token_embedding.weight",
    "positions": "text_model.embeddings.position_embedding.weight",
    "post_norm": "text_model.final_layer_norm",
    "blocks": "text_model.encoder.layers",
    "projection.weight": "text_projection.weight",
}
_BLOCK_NAMES = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.out": "self_attn.out_proj",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
}


# Training holds the factor itself at 100 or below.
_MAX_LOG_SCALE = 20.0

_PROCESSORS = ("CLIPImageProcessor", "CLIPFeatureExtractor")

_KINDS = {
    "clip": ("image", "text"),
    "clip_vision_model": ("image",),
    "clip_text_model": ("text",),
}


def is_hf_clip(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint has a configuration of transformers' CLIP."""
    return str(checkpoint.config().get("model_type")) in _KINDS


def read_hf_clip(checkpoint: Checkpoint) -> ClipModel:
    """Maps a checkpoint's configuration and tensors onto the towers.

    Raises:
        CheckpointError: its files contradict each other, or ask for what is not supported.
    """
    config = checkpoint.json("config.json")
    kind = str(config.get("model_type"))
    sides = _KINDS[kind]
    try:
        # A model of one tower has that tower's configuration at the top.
        vision, text = (
            _section(config, f"{name}_config", defaults)
            if kind == "clip"
            else {**defaults, **config}
            for name, defaults in (("vision", _VISION), ("text", _TEXT))
        )
        dim = whole({"projection_dim": 512, **config}, "projection_dim")
        image = _image_side(checkpoint, vision, dim) if "image" in sides else None
        words = _text_side(checkpoint, text, dim) if "text" in sides else None
    except KeyError as error:
        raise CheckpointError(
            f"the configuration of {checkpoint.name} is not usable: {error} is missing"
        ) from None
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the configuration of {checkpoint.name} is not usable: {error}"
        ) from None
    scale = None
    if kind == "clip":
        scale = factor_of(checkpoint, float(checkpoint.tensor("logit_scale", ())))
    return ClipModel(
        family=FAMILY,
        name=checkpoint.name,
        revision=checkpoint.revision,
        image=image,
        text=words,
        logit_scale=scale,
    )


def factor_of(checkpoint: Checkpoint, logarithm: float) -> float:
    """The factor of the cosine similarity from its stored logarithm.

    Raises:
        CheckpointError: it is one that no model has.
    """
    if logarithm > _MAX_LOG_SCALE:
        raise CheckpointError(
            f"logit_scale of {checkpoint.name} is {logarithm:g}, the logarithm of a factor that no "
            "model has"
        )
    return math.exp(logarithm)


def check_no_more_layers(checkpoint: Checkpoint, blocks: str, layers: int) -> None:
    """Refuses a checkpoint whose tower is deeper than its configuration says.

    Args:
        checkpoint: holds the tensors.
        blocks: what stands before the number of a block in their names.
        layers: the number of blocks that the configuration calls for.

    Raises:
        CheckpointError: there are tensors of further blocks.
    """
    for name in checkpoint.names():
        number = name.removeprefix(f"{blocks}.").split(".")[0]
        if name.startswith(f"{blocks}.") and number.isdigit() and int(number) >= layers:
            raise CheckpointError(
                f"{checkpoint.name} has a tensor {name!r}, its config calls for {layers} layers"
            )


def _image_side(checkpoint: Checkpoint, section: dict[str, Any], dim: int) -> ImageSide:
    processor = processor_json(checkpoint)
    kind = processor.get("image_processor_type") or processor.get("feature_extractor_type")
    if kind is not None and str(kind).removesuffix("Fast").removesuffix("Pil") not in _PROCESSORS:
        raise CheckpointError(
            f"{checkpoint.name} has a {kind}; supported is {' or '.join(_PROCESSORS)}"
        )
    spec = image_spec(checkpoint, whole(section, "image_size"), _PROCESSOR)
    tower = _image_tower(section, spec, dim)
    check_no_more_layers(checkpoint, _IMAGE_NAMES["blocks"], tower.transformer.layers)
    tensors = named_tensors(checkpoint, _IMAGE_NAMES, tower_tensors(tower))
    return ImageSide(tower, tensors, spec)


def _text_side(checkpoint: Checkpoint, section: dict[str, Any], dim: int) -> TextSide:
    tower = _text_tower(section, dim)
    check_no_more_layers(checkpoint, _TEXT_NAMES["blocks"], tower.transformer.layers)
    tokenizer = HfTokenizer(checkpoint)
    if tokenizer.greatest_id >= tower.vocabulary:
        raise CheckpointError(
            f"the tokenizer of {checkpoint.name} makes ids up to {tokenizer.greatest_id}, its text "
            f"tower knows {tower.vocabulary} (vocab_size)"
        )
    spec = TextSpec(
        context_length=min(tower.context, tokenizer.max_length or tower.context),
        fixed_length=tower.fixed_length,
        pooling=tower.pooling,
        cleaning="none",
        end_id=tower.end_id,
        pad_id=tokenizer.pad_id,
        vocabulary=tower.vocabulary,
    )
    tensors = named_tensors(checkpoint, _TEXT_NAMES, tower_tensors(tower))
    return TextSide(tower, tensors, spec, tokenizer.json)


def _section(config: dict[str, Any], name: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """A tower's configuration with defaults filled in.

    Where the older key ``vision_config_dict`` or ``text_config_dict`` holds something, transformers
    completes it with defaults and lets it win.
    """
    newer, older = config.get(name) or {}, config.get(f"{name}_dict") or {}
    for key, section in ((name, newer), (f"{name}_dict", older)):
        if not isinstance(section, dict):
            raise ValueError(f"{key} must be an object, got {section!r}")
    values = {**defaults, **newer}
    return {**values, **defaults, **older} if older else values


def _transformer(section: dict[str, Any]) -> TransformerSpec:
    activation = section["hidden_act"]
    if activation not in ("quick_gelu", "gelu"):
        raise CheckpointError(
            f"the activation {activation!r} is not supported; supported are quick_gelu and gelu"
        )
    return TransformerSpec(
        width=whole(section, "hidden_size"),
        layers=whole(section, "num_hidden_layers"),
        heads=whole(section, "num_attention_heads"),
        hidden=whole(section, "intermediate_size"),
        activation=activation,
        epsilon=positive(section, "layer_norm_eps"),
    )


def _image_tower(section: dict[str, Any], spec: ImageSpec, dim: int) -> VitTower:
    side = whole(section, "image_size")
    if section["num_channels"] != 3:
        raise CheckpointError(f"pictures of {section['num_channels']} channels are not supported")
    if (spec.height, spec.width) != (side, side):
        raise CheckpointError(
            f"the processor makes pictures of {spec.height} x {spec.width}, "
            f"the image tower takes {side} x {side}"
        )
    return VitTower(
        height=side,
        width=side,
        patch=whole(section, "patch_size"),
        dim=dim,
        transformer=_transformer(section),
        mean=spec.mean,
        std=spec.std,
        rescale=spec.rescale,
    )


def _text_tower(section: dict[str, Any], dim: int) -> TextTower:
    end_id = whole(section, "eos_token_id", low=0)
    pooling: Literal["end", "highest"] = "end"
    vocabulary = whole(section, "vocab_size")
    if end_id == _LEGACY_END_ID:
        # The true end token is the last id of such vocabularies; pooling does not depend on it.
        pooling, end_id = "highest", vocabulary - 1
    return TextTower(
        vocabulary=vocabulary,
        context=whole(section, "max_position_embeddings"),
        dim=dim,
        transformer=_transformer(section),
        pooling=pooling,
        end_id=end_id,
    )


def image_spec(checkpoint: Checkpoint, side: int, defaults: dict[str, Any]) -> ImageSpec:
    """A processor's steps; keys that its file leaves out have the class's defaults.

    Args:
        checkpoint: holds the processor's file.
        side: of the tower's input, where the processor does not resize.
        defaults: of the processor's class.
    """
    values = {**defaults, **processor_json(checkpoint)}
    size, crop = values["size"], values["crop_size"]
    # Older files have plain numbers: the shorter edge, and a square.
    size = {"shortest_edge": size} if isinstance(size, int) else size
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    resize: Literal["shortest", "squash", "none"] = "none"
    height = width = side
    for key, value in (("size", size), ("crop_size", crop)):
        if not isinstance(value, dict):
            raise ValueError(f"{key} must be a number or an object, got {value!r}")
    if values["do_resize"] and "shortest_edge" in size:
        resize, height = "shortest", whole(size, "shortest_edge")
        width = height
    elif values["do_resize"]:
        resize, height, width = "squash", whole(size, "height"), whole(size, "width")
    cropped = bool(values["do_center_crop"])
    normalised = bool(values["do_normalize"])
    return ImageSpec(
        height=whole(crop, "height") if cropped else height,
        width=whole(crop, "width") if cropped else width,
        resize=resize,
        resize_height=height,
        resize_width=width,
        resample=Image.Resampling(values["resample"]).name.lower(),  # type: ignore[arg-type]
        crop="floor" if cropped else "none",
        convert="first",
        transparency="white",
        mean=triple(values, "image_mean") if normalised else (0.0, 0.0, 0.0),
        std=triple(values, "image_std") if normalised else (1.0, 1.0, 1.0),
        rescale=positive(values, "rescale_factor") if values["do_rescale"] else 1.0,
    )


def processor_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """The image processor's file.

    transformers 5 writes all processors of a checkpoint into processor_config.json and prefers it;
    older versions write preprocessor_config.json.
    """
    if (checkpoint.folder / "processor_config.json").is_file():
        section = checkpoint.json("processor_config.json").get("image_processor")
        if isinstance(section, dict):
            return section
    return checkpoint.json("preprocessor_config.json")


def named_tensors(checkpoint: Checkpoint, names: dict[str, str], shapes: Shapes) -> Tensors:
    """Looks tensors up under the names of transformers' CLIP and SigLIP.

    Args:
        checkpoint: holds them.
        names: transformers' names of what lies outside the blocks.
        shapes: every neutral name with its shape.

    Raises:
        CheckpointError: a tensor is missing, of another shape, or not floating point.
    """
    for name, shape in shapes.items():
        checkpoint.check(_hf_name(name, names), shape)

    def tensor(name: str) -> NDArray[np.float32]:
        return checkpoint.tensor(_hf_name(name, names), shapes[name])

    return tensor


def _hf_name(name: str, names: dict[str, str]) -> str:
    """``blocks.3.mlp.up.bias`` -> ``vision_model.encoder.layers.3.mlp.fc1.bias``, for instance."""
    if name in names:
        return names[name]
    if name.startswith("blocks."):
        _, layer, rest = name.split(".", 2)
        role, kind = rest.rsplit(".", 1)
        return f"{names['blocks']}.{layer}.{_BLOCK_NAMES[role]}.{kind}"
    role, kind = name.rsplit(".", 1)
    return f"{names[role]}.{kind}"
