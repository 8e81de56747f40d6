"""Pickled weights to safetensors, without running what a pickle may hold."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cliprt._errors import BundleError, CheckpointError, MissingExtra
from cliprt._extras import require
from cliprt._folders import folder_that_becomes

_INDEX = "pytorch_model.bin.index.json"
# Weights by their usual names, and what they become.
_NAMED = {
    "pytorch_model.bin": "model.safetensors",
    "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
}
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
# Everything else that a reader of a checkpoint may ask for.
_BESIDE = (
    "config.json",
    "open_clip_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
)
# Before this version a crafted file could run code in spite of weights_only (CVE-2025-32434).
_SAFE_TORCH = (2, 6)


def convert_checkpoint(source: str | Path, out: str | Path) -> Path:
    """Writes a checkpoint's pickled weights as safetensors, with its other files beside.

    The folder appears whole or not at all. Files are loaded by ``torch.load`` with
    ``weights_only=True``, which builds tensors and plain containers and calls nothing else; there
    is no other way to load them.

    Args:
        source: a ``.bin``, ``.pt``, ``.pth`` or ``.ckpt`` file, or a folder with
            ``pytorch_model.bin``, its shards, ``open_clip_pytorch_model.bin``, or one such file.
        out: the folder to write; it must not exist.

    Returns:
        The folder.

    Raises:
        CheckpointError: nothing to convert, a file is damaged, or loading it would run code.
        BundleError: out exists or cannot be written.
        MissingExtra: torch is not installed, or too old to load files safely.
    """
    target = Path(out)
    if target.exists():
        raise BundleError(f"{target} already exists; choose another --out")
    torch = _safe_torch()
    path = Path(source)
    folder = path.parent if path.is_file() else path
    files, sharded = _weights(path)
    with folder_that_becomes(target) as temporary:
        placed: dict[str, str] = {}
        for old, new in files.items():
            tensors = _tensors(torch, folder / old)
            _save(tensors, temporary / new, target)
            placed.update(dict.fromkeys(tensors, new))
        if sharded:
            content = json.dumps({"metadata": {}, "weight_map": placed}, indent=2)
            (temporary / "model.safetensors.index.json").write_text(content + "\n")
        for name in _BESIDE:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, temporary / name)
    return target


def _safe_torch() -> Any:
    torch = require("torch", extra="convert")
    version = tuple(int(part) for part in re.findall(r"\d+", str(torch.__version__))[:2])
    if version < _SAFE_TORCH:
        raise MissingExtra(
            f"torch {torch.__version__} can be made to run code by a crafted file "
            "(CVE-2025-32434); install 2.6 or later with: pip install 'cliprt[convert]'",
            name="torch",
        )
    return torch


def _weights(source: Path) -> tuple[dict[str, str], bool]:
    """Names of the files to convert and of what they become, and whether they are shards."""
    if source.is_file():
        if source.suffix not in _PICKLED:
            raise CheckpointError(
                f"{source.name} is no pickled file; converted are {', '.join(_PICKLED)}"
            )
        return {source.name: _becomes(source)}, False
    if not source.is_dir():
        raise CheckpointError(
            f"{source} is neither a file nor a folder; a hub repository is downloaded first: "
            "hf download REPOSITORY --local-dir FOLDER"
        )
    found = sorted(path.name for path in source.iterdir() if path.is_file())
    if ready := [name for name in found if name.endswith(".safetensors")]:
        raise CheckpointError(
            f"{source.name} has {ready[0]} already; cliprt export reads it as it is"
        )
    if _INDEX in found:
        return _shards(source), True
    if named := {name: new for name, new in _NAMED.items() if name in found}:
        return named, False
    pickled = [name for name in found if name.endswith(_PICKLED)]
    if len(pickled) != 1:
        raise CheckpointError(
            f"{source.name} has {', '.join(pickled) or 'no pickled weights'}; "
            f"name one file, or a folder with {', '.join(_NAMED)}, {_INDEX} or a single file"
        )
    return {pickled[0]: _becomes(source / pickled[0])}, False


def _becomes(file: Path) -> str:
    """Which reader a file is for: that of the configuration beside it."""
    if file.name in _NAMED:
        return _NAMED[file.name]
    beside = file.parent
    open_clip = (beside / "open_clip_config.json").is_file()
    return "open_clip_model.safetensors" if open_clip else "model.safetensors"


def _shards(folder: Path) -> dict[str, str]:
    try:
        names = set(
            json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise CheckpointError(f"{_INDEX} of {folder.name} has no usable weight_map") from None
    shards = {}
    for name in sorted(map(str, names)):
        if Path(name).name != name or not name.endswith(_PICKLED):
            raise CheckpointError(
                f"{_INDEX} of {folder.name} names a file outside it, or none of weights: {name!r}"
            )
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder.name} is incomplete: its shard {name} is missing")
        stem = Path(name).stem
        shards[name] = f"{stem.replace('pytorch_model', 'model')}.safetensors"
    return shards


def _tensors(torch: Any, file: Path) -> dict[str, Any]:
    """The state dict of a file, each tensor contiguous and with memory of its own."""
    state = _load(torch, file)
    # Checkpoints of a training run hold the weights among other things.
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{file.name} holds no dictionary of tensors")
    for name, value in state.items():
        plain = isinstance(value, torch.Tensor) and value.layout == torch.strided
        if not isinstance(name, str) or not plain or value.is_quantized:
            raise CheckpointError(
                f"{file.name} holds {name!r}, which is no plain tensor; "
                "converted are state dicts, alone or under the key 'state_dict'"
            )
    # The prefix of models trained on several devices.
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    return {
        name.removeprefix(prefix): value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }


def _save(tensors: dict[str, Any], file: Path, target: Path) -> None:
    safetensors = require("safetensors.torch", extra="convert")
    try:
        safetensors.save_file(tensors, str(file), metadata={"format": "pt"})
    except Exception as error:  # noqa: BLE001 - the library raises its own and OS errors
        raise BundleError(f"{target} cannot be written: {error}") from None


def _load(torch: Any, file: Path) -> Any:
    zipped = zipfile.is_zipfile(file)
    if zipped and _is_program(file):
        raise CheckpointError(
            f"{file.name} is a TorchScript archive, as OpenAI's released .pt files are: a program, "
            "not weights alone, and weights_only cannot load it. Take a copy in safetensors, for "
            "instance openai/clip-vit-base-patch32 on the hub; or, where you trust the file, save "
            "the state dict of torch.jit.load(...) by torch.save and convert that"
        )
    try:
        # The older format cannot be mapped.
        return torch.load(str(file), map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # noqa: BLE001 - torch raises pickle's, its own and OS errors
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{file.name} asks for {named[1]} when it is loaded, which may run code and is "
                "never done; take the weights from a source that has them as safetensors, or save "
                "a plain state dict"
            ) from None
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{file.name} cannot be loaded as plain weights (damaged, or another format): {reason}"
        ) from None


def _is_program(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False
