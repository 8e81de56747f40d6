"""What can be wrong with a checkpoint's files, and how export says it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import SMALL, Tensors, draw_tensors
from safetensors.numpy import save_file

WEIGHTS = "model.safetensors"
PROJECTION = "visual_projection.weight"
TOKENS = "text_model.embeddings.token_embedding.weight"
MANY = 10**9

Damage = Callable[[Path], object]


def edit(folder: Path, name: str, change: Callable[[Any], object]) -> None:
    """Changes a JSON file: the content in place, or by what the function returns."""
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    replaced = change(content)
    content = content if replaced is None else replaced
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def in_vision(**values: object) -> Damage:
    return lambda folder: edit(folder, "config.json", lambda c: c["vision_config"].update(values))


def in_text(**values: object) -> Damage:
    return lambda folder: edit(folder, "config.json", lambda c: c["text_config"].update(values))


def in_config(**values: object) -> Damage:
    return lambda folder: edit(folder, "config.json", lambda c: c.update(values))


def in_processor(**values: object) -> Damage:
    return lambda folder: edit(folder, "preprocessor_config.json", lambda c: c.update(values))


def file_of(name: str, content: bytes) -> Damage:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


def tensors(change: Callable[[Tensors], object]) -> Damage:
    def write(folder: Path) -> None:
        drawn = draw_tensors(SMALL)
        change(drawn)
        save_file(drawn, folder / WEIGHTS)

    return write


def put(name: str, value: float) -> Damage:
    """One component of a tensor gets a value."""
    return tensors(lambda drawn: drawn[name].reshape(-1).__setitem__(0, value))


def cut(keep: Callable[[int], int]) -> Damage:
    def write(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(content[: keep(len(content))])

    return write


def header(changes: Callable[[dict[str, Any]], object]) -> Damage:
    """Rewrites the header of the tensor file and leaves the data as they are."""

    def write(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        entries = json.loads(content[8 : 8 + length])
        changes(entries)
        packed = json.dumps(entries).encode()
        data = content[8 + length :]
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(packed)) + packed + data)

    return write


def more_merges_than_rows(folder: Path) -> None:
    """A word with an id far beyond the embedding table."""
    edit(folder, "vocab.json", lambda words: words.update({"beyond</w>": 60000}))


# What is done to a good checkpoint, and what the message says.
BROKEN: dict[str, tuple[Damage, str]] = {
    "empty weights": (cut(lambda size: 0), r"model\.safetensors of broken cannot be read"),
    "half the header": (cut(lambda size: 100), r"model\.safetensors of broken cannot be read"),
    "last byte missing": (cut(lambda size: size - 1), r"model\.safetensors of broken cannot be"),
    "garbage": (file_of(WEIGHTS, bytes(range(256)) * 9), r"model\.safetensors of broken cannot"),
    "header no JSON": (
        file_of(WEIGHTS, struct.pack("<Q", 8) + b"{{{{{{{{"),
        r"model\.safetensors of broken cannot be read",
    ),
    "tensor beyond the file": (
        header(lambda entries: entries[PROJECTION].update(data_offsets=[0, 10**12])),
        r"model\.safetensors of broken cannot be read",
    ),
    "tensor of a type that nothing has": (
        header(lambda entries: entries[PROJECTION].update(dtype="Q4")),
        r"model\.safetensors of broken cannot be read",
    ),
    "transposed tensor": (
        tensors(lambda t: t.update({PROJECTION: t[PROJECTION].T.copy()})),
        r"'visual_projection\.weight' of broken has shape \[48, 24\].*\[24, 48\]",
    ),
    "missing tensor of the last layer": (
        tensors(lambda t: t.pop("text_model.encoder.layers.2.mlp.fc2.bias")),
        r"no tensor 'text_model\.encoder\.layers\.2\.mlp\.fc2\.bias'",
    ),
    "no tensors": (tensors(lambda t: t.clear()), "broken has no tensor "),
    "NaN": (
        put("text_projection.weight", np.nan),
        r"'text_projection\.weight' of broken holds NaN",
    ),
    "infinity": (
        put(PROJECTION, np.inf),
        r"'visual_projection\.weight' of broken holds NaN or inf",
    ),
    "infinite logit scale": (
        put("logit_scale", np.inf),
        "'logit_scale' of broken holds NaN or inf",
    ),
    "huge logit scale": (put("logit_scale", 800), "logit_scale of broken is 800"),
    "integers": (
        tensors(lambda t: t.update({PROJECTION: t[PROJECTION].astype(np.int32)})),
        r"'visual_projection\.weight' of broken is I32; supported are F32, F16, F64 and BF16",
    ),
    "config no JSON": (file_of("config.json", b"{"), r"config\.json of broken cannot be read"),
    "config no text": (file_of("config.json", b"\xff\xfe{"), r"config\.json of broken cannot be"),
    "config a list": (file_of("config.json", b"[]"), r"config\.json of broken is no JSON object"),
    "config without end": (
        file_of("config.json", b"[" * 100_000),
        r"config\.json of broken cannot be read",
    ),
    "config with NaN": (
        file_of("preprocessor_config.json", b'{"rescale_factor": NaN}'),
        r"preprocessor_config\.json of broken cannot be read: it holds NaN",
    ),
    "model type a list": (in_config(model_type=["clip"]), r"model_type \['clip'\]"),
    "section a list": (in_config(vision_config=[1]), r"vision_config must be an object, got \[1\]"),
    "projection a string": (
        in_config(projection_dim="24"),
        "projection_dim must be a whole number",
    ),
    "projection null": (in_config(projection_dim=None), "projection_dim must be a whole number"),
    "width a string": (in_vision(hidden_size="48"), "hidden_size must be a whole .*got '48'"),
    "width a fraction": (in_vision(hidden_size=48.0), r"hidden_size must be a whole .*got 48\.0"),
    "width true": (in_vision(hidden_size=True), "hidden_size must be a whole number.*got True"),
    "width null": (in_text(hidden_size=None), "hidden_size must be a whole number.*got None"),
    "layers zero": (in_text(num_hidden_layers=0), "num_hidden_layers must be a whole .*got 0"),
    "layers negative": (in_text(num_hidden_layers=-3), "num_hidden_layers must be .*got -3"),
    "heads zero": (in_text(num_attention_heads=0), "num_attention_heads must be .*got 0"),
    "patch zero": (in_vision(patch_size=0), "patch_size must be a whole number.*got 0"),
    "patch beyond the picture": (in_vision(patch_size=33), "32 x 32 holds no patch of side 33"),
    "epsilon a string": (in_text(layer_norm_eps="1e-5"), "layer_norm_eps must be a number above 0"),
    "epsilon negative": (in_text(layer_norm_eps=-1e-5), "layer_norm_eps must be a number above 0"),
    "other width": (
        in_vision(hidden_size=51),
        r"has shape \[48, 3, 8, 8\], its config calls for \[51, 3, 8, 8\]",
    ),
    "heads that do not divide": (
        in_vision(num_attention_heads=5),
        "width 48 is not divisible by 5",
    ),
    "picture other than the positions": (
        lambda folder: (
            in_vision(image_size=64)(folder),
            in_processor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})(folder),
        ),
        r"vision_model\.embeddings\.position_embedding\.weight' .* \[17, 48\].*\[65, 48\]",
    ),
    "context other than the positions": (
        in_text(max_position_embeddings=78),
        r"text_model\.embeddings\.position_embedding\.weight' .* \[77, 32\].*\[78, 32\]",
    ),
    "end token beyond the vocabulary": (in_text(eos_token_id=49408), "end_id 49408 lies outside"),
    "layers beyond reason": (in_text(num_hidden_layers=MANY), "1000000000 layers are beyond"),
    "vocabulary beyond reason": (
        in_text(vocab_size=MANY),
        r"token_embedding\.weight' of broken has shape \[49408, 32\].*\[1000000000, 32\]",
    ),
    "context beyond reason": (
        in_text(max_position_embeddings=MANY),
        r"has shape \[77, 32\], its config calls for \[1000000000, 32\]",
    ),
    "picture beyond reason": (
        lambda folder: (
            in_vision(image_size=MANY)(folder),
            in_processor(size={"shortest_edge": MANY}, crop_size={"height": MANY, "width": MANY})(
                folder
            ),
        ),
        "image sides must be from 1 to 2048 pixels",
    ),
    "number beyond numbers": (in_vision(hidden_size=10**400), "hidden_size must be a whole number"),
    "smaller vocabulary than the tokenizer's": (
        lambda folder: (
            tensors(lambda t: t.update({TOKENS: t[TOKENS][:1000]}))(folder),
            in_text(vocab_size=1000, eos_token_id=999)(folder),
        ),
        "the tokenizer of broken makes ids up to 49407, its text tower knows 1000",
    ),
    "an id beyond the embedding table": (
        more_merges_than_rows,
        "the tokenizer of broken makes ids up to 60000, its text tower knows 49408",
    ),
    "a merge of unknown words": (
        file_of("merges.txt", b"#version: 0.2\nqqqq zzzz\n"),
        "the tokenizer of broken cannot be built",
    ),
    "vocabulary no JSON": (file_of("vocab.json", b"{"), "the tokenizer of broken cannot be built"),
    "mean of two": (in_processor(image_mean=[0.5, 0.5]), r"image_mean must be three numbers"),
    "mean of strings": (
        in_processor(image_mean=["a", "b", "c"]),
        "image_mean must be three numbers",
    ),
    "deviation of zero": (
        in_processor(image_std=[0.5, 0.5, 0]),
        "std and rescale must be positive",
    ),
    "rescale a string": (
        in_processor(rescale_factor="x"),
        "rescale_factor must be a number above 0",
    ),
    "size a string": (in_processor(size="32"), "size must be a number or an object, got '32'"),
    "size of nothing": (in_processor(size={}), "'height' is missing"),
    "filter that nobody has": (in_processor(resample=99), "99 is not a valid Resampling"),
}
