"""Towers from the ``model_cfg`` of an ``open_clip_config.json``.

Every key is known here: it decides a size, has no effect on embeddings, or is refused. So no
configuration is read as something it is not.
"""

from __future__ import annotations

from typing import Any

from cliprt._card import ImageSpec
from cliprt._errors import CheckpointError
from cliprt_export._config import positive, whole
from cliprt_export._openclip_images import image_spec
from cliprt_export._specs import (
    Activation,
    ImageTower,
    ResNetTower,
    TextTower,
    TransformerSpec,
    VitTower,
)

# Defaults of OpenCLIP's CLIPVisionCfg and CLIPTextCfg.
_VISION: dict[str, Any] = {
    "layers": 12,
    "width": 768,
    "head_width": 64,
    "mlp_ratio": 4.0,
    "patch_size": 16,
    "image_size": 224,
    "ls_init_value": None,
    "no_ln_pre": False,
    "pos_embed_type": "learnable",
    "final_ln_after_pool": False,
    "pool_type": "tok",
    "act_kwargs": None,
    "norm_kwargs": None,
}
_TEXT: dict[str, Any] = {
    "context_length": 77,
    "vocab_size": 49408,
    "hf_tokenizer_name": None,
    "tokenizer_kwargs": None,
    "width": 512,
    "heads": 8,
    "layers": 12,
    "mlp_ratio": 4.0,
    "ls_init_value": None,
    "eos_id": 2,
    "no_causal_mask": False,
    "pool_type": "argmax",
    "proj_bias": False,
    "proj_type": "linear",
    "act_kwargs": None,
    "norm_kwargs": None,
}
_MODEL: dict[str, Any] = {
    "embed_dim": None,
    "vision_cfg": None,
    "text_cfg": None,
    "quick_gelu": False,
    "init_logit_bias": None,
}
# Other kinds of towers and of attention. Absent, null, false and 0 mean OpenCLIP's plain blocks.
_BLOCKS = (
    "block_type",
    "qk_norm",
    "scaled_cosine_attn",
    "scale_heads",
    "scale_attn_inner",
    "scale_attn",
    "scale_fc",
)
_REFUSED = {
    "model_cfg": ("multimodal_cfg",),
    "vision_cfg": ("timm_model_name", "attentional_pool", *_BLOCKS),
    "text_cfg": ("hf_model_name", "embed_cls", "tokenizer_mode", *_BLOCKS),
}
# Training, other kinds of towers, or beginnings that the weights replace.
_WITHOUT_EFFECT = {
    "model_cfg": ("custom_text", "init_logit_scale", "nonscalar_logit_scale", "output_dict"),
    "vision_cfg": (
        "patch_dropout",
        "attn_pooler_queries",
        "attn_pooler_heads",
        "output_tokens",
        "timm_model_pretrained",
        "timm_pool",
        "timm_proj",
        "timm_proj_bias",
        "timm_drop",
        "timm_drop_path",
    ),
    "text_cfg": (
        "pad_id",
        # The library reads this key and does nothing with it.
        "final_ln_after_pool",
        "output_tokens",
        "hf_model_pretrained",
        "hf_proj_type",
        "hf_pooler_type",
    ),
}
_SUPPORTED = "see `cliprt models` for what is"


def model_section(config: dict[str, Any]) -> dict[str, Any]:
    """``model_cfg`` with defaults filled in.

    Raises:
        CheckpointError: it asks for what is not supported.
    """
    return _section(config, "model_cfg", _MODEL)


def image_tower(model: dict[str, Any], preprocess: dict[str, Any]) -> tuple[ImageTower, ImageSpec]:
    """The image tower and its preprocessing.

    Args:
        model: ``model_section``'s result.
        preprocess: ``preprocess_cfg``.

    Raises:
        CheckpointError: something is asked for that is not supported.
        ValueError: sizes contradict each other.
    """
    vision = _section(model["vision_cfg"], "vision_cfg", _VISION)
    height, width = _pair(vision["image_size"])
    spec = image_spec(preprocess, height, width)
    channels = whole(vision, "width")
    head_width = whole(vision, "head_width")
    if isinstance(vision["layers"], (list, tuple)):
        one, two, three, four = map(int, vision["layers"])
        return (
            ResNetTower(
                height=height,
                width=width,
                dim=whole(model, "embed_dim"),
                stem=channels,
                blocks=(one, two, three, four),
                heads=channels * 32 // head_width,
                mean=spec.mean,
                std=spec.std,
                rescale=spec.rescale,
            ),
            spec,
        )
    _check_choice(vision, "vision_cfg", "pool_type", ("tok", "avg"))
    _check_choice(vision, "vision_cfg", "pos_embed_type", ("learnable", "sin_cos_2d"))
    patch, other = _pair(vision["patch_size"])
    if patch != other:
        raise CheckpointError(f"patches of {patch} x {other} are not supported, only square ones")
    return (
        VitTower(
            height=height,
            width=width,
            patch=patch,
            dim=whole(model, "embed_dim"),
            transformer=_transformer(
                vision, "vision_cfg", channels // head_width, bool(model["quick_gelu"])
            ),
            mean=spec.mean,
            std=spec.std,
            rescale=spec.rescale,
            pooling="average" if vision["pool_type"] == "avg" else "class",
            pre_norm=not vision["no_ln_pre"],
            norm_after_pooling=vision["pool_type"] == "avg" and bool(vision["final_ln_after_pool"]),
        ),
        spec,
    )


def text_section(model: dict[str, Any]) -> dict[str, Any]:
    """``text_cfg`` with defaults filled in.

    Raises:
        CheckpointError: it asks for what is not supported.
    """
    return _section(model["text_cfg"], "text_cfg", _TEXT)


def text_tower(model: dict[str, Any], text: dict[str, Any], end_id: int) -> TextTower:
    """The text tower.

    Args:
        model: ``model_section``'s result.
        text: ``text_section``'s result.
        end_id: of the tokenizer; ``eos_id`` where the configuration pools at that.

    Raises:
        CheckpointError: something is asked for that is not supported.
        ValueError: sizes contradict each other.
    """
    _check_choice(text, "text_cfg", "pool_type", ("argmax", "eos", "first", "last"))
    _check_choice(text, "text_cfg", "proj_type", ("linear", "none"))
    projection = "affine" if text["proj_bias"] else "linear"
    pooling = {"argmax": "highest", "eos": "end"}.get(text["pool_type"], text["pool_type"])
    return TextTower(
        vocabulary=whole(text, "vocab_size"),
        context=whole(text, "context_length"),
        dim=whole(model, "embed_dim"),
        transformer=_transformer(text, "text_cfg", whole(text, "heads"), bool(model["quick_gelu"])),
        pooling=pooling,
        end_id=whole(text, "eos_id", low=0) if pooling == "end" else end_id,
        causal=not text["no_causal_mask"],
        projection="none" if text["proj_type"] == "none" else projection,  # type: ignore[arg-type]
    )


def _transformer(
    section: dict[str, Any], name: str, heads: int, quick_gelu: bool
) -> TransformerSpec:
    activation: Activation = "quick_gelu" if quick_gelu else "gelu"
    act = dict(section["act_kwargs"] or {})
    approximate = act.pop("approximate", "none")
    if act or approximate not in ("none", "tanh") or (quick_gelu and section["act_kwargs"]):
        raise CheckpointError(
            f"{name} has act_kwargs = {section['act_kwargs']!r}; supported is "
            "{'approximate': 'tanh'} or {'approximate': 'none'} without quick_gelu"
        )
    if approximate == "tanh":
        activation = "gelu_tanh"
    norm = dict(section["norm_kwargs"] or {})
    epsilon = positive({"eps": norm.pop("eps", 1e-5)}, "eps")
    if norm:
        raise CheckpointError(
            f"{name} has norm_kwargs = {section['norm_kwargs']!r}; supported is eps alone"
        )
    width = whole(section, "width")
    return TransformerSpec(
        width=width,
        layers=whole(section, "layers"),
        heads=heads,
        hidden=int(width * positive(section, "mlp_ratio")),
        activation=activation,
        epsilon=epsilon,
        layer_scale=section["ls_init_value"] is not None,
    )


def _section(config: Any, name: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """A section with defaults filled in, once every key in it is known."""
    if not isinstance(config, dict):
        raise CheckpointError(f"open_clip_config.json has no usable {name}")
    for key, value in config.items():
        if key in _REFUSED[name]:
            if value and (key, value) != ("block_type", "default"):
                raise CheckpointError(
                    f"{name} has {key} = {_short(value)}, which is not supported; {_SUPPORTED}"
                )
        elif key not in defaults and key not in _WITHOUT_EFFECT[name]:
            raise CheckpointError(f"{name} has an unknown key, {key} = {_short(value)}")
    return {**defaults, **{key: config[key] for key in defaults if key in config}}


def _check_choice(section: dict[str, Any], name: str, key: str, choices: tuple[str, ...]) -> None:
    if section[key] not in choices:
        raise CheckpointError(
            f"{name} has {key} = {section[key]!r}; supported: {', '.join(choices)}"
        )


def _pair(value: Any) -> tuple[int, int]:
    """Rows and columns of what may be given as one number."""
    rows, columns = value if isinstance(value, (list, tuple)) else (value, value)
    sides = {"rows": rows, "columns": columns}
    return whole(sides, "rows"), whole(sides, "columns")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
