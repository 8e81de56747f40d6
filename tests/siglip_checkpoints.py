"""SigLIP checkpoints with drawn weights, in Hugging Face format."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from checkpoints import Tensors
from numpy.typing import NDArray
from safetensors.numpy import save_file

Kind = Literal["siglip", "siglip_vision_model", "siglip_text_model"]
Words = Literal["SiglipTokenizer", "GemmaTokenizer", "Siglip2Tokenizer"]

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class SiglipSize:
    """Sizes of a SiglipModel."""

    width: int = 48
    heads: int = 3
    layers: int = 2
    hidden: int = 80
    text_layers: int = 2
    image_size: int = 32
    patch_size: int = 8
    context: int = 64
    act: str = "gelu_pytorch_tanh"


def write_siglip(
    folder: Path,
    size: SiglipSize | None = None,
    *,
    words: Words = "SiglipTokenizer",
    kind: Kind = "siglip",
    seed: int = 0,
    change: Callable[[Tensors], Tensors] = lambda tensors: tensors,
    **tokenizer: Any,
) -> Path:
    """Writes a checkpoint.

    Args:
        folder: where to write.
        size: the model's sizes; None means the defaults.
        words: class of its tokenizer.
        kind: both towers, or one of them.
        seed: of the weights.
        change: alters the tensors before they are written.
        tokenizer: changes of tokenizer_config.json.
    """
    size = size or SiglipSize()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(siglip_config(size, kind, words)))
    if kind != "siglip_text_model":
        (folder / "preprocessor_config.json").write_text(json.dumps(processor(size.image_size)))
    if kind != "siglip_vision_model":
        write_words(folder, words, size.context, **tokenizer)
    tensors = draw(size, vocabulary(words), seed)
    if kind != "siglip":
        prefix = "vision_model." if kind == "siglip_vision_model" else "text_model."
        tensors = {name: array for name, array in tensors.items() if name.startswith(prefix)}
    save_file(change(tensors), folder / "model.safetensors")
    return folder


def siglip_config(size: SiglipSize, kind: Kind = "siglip", words: Words = "SiglipTokenizer") -> Any:
    common = {
        "hidden_size": size.width,
        "intermediate_size": size.hidden,
        "num_attention_heads": size.heads,
        "hidden_act": size.act,
    }
    vision = {
        **common,
        "model_type": "siglip_vision_model",
        "num_hidden_layers": size.layers,
        "image_size": size.image_size,
        "patch_size": size.patch_size,
    }
    text = {
        **common,
        "model_type": "siglip_text_model",
        "num_hidden_layers": size.text_layers,
        "max_position_embeddings": size.context,
        "vocab_size": vocabulary(words),
        "projection_size": size.width,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    if kind != "siglip":
        return vision if kind == "siglip_vision_model" else text
    return {"model_type": "siglip", "vision_config": vision, "text_config": text}


def processor(side: int) -> dict[str, Any]:
    return {
        "image_processor_type": "SiglipImageProcessor",
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def write_words(folder: Path, words: Words, context: int = 64, **changes: Any) -> None:
    """The files of a tokenizer, as published checkpoints have them."""
    folder.mkdir(parents=True, exist_ok=True)
    flags = {"normalized": False, "single_word": False, "special": True}
    if words == "SiglipTokenizer":
        data = gzip.decompress((DATA / "siglip_spiece.model.gz").read_bytes())
        (folder / "spiece.model").write_bytes(data)
        flags |= {"lstrip": True, "rstrip": True}
        config = {
            "added_tokens_decoder": {
                "1": {"content": "</s>", **flags},
                "2": {"content": "<unk>", **flags},
            },
            "eos_token": "</s>",
            "pad_token": "</s>",
            "unk_token": "<unk>",
            "model_max_length": context,
            "do_lower_case": True,
        }
    else:
        data = gzip.decompress((DATA / "siglip2_tokenizer.json.gz").read_bytes())
        (folder / "tokenizer.json").write_bytes(data)
        flags |= {"lstrip": False, "rstrip": False}
        names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
        config = {
            "added_tokens_decoder": {
                str(index): {"content": name, **flags} for index, name in enumerate(names)
            },
            "add_bos_token": False,
            "add_eos_token": True,
            "padding_side": "right",
            "model_max_length": 1000000000000000019884624838656,
        }
    config |= {"tokenizer_class": words, "model_input_names": ["input_ids"], **changes}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def vocabulary(words: Words) -> int:
    """Rows of the token embedding: some more than there are pieces, as in published SigLIP."""
    return 1500 if words == "SiglipTokenizer" else 1210


def draw(size: SiglipSize, rows: int, seed: int) -> Tensors:
    """Weights that keep a signal alive through all layers."""
    drawn = np.random.default_rng(seed)

    def normal(*shape: int, scale: float, offset: float = 0.0) -> NDArray[np.float32]:
        return (drawn.standard_normal(shape) * scale + offset).astype(np.float32)

    def linear(name: str, out: int, into: int) -> Tensors:
        return {
            f"{name}.weight": normal(out, into, scale=into**-0.5),
            f"{name}.bias": normal(out, scale=0.1),
        }

    def norm(name: str) -> Tensors:
        return {
            f"{name}.weight": normal(width, scale=0.2, offset=1.0),
            f"{name}.bias": normal(width, scale=0.1),
        }

    def mlp(name: str) -> Tensors:
        return linear(f"{name}.fc1", size.hidden, width) | linear(f"{name}.fc2", width, size.hidden)

    def encoder(prefix: str, layers: int) -> Tensors:
        tensors: Tensors = {}
        for layer in range(layers):
            block = f"{prefix}.encoder.layers.{layer}"
            for role in ("q_proj", "k_proj", "v_proj", "out_proj"):
                tensors |= linear(f"{block}.self_attn.{role}", width, width)
            tensors |= norm(f"{block}.layer_norm1") | norm(f"{block}.layer_norm2")
            tensors |= mlp(f"{block}.mlp")
        return tensors

    width, patch = size.width, size.patch_size
    grid = (size.image_size // patch) ** 2
    head = "vision_model.head"
    return {
        "vision_model.embeddings.patch_embedding.weight": normal(
            width, 3, patch, patch, scale=(3 * patch**2) ** -0.5
        ),
        "vision_model.embeddings.patch_embedding.bias": normal(width, scale=0.3),
        "vision_model.embeddings.position_embedding.weight": normal(grid, width, scale=0.5),
        **encoder("vision_model", size.layers),
        **norm("vision_model.post_layernorm"),
        f"{head}.probe": normal(1, 1, width, scale=1.0),
        f"{head}.attention.in_proj_weight": normal(3 * width, width, scale=width**-0.5),
        f"{head}.attention.in_proj_bias": normal(3 * width, scale=0.1),
        **linear(f"{head}.attention.out_proj", width, width),
        **norm(f"{head}.layernorm"),
        **mlp(f"{head}.mlp"),
        "text_model.embeddings.token_embedding.weight": normal(rows, width, scale=1.0),
        "text_model.embeddings.position_embedding.weight": normal(size.context, width, scale=0.5),
        **encoder("text_model", size.text_layers),
        **norm("text_model.final_layer_norm"),
        **linear("text_model.head", width, width),
        "logit_scale": np.array([2.3], dtype=np.float32),
        "logit_bias": np.array([-1.7], dtype=np.float32),
    }


SIZES = {
    "small": SiglipSize(),
    "odd heads": SiglipSize(width=35, heads=5),
    "patches that do not divide the side": SiglipSize(image_size=30, patch_size=7),
    "short context": SiglipSize(context=5),
    "one layer, gelu": SiglipSize(layers=1, text_layers=1, act="gelu"),
}
