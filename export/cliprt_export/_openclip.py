"""Reads OpenCLIP folders, and OpenAI's released state dict under its own names."""

from __future__ import annotations

import math
from typing import Any

from cliprt._card import TextSpec
from cliprt._errors import CheckpointError
from cliprt_export._checkpoint import SINGLE, SUFFIX, Checkpoint
from cliprt_export._config import whole
from cliprt_export._model import ClipModel, ImageSide, TextSide
from cliprt_export._openclip_config import image_tower, model_section, text_section, text_tower
from cliprt_export._openclip_tensors import OpenClipTensors
from cliprt_export._openclip_text import (
    END_ID,
    OPENAI_TOKENS,
    OPENCLIP_TOKENS,
    folder_tokenizer,
    own_tokenizer,
)
from cliprt_export._specs import TextTower

OPENCLIP = "openclip"
OPENAI = "openai"

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", SINGLE)

# Names that every model of OpenAI's layout has, ViT and ResNet alike.
_OPENAI_NAMES = {
    "visual.conv1.weight",
    "token_embedding.weight",
    "text_projection",
    "ln_final.bias",
}
# Numbers that OpenAI stored beside the weights, what batch norms count while they are trained, and
# a mask that old versions of the library stored.
_IGNORED = ("input_resolution", "context_length", "vocab_size", "attn_mask", "text.attn_mask")
_COUNTER = ".num_batches_tracked"
# Training holds the factor itself at 100 or below.
_MAX_LOG_SCALE = 20.0


def is_openclip(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint has a configuration of OpenCLIP."""
    return (checkpoint.folder / CONFIG).is_file()


def read_openclip(checkpoint: Checkpoint) -> ClipModel:
    """Maps an OpenCLIP checkpoint onto the towers.

    Raises:
        CheckpointError: its files contradict each other, or ask for what is not supported.
    """
    config = checkpoint.json(CONFIG)
    found = [name for name in WEIGHTS if checkpoint.has_weights(name)]
    checkpoint = checkpoint.with_weights(found[0] if found else WEIGHTS[0])
    preprocess = config.get("preprocess_cfg") or {}
    if not isinstance(preprocess, dict):
        raise CheckpointError(f"{CONFIG} of {checkpoint.name} has no usable preprocess_cfg")
    return _read(checkpoint, config.get("model_cfg"), preprocess, OPENCLIP, OPENCLIP_TOKENS)


def is_openai(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint is a safetensors file of OpenAI's names without any configuration."""
    if any((checkpoint.folder / name).is_file() for name in (CONFIG, "config.json")):
        return False
    weights = _only_weights(checkpoint)
    return weights is not None and set(checkpoint.with_weights(weights).names()) >= _OPENAI_NAMES


def read_openai(checkpoint: Checkpoint) -> ClipModel:
    """Maps OpenAI's released state dict, saved as safetensors, onto the towers.

    Raises:
        CheckpointError: tensors are missing, too many, or of shapes that do not fit together.
    """
    weights = _only_weights(checkpoint)
    if weights is None:
        raise CheckpointError(f"{checkpoint.name} does not hold exactly one safetensors file")
    checkpoint = checkpoint.with_weights(weights)
    try:
        config = _openai_config(checkpoint)
    except (ValueError, IndexError):
        raise CheckpointError(
            f"the tensors of {checkpoint.name} have OpenAI's names and other numbers of dimensions"
        ) from None
    return _read(checkpoint, config, {}, OPENAI, OPENAI_TOKENS)


def _only_weights(checkpoint: Checkpoint) -> str | None:
    files = [path.name for path in checkpoint.folder.glob(f"*{SUFFIX}")]
    return files[0] if len(files) == 1 else None


def _read(
    checkpoint: Checkpoint,
    config: Any,
    preprocess: dict[str, Any],
    family: str,
    special: tuple[str, str],
) -> ClipModel:
    stored = set(checkpoint.names())
    try:
        model = model_section(config)
        tower, image_spec = image_tower(model, preprocess)
        section = text_section(model)
        text, text_spec, tokenizer_json = _text(checkpoint, model, section, special)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.name} cannot be read as {family}: {error}") from None
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(
            f"the configuration of {checkpoint.name} is not usable: {error}"
        ) from None
    image_tensors = OpenClipTensors(checkpoint, tower, "visual.")
    # Where the text tower is a part of its own, its tensors bear its name; the library moves them
    # from one place to the other itself.
    prefix = "text." if "text.token_embedding.weight" in stored else ""
    text_tensors = OpenClipTensors(checkpoint, text, prefix)
    _check_all_used(checkpoint, image_tensors.stored_names() | text_tensors.stored_names())
    bias = None
    if "logit_bias" in stored:
        bias = _scalar(checkpoint, "logit_bias")
    elif model["init_logit_bias"] is not None:
        # The library adds none where a model was trained without.
        bias = 0.0
    return ClipModel(
        family=family,
        name=checkpoint.name,
        revision=checkpoint.revision,
        image=ImageSide(tower, image_tensors, image_spec),
        text=TextSide(text, text_tensors, text_spec, tokenizer_json),
        logit_scale=_factor(checkpoint),
        logit_bias=bias,
    )


def _text(
    checkpoint: Checkpoint,
    model: dict[str, Any],
    section: dict[str, Any],
    special: tuple[str, str],
) -> tuple[TextTower, TextSpec, str]:
    """The text tower, its tokens, and the content of its tokenizer.json."""
    named = bool(section["hf_tokenizer_name"])
    tower = text_tower(model, section, whole(section, "eos_id", low=0) if named else END_ID)
    options = dict(section["tokenizer_kwargs"] or {})
    cleaning = options.pop("clean", "whitespace" if named else "lower")
    choices = ("whitespace", "lower", "canonicalize") if named else ("lower", "canonicalize")
    strip = bool(options.pop("strip_sep_token", False)) if named else False
    if options.pop("context_length", tower.context) != tower.context:
        raise CheckpointError("tokenizer_kwargs has another context_length than text_cfg")
    if options or cleaning not in choices:
        raise CheckpointError(
            f"text_cfg has tokenizer_kwargs = {section['tokenizer_kwargs']!r}; supported: clean "
            f"({', '.join(choices)}){', strip_sep_token' if named else ''}"
        )
    pad_id, zeroed_id = 0, None
    if named:
        tokenizer = folder_tokenizer(checkpoint, strip_separator=strip, vocabulary=tower.vocabulary)
        tokenizer_json, pad_id = tokenizer.json, tokenizer.pad_id
        zeroed_id = tokenizer.separator_id
    else:
        tokenizer_json = own_tokenizer(special)
        if tower.vocabulary <= END_ID:
            raise CheckpointError(
                f"text_cfg has vocab_size = {tower.vocabulary}, "
                f"the library's own tokenizer makes ids up to {END_ID}"
            )
    spec = TextSpec(
        context_length=tower.context,
        fixed_length=tower.fixed_length,
        pooling=tower.pooling,
        cleaning=cleaning,
        end_id=tower.end_id,
        pad_id=pad_id,
        zeroed_id=zeroed_id,
        vocabulary=tower.vocabulary,
    )
    return tower, spec, tokenizer_json


def _factor(checkpoint: Checkpoint) -> float:
    """The factor of the cosine similarity, which is stored as its logarithm."""
    scale = _scalar(checkpoint, "logit_scale")
    if scale > _MAX_LOG_SCALE:
        raise CheckpointError(
            f"logit_scale of {checkpoint.name} is {scale:g}, the logarithm of a factor that no "
            "model has"
        )
    return math.exp(scale)


def _scalar(checkpoint: Checkpoint, name: str) -> float:
    """A number, stored as such or as a vector of one."""
    shape = (1,) if name in checkpoint.names() and checkpoint.shape(name) == (1,) else ()
    return float(checkpoint.tensor(name, shape).item())


def _check_all_used(checkpoint: Checkpoint, used: set[str]) -> None:
    """Refuses a checkpoint with tensors that its configuration does not call for.

    They belong to parts that would be left out, and the library refuses them as well.
    """
    known = used | {"logit_scale", "logit_bias", *_IGNORED}
    others = [name for name in checkpoint.names() if name not in known]
    if others := [name for name in others if not name.endswith(_COUNTER)]:
        raise CheckpointError(
            f"{checkpoint.name} holds {len(others)} tensors that its configuration does not call "
            f"for, {others[0]!r} among them; is it the configuration of these weights?"
        )


def _openai_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The configuration that the shapes of OpenAI's tensors speak of."""
    names = checkpoint.names()
    context, text_width = checkpoint.shape("positional_embedding")
    vision: dict[str, Any]
    if "visual.proj" in names:
        width, _, patch, _ = checkpoint.shape("visual.conv1.weight")
        grid = _square_grid(checkpoint, "visual.positional_embedding")
        vision = {
            "layers": _count(names, "visual.transformer.resblocks."),
            "width": width,
            "patch_size": patch,
            "image_size": grid * patch,
        }
    else:
        vision = {
            "layers": [_count(names, f"visual.layer{stage}.") for stage in range(1, 5)],
            "width": checkpoint.shape("visual.layer1.0.conv1.weight")[0],
            "image_size": _square_grid(checkpoint, "visual.attnpool.positional_embedding") * 32,
        }
    return {
        "embed_dim": checkpoint.shape("text_projection")[1],
        "quick_gelu": True,
        "vision_cfg": vision,
        "text_cfg": {
            "context_length": context,
            "vocab_size": checkpoint.shape("token_embedding.weight")[0],
            "width": text_width,
            "heads": text_width // 64,
            "layers": _count(names, "transformer.resblocks."),
        },
    }


def _count(names: list[str], prefix: str) -> int:
    """How many numbers follow the prefix in any names."""
    return len({name[len(prefix) :].split(".")[0] for name in names if name.startswith(prefix)})


def _square_grid(checkpoint: Checkpoint, name: str) -> int:
    """Rows of a square grid that has a position each, and one more for the whole."""
    positions = checkpoint.shape(name)[0] - 1
    side = math.isqrt(positions)
    if side * side != positions:
        raise CheckpointError(
            f"tensor {name!r} of {checkpoint.name} has {positions} positions, no square grid"
        )
    return side
