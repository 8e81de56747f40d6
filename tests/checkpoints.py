"""Checkpoints with drawn weights, in Hugging Face format, for tests that need a size or a shape.

The weights come from raw generator bits, whose stream NumPy guarantees for ever, so that golden
files made from them stay right under any version of NumPy.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

MERGES = Path(__file__).parent.parent / "export" / "cliprt_export" / "data" / "clip_merges.txt.gz"

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Size:
    """Sizes of a CLIPModel, as its configuration names them."""

    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    text_width: int
    text_layers: int
    text_heads: int
    dim: int
    context: int = 77
    act: str = "quick_gelu"


VIT_B_32 = Size(224, 32, 768, 12, 12, 512, 12, 8, 512)
SMALL = Size(32, 8, 48, 2, 3, 32, 3, 2, 24)


def write_checkpoint(
    folder: Path,
    size: Size,
    *,
    seed: int = 0,
    eos_token_id: int = 49407,
    change: Callable[[Tensors], Tensors] = lambda tensors: tensors,
    shards: int = 1,
) -> Path:
    """Writes a checkpoint with OpenAI's vocabulary and drawn weights.

    Args:
        folder: where to write.
        size: the model's sizes.
        seed: of the weights.
        eos_token_id: 2 makes a legacy configuration.
        change: alters the tensors before they are written.
        shards: number of safetensors files; more than one come with an index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(size, eos_token_id)))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor(size.image_size)))
    write_tokenizer(folder, size.context)
    tensors = change(draw_tensors(size, seed))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names = sorted(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        save_file(part, folder / file)
        weight_map.update(dict.fromkeys(part, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def config(size: Size, eos_token_id: int = 49407) -> dict[str, Any]:
    common = {"hidden_act": size.act, "layer_norm_eps": 1e-5, "projection_dim": size.dim}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": size.dim,
        "vision_config": {
            **common,
            "model_type": "clip_vision_model",
            "hidden_size": size.vision_width,
            "intermediate_size": 4 * size.vision_width,
            "num_hidden_layers": size.vision_layers,
            "num_attention_heads": size.vision_heads,
            "image_size": size.image_size,
            "patch_size": size.patch_size,
        },
        "text_config": {
            **common,
            "model_type": "clip_text_model",
            "hidden_size": size.text_width,
            "intermediate_size": 4 * size.text_width,
            "num_hidden_layers": size.text_layers,
            "num_attention_heads": size.text_heads,
            "max_position_embeddings": size.context,
            "vocab_size": 49408,
            "bos_token_id": 49406,
            "eos_token_id": eos_token_id,
            "pad_token_id": 49407,
        },
    }


def preprocessor(side: int) -> dict[str, Any]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }


def write_tokenizer(folder: Path, context: int = 77) -> None:
    """OpenAI's vocabulary: 256 bytes, the same at a word's end, the merges, two special tokens."""
    merges = gzip.decompress(MERGES.read_bytes()).decode().splitlines()
    letters = _byte_letters()
    words = letters + [letter + "</w>" for letter in letters]
    words += [merge.replace(" ", "") for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(
        json.dumps({word: index for index, word in enumerate(words)}), encoding="utf-8"
    )
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
    special = {"lstrip": False, "rstrip": False, "single_word": False, "special": True}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "CLIPTokenizer",
                "model_max_length": context,
                "bos_token": "<|startoftext|>",
                "eos_token": "<|endoftext|>",
                "pad_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>",
                "added_tokens_decoder": {
                    "49406": {"content": "<|startoftext|>", "normalized": True, **special},
                    "49407": {"content": "<|endoftext|>", "normalized": False, **special},
                },
            }
        )
    )


def draw_tensors(size: Size, seed: int = 0) -> Tensors:
    """Weights that keep a signal alive through all layers, so that every part matters."""
    bits = np.random.PCG64(seed)

    def uniform(*shape: int, scale: float, offset: float = 0.0) -> NDArray[np.float32]:
        count = int(np.prod(shape))
        values = (bits.random_raw(count) >> np.uint64(40)).astype(np.float32) * 2.0**-23 - 1
        return (values * np.float32(scale) + np.float32(offset)).reshape(shape)

    def linear(name: str, out: int, into: int, gain: float = 1.0, bias: bool = True) -> Tensors:
        tensors: Tensors = {f"{name}.weight": uniform(out, into, scale=gain * (3 / into) ** 0.5)}
        if bias:
            tensors[f"{name}.bias"] = uniform(out, scale=0.1)
        return tensors

    def norm(name: str, width: int) -> Tensors:
        return {
            f"{name}.weight": uniform(width, scale=0.2, offset=1.0),
            f"{name}.bias": uniform(width, scale=0.1),
        }

    def encoder(prefix: str, width: int, layers: int) -> Tensors:
        tensors: Tensors = {}
        for layer in range(layers):
            block = f"{prefix}.encoder.layers.{layer}"
            for role in ("q_proj", "k_proj", "v_proj"):
                tensors |= linear(f"{block}.self_attn.{role}", width, width)
            tensors |= linear(f"{block}.self_attn.out_proj", width, width, 0.5)
            tensors |= norm(f"{block}.layer_norm1", width) | norm(f"{block}.layer_norm2", width)
            tensors |= linear(f"{block}.mlp.fc1", 4 * width, width)
            tensors |= linear(f"{block}.mlp.fc2", width, 4 * width, 0.5)
        return tensors

    vision, text = size.vision_width, size.text_width
    patches = (size.image_size // size.patch_size) ** 2
    patch_inputs = 3 * size.patch_size**2
    embeddings = "vision_model.embeddings"
    return {
        f"{embeddings}.class_embedding": uniform(vision, scale=0.5),
        f"{embeddings}.patch_embedding.weight": uniform(
            vision, 3, size.patch_size, size.patch_size, scale=(3 / patch_inputs) ** 0.5
        ),
        f"{embeddings}.position_embedding.weight": uniform(patches + 1, vision, scale=0.5),
        **norm("vision_model.pre_layrnorm", vision),
        **encoder("vision_model", vision, size.vision_layers),
        **norm("vision_model.post_layernorm", vision),
        **linear("visual_projection", size.dim, vision, bias=False),
        "text_model.embeddings.token_embedding.weight": uniform(49408, text, scale=1.0),
        "text_model.embeddings.position_embedding.weight": uniform(size.context, text, scale=0.5),
        **encoder("text_model", text, size.text_layers),
        **norm("text_model.final_layer_norm", text),
        **linear("text_projection", size.dim, text, bias=False),
        "logit_scale": np.array(4.6052, dtype=np.float32),
    }


def _byte_letters() -> list[str]:
    """The printable letter of each byte, in the order of OpenAI's vocabulary (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
