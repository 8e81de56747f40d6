"""OpenCLIP and OpenAI checkpoints with drawn weights, small enough for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import Tensors
from numpy.typing import NDArray
from safetensors.numpy import save_file

Config = dict[str, Any]

VIT: Config = {"image_size": 32, "layers": 2, "width": 48, "head_width": 16, "patch_size": 8}
TEXT: Config = {"width": 32, "heads": 2, "layers": 2}
RESNET: Config = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "head_width": 32}
CLIPA: Config = {
    **TEXT,
    "context_length": 16,
    "vocab_size": 120,
    "hf_tokenizer_name": "bert-base-uncased",
    "tokenizer_kwargs": {"strip_sep_token": True},
    "pool_type": "last",
    "no_causal_mask": True,
}
PLAIN: Config = {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT}


def _with(vision: Config | None = None, text: Config | None = None, **model: Any) -> Config:
    return {
        "embed_dim": 24,
        "vision_cfg": {**VIT, **(vision or {})},
        "text_cfg": {**TEXT, **(text or {})},
        **model,
    }


VARIANTS: dict[str, Config] = {
    "plain": PLAIN,
    "quick gelu": _with(quick_gelu=True),
    "average pooling": _with({"pool_type": "avg"}),
    "average pooling, norm after it": _with({"pool_type": "avg", "final_ln_after_pool": True}),
    "class token, norm after pooling": _with({"final_ln_after_pool": True}),
    "no norm before the blocks": _with({"no_ln_pre": True}),
    "layer scale": _with({"ls_init_value": 0.1}, {"ls_init_value": 0.1}),
    "heads of odd widths": _with({"width": 45, "head_width": 9}, {"width": 33, "heads": 3}),
    "mlp ratio": _with({"mlp_ratio": 2.6667}, {"mlp_ratio": 3.5}),
    "gelu by tanh, another epsilon": _with(
        {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-3}},
        {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-3}},
    ),
    "not square": _with({"image_size": [24, 40]}),
    "patches that do not divide the side": _with({"image_size": 30, "patch_size": 7}),
    "pooled at an id": _with(text={"pool_type": "eos", "eos_id": 320}),
    "pooled at the first token, not causal": _with(
        text={"pool_type": "first", "no_causal_mask": True, "context_length": 20}
    ),
    "no text projection": _with(text={"proj_type": "none", "width": 24}),
    "text apart, projected with a bias": _with(
        text={"proj_bias": True}, custom_text=True, init_logit_bias=-10
    ),
    "canonicalised": _with(text={"tokenizer_kwargs": {"clean": "canonicalize"}}),
    "clipa": {
        "embed_dim": 24,
        "vision_cfg": {
            **VIT,
            "pool_type": "avg",
            "final_ln_after_pool": True,
            "no_ln_pre": True,
        },
        "text_cfg": CLIPA,
    },
    "resnet": {"embed_dim": 24, "vision_cfg": RESNET, "text_cfg": TEXT},
    "resnet, quick gelu": {
        "embed_dim": 20,
        "quick_gelu": True,
        "vision_cfg": {**RESNET, "layers": [2, 1, 1, 2], "width": 16},
        "text_cfg": TEXT,
    },
    "resnet, not square": {
        "embed_dim": 24,
        "vision_cfg": {**RESNET, "image_size": [64, 96], "layers": [1, 1, 1, 1]},
        "text_cfg": TEXT,
    },
}

# OpenAI's models have heads of width 64, so that these are the smallest there can be.
OPENAI: dict[str, Config] = {
    "vit": {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 24, "layers": 2, "width": 128, "patch_size": 8},
        "text_cfg": {"width": 64, "heads": 1, "layers": 2, "context_length": 20},
    },
    "resnet": {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8},
        "text_cfg": {"width": 64, "heads": 1, "layers": 1, "context_length": 20},
    },
}


def write_openclip(
    folder: Path,
    model: Config,
    *,
    preprocess: Config | None = None,
    weights: str = "open_clip_model.safetensors",
    shards: int = 1,
    seed: int = 0,
) -> Path:
    """Writes an OpenCLIP folder.

    Args:
        folder: where to write.
        model: ``model_cfg``.
        preprocess: ``preprocess_cfg``.
        weights: name of the tensors' file, or of their index's stem.
        shards: number of safetensors files; more than one come with an index.
        seed: of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": model, "preprocess_cfg": preprocess or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    if model["text_cfg"].get("hf_tokenizer_name"):
        write_wordpiece(folder)
    tensors = draw_openclip(model, seed)
    if shards == 1:
        save_file(tensors, folder / weights)
        return folder
    stem, weight_map = weights.removesuffix(".safetensors"), {}
    for shard in range(shards):
        file = f"{stem}-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[shard::shards]}
        save_file(part, folder / file)
        weight_map.update(dict.fromkeys(part, file))
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return folder


def write_openai(folder: Path, model: Config, *, seed: int = 0) -> Path:
    """Writes OpenAI's state dict as released: half weights, three numbers beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = draw_openclip(model, seed)
    kept = ("ln_", "bn", "downsample.1", "logit_scale", "embedding")
    for name, array in tensors.items():
        if array.dtype == np.float32 and not any(part in name for part in kept):
            tensors[name] = array.astype(np.float16)
    tensors["input_resolution"] = np.array(model["vision_cfg"]["image_size"])
    tensors["context_length"] = np.array(model["text_cfg"].get("context_length", 77))
    tensors["vocab_size"] = np.array(49408)
    save_file(tensors, folder / "ViT-or-RN.safetensors")
    return folder


def write_wordpiece(folder: Path) -> None:
    """A small vocabulary in the manner of bert-base-uncased."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words += ["##s", "##ing", "##ed", "photo", "cat", "of", "the", "red", "##1", "##a", "##e"]
    vocabulary = {word: index for index, word in enumerate(words)}
    special = [
        {
            "id": index,
            "content": words[index],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for index in range(5)
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    names = {"pad_token": "[PAD]", "sep_token": "[SEP]", "cls_token": "[CLS]"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                **names,
                "unk_token": "[UNK]",
                "mask_token": "[MASK]",
                "do_lower_case": True,
                "tokenizer_class": "BertTokenizer",
                "model_max_length": 512,
            }
        )
    )


def draw_openclip(model: Config, seed: int = 0) -> Tensors:
    """The state dict of a ``model_cfg``, in OpenCLIP's names and layouts."""
    draw = _Draw(seed)
    dim, vision, text = model["embed_dim"], model["vision_cfg"], model["text_cfg"]
    if isinstance(vision["layers"], list):
        image = draw.resnet(vision, dim)
    else:
        image = draw.vit(vision, dim)
    prefix = "text." if model.get("custom_text") else ""
    tensors = {f"visual.{name}": array for name, array in image.items()}
    tensors |= {f"{prefix}{name}": array for name, array in draw.text(text, dim).items()}
    tensors["logit_scale"] = np.array(4.6052, dtype=np.float32)
    if model.get("init_logit_bias") is not None:
        tensors["logit_bias"] = np.array(model["init_logit_bias"], dtype=np.float32)
    return tensors


class _Draw:
    """Weights that keep a signal alive through all layers, so that every part matters."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def uniform(self, *shape: int, scale: float = 0.5, offset: float = 0.0) -> NDArray[np.float32]:
        raw = self._bits.random_raw(int(np.prod(shape))) >> np.uint64(40)
        values = raw.astype(np.float32) * 2.0**-23 - 1
        return (values * np.float32(scale) + np.float32(offset)).reshape(shape)

    def linear(self, name: str, out: int, into: int, gain: float = 1.0) -> Tensors:
        return {
            f"{name}weight": self.uniform(out, into, scale=gain * (3 / into) ** 0.5),
            f"{name}bias": self.uniform(out, scale=0.1),
        }

    def norm(self, name: str, width: int) -> Tensors:
        return {
            f"{name}.weight": self.uniform(width, scale=0.2, offset=1.0),
            f"{name}.bias": self.uniform(width, scale=0.1),
        }

    def blocks(self, config: Config, width: int) -> Tensors:
        hidden = int(width * config.get("mlp_ratio", 4.0))
        tensors: Tensors = {}
        for layer in range(config["layers"]):
            block = f"transformer.resblocks.{layer}"
            tensors |= self.norm(f"{block}.ln_1", width) | self.norm(f"{block}.ln_2", width)
            tensors |= self.linear(f"{block}.attn.in_proj_", 3 * width, width)
            tensors |= self.linear(f"{block}.attn.out_proj.", width, width, 0.5)
            tensors |= self.linear(f"{block}.mlp.c_fc.", hidden, width)
            tensors |= self.linear(f"{block}.mlp.c_proj.", width, hidden, 0.5)
            if config.get("ls_init_value") is not None:
                tensors[f"{block}.ls_1.gamma"] = self.uniform(width, scale=0.3, offset=0.5)
                tensors[f"{block}.ls_2.gamma"] = self.uniform(width, scale=0.3, offset=0.5)
        return tensors

    def vit(self, config: Config, dim: int) -> Tensors:
        width, patch, size = config["width"], config["patch_size"], config["image_size"]
        rows, columns = size if isinstance(size, list) else (size, size)
        tokens = (rows // patch) * (columns // patch) + 1
        tensors = {
            "class_embedding": self.uniform(width),
            "positional_embedding": self.uniform(tokens, width),
            "conv1.weight": self.convolution(width, 3, patch),
            **self.blocks(config, width),
            **self.norm("ln_post", width),
            "proj": self.uniform(width, dim, scale=(3 / width) ** 0.5),
        }
        if not config.get("no_ln_pre"):
            tensors |= self.norm("ln_pre", width)
        return tensors

    def text(self, config: Config, dim: int) -> Tensors:
        width = config["width"]
        tensors = {
            "token_embedding.weight": self.uniform(
                config.get("vocab_size", 49408), width, scale=1.0
            ),
            "positional_embedding": self.uniform(config.get("context_length", 77), width),
            **self.blocks(config, width),
            **self.norm("ln_final", width),
        }
        if config.get("proj_type") == "none":
            return tensors
        if config.get("proj_bias"):
            return tensors | self.linear("text_projection.", dim, width)
        return tensors | {"text_projection": self.uniform(width, dim, scale=(3 / width) ** 0.5)}

    def convolution(self, out: int, into: int, side: int) -> NDArray[np.float32]:
        return self.uniform(out, into, side, side, scale=(3 / (into * side * side)) ** 0.5)

    def batch_norm(self, name: str, channels: int) -> Tensors:
        return {
            f"{name}.weight": self.uniform(channels, scale=0.4, offset=1.0),
            f"{name}.bias": self.uniform(channels, scale=0.3),
            f"{name}.running_mean": self.uniform(channels, scale=0.3),
            f"{name}.running_var": self.uniform(channels, scale=0.4, offset=0.6),
            f"{name}.num_batches_tracked": np.array(7),
        }

    def resnet(self, config: Config, dim: int) -> Tensors:
        stem, size = config["width"], config["image_size"]
        rows, columns = size if isinstance(size, list) else (size, size)
        tensors: Tensors = {}
        for place, (out, into) in enumerate(
            ((stem // 2, 3), (stem // 2, stem // 2), (stem, stem // 2)), start=1
        ):
            tensors[f"conv{place}.weight"] = self.convolution(out, into, 3)
            tensors |= self.batch_norm(f"bn{place}", out)
        channels = stem
        for stage, blocks in enumerate(config["layers"]):
            planes = stem * 2**stage
            for block in range(blocks):
                name = f"layer{stage + 1}.{block}"
                sizes = ((planes, channels, 1), (planes, planes, 3), (4 * planes, planes, 1))
                for place, (out, into, side) in enumerate(sizes, start=1):
                    tensors[f"{name}.conv{place}.weight"] = self.convolution(out, into, side)
                    tensors |= self.batch_norm(f"{name}.bn{place}", out)
                if block == 0:
                    tensors[f"{name}.downsample.0.weight"] = self.convolution(
                        4 * planes, channels, 1
                    )
                    tensors |= self.batch_norm(f"{name}.downsample.1", 4 * planes)
                channels = 4 * planes
        tensors["attnpool.positional_embedding"] = self.uniform(
            rows // 32 * (columns // 32) + 1, channels
        )
        for role in ("q_proj", "k_proj", "v_proj"):
            tensors |= self.linear(f"attnpool.{role}.", channels, channels)
        return tensors | self.linear("attnpool.c_proj.", dim, channels)
