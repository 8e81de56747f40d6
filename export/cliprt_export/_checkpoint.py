"""Finding a checkpoint's files and reading its tensors, without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt._errors import CheckpointError
from cliprt._extras import require

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_WANTED = [
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    SINGLE,
    INDEX,
    "model-*-of-*.safetensors",
]
_FLOATS = {"F32": np.float32, "F16": np.float16, "F64": np.float64}


class Checkpoint:
    """A folder in Hugging Face format: configuration as JSON, tensors as safetensors.

    Attributes:
        folder: where the files are.
        name: what it is called, without any path.
        revision: commit of the hub repository, or None for a local folder.
    """

    def __init__(self, folder: Path, name: str, revision: str | None = None) -> None:
        self.folder = folder
        self.name = name
        self.revision = revision
        self._files = self._tensor_files()
        self._open: dict[Path, Any] = {}

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the checkpoint.

        Raises:
            CheckpointError: it is missing or no JSON object.
        """
        path = self.folder / name
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"{self.name} has no {name}") from None
        except (ValueError, OSError) as error:
            raise CheckpointError(f"{name} of {self.name} cannot be read: {error}") from None
        if not isinstance(value, dict):
            raise CheckpointError(f"{name} of {self.name} is no JSON object")
        return value

    def config(self) -> dict[str, Any]:
        """config.json, empty if there is none."""
        return self.json("config.json") if (self.folder / "config.json").is_file() else {}

    def describe(self) -> str:
        """What was found, for messages."""
        config = self.config()
        if "model_type" in config:
            return f"its config.json is of model_type {config['model_type']!r}"
        found = sorted(path.name for path in self.folder.glob("*") if path.is_file())
        return f"found {', '.join(found) or 'no files at all'}"

    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self._files)

    def tensor(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """One tensor as float32.

        Args:
            name: its name in the checkpoint.
            shape: the shape that the configuration promises.

        Raises:
            CheckpointError: it is missing, of another shape, not floating point, or not finite.
        """
        if name not in self._files:
            raise CheckpointError(f"{self.name} has no tensor {name!r}, which its config calls for")
        file = self._files[name]
        try:
            if file not in self._open:
                safetensors = require("safetensors", extra="export")
                self._open[file] = safetensors.safe_open(str(file), framework="numpy")
            view = self._open[file].get_slice(name)
            dtype, found = view.get_dtype(), tuple(view.get_shape())
        except Exception as error:  # noqa: BLE001 - the library raises its own and OS errors
            raise CheckpointError(f"{file.name} of {self.name} cannot be read: {error}") from None
        if found != shape:
            raise CheckpointError(
                f"tensor {name!r} of {self.name} has shape {list(found)}, "
                f"its config calls for {list(shape)}"
            )
        array = self._read(file, name, dtype)
        if not np.isfinite(array).all():
            raise CheckpointError(f"tensor {name!r} of {self.name} holds NaN or infinite values")
        return array

    def _read(self, file: Path, name: str, dtype: str) -> NDArray[np.float32]:
        if dtype == "BF16":
            # NumPy has no bfloat16: its bits are the upper half of a float32.
            require("ml_dtypes", extra="export")
        elif dtype not in _FLOATS:
            raise CheckpointError(
                f"tensor {name!r} of {self.name} is {dtype}; "
                f"supported are {', '.join(_FLOATS)} and BF16"
            )
        return np.asarray(self._open[file].get_tensor(name)).astype(np.float32, copy=False)

    def _tensor_files(self) -> Mapping[str, Path]:
        """Which file holds which tensor: one file, or shards named by an index."""
        if (self.folder / INDEX).is_file():
            index = self.json(INDEX).get("weight_map")
            if not isinstance(index, dict) or not all(isinstance(v, str) for v in index.values()):
                raise CheckpointError(f"{INDEX} of {self.name} has no usable weight_map")
            return {name: self._shard(str(shard)) for name, shard in index.items()}
        file = self.folder / SINGLE
        if not file.is_file():
            raise CheckpointError(self._without_tensors())
        safetensors = require("safetensors", extra="export")
        try:
            with safetensors.safe_open(str(file), framework="numpy") as tensors:
                return dict.fromkeys(tensors.keys(), file)
        except Exception as error:  # noqa: BLE001 - as in tensor()
            raise CheckpointError(f"{SINGLE} of {self.name} cannot be read: {error}") from None

    def _shard(self, name: str) -> Path:
        if Path(name).name != name:
            raise CheckpointError(f"{INDEX} of {self.name} names a file outside it: {name!r}")
        file = self.folder / name
        if not file.is_file():
            raise CheckpointError(f"{self.name} is incomplete: its shard {name} is missing")
        return file

    def _without_tensors(self) -> str:
        found = sorted(path.name for path in self.folder.glob("*") if path.is_file())
        return (
            f"{self.name} has no {SINGLE} and no {INDEX}; "
            f"found {', '.join(found) or 'no files at all'}. Only safetensors are read, because "
            "pickled weights (.bin, .pt) can run code when they are loaded; turn such weights into "
            "safetensors with: cliprt convert"
        )


def find_checkpoint(source: str, revision: str | None = None) -> Checkpoint:
    """Opens a local folder, or downloads a hub repository.

    Args:
        source: a folder, or a hub id such as ``openai/clip-vit-base-patch32``.
        revision: branch, tag or commit of a hub repository; None means its main branch.

    Raises:
        CheckpointError: neither a folder nor a hub id, or the download failed.
    """
    folder = Path(source)
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(f"{source} is a local folder; a revision is for hub ids only")
        return Checkpoint(folder, folder.resolve().name)
    if not _HUB_ID.fullmatch(source):
        raise CheckpointError(
            f"{source!r} is neither an existing folder nor a hub id such as "
            "openai/clip-vit-base-patch32"
        )
    return _download(source, revision)


def _download(repository: str, revision: str | None) -> Checkpoint:
    hub = require("huggingface_hub", extra="export")
    try:
        # Into a folder named after the commit, so that all files are of one state. Offline it finds
        # what was downloaded before.
        folder = hub.snapshot_download(repository, revision=revision, allow_patterns=_WANTED)
    except Exception as error:  # noqa: BLE001 - network, HTTP, disk: all mean there is no checkpoint
        raise CheckpointError(f"{repository} cannot be downloaded: {error}") from None
    return Checkpoint(Path(folder), repository, Path(folder).name)
