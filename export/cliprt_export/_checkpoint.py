"""Finding a checkpoint's files and reading its tensors, without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cliprt._bundle import sha256_of
from cliprt._errors import CheckpointError
from cliprt._extras import require
from cliprt._json import one_line

SINGLE = "model.safetensors"
SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_DESCRIPTIONS = [
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "open_clip_config.json",
]
_ENDINGS = (SUFFIX, INDEX_SUFFIX, "-*-of-*.safetensors")
_STEMS = ("model", "open_clip_model")
"""Names of weights on the hub, those of transformers and those of OpenCLIP."""
_FLOATS = ("F32", "F16", "F64", "BF16")

# Stored type and shape of a tensor.
_Header: TypeAlias = tuple[str, tuple[int, ...]]


class Checkpoint:
    """A folder with configuration as JSON and tensors as safetensors.

    A folder may hold a model in more than one form, each with tensor files of its own.

    Attributes:
        folder: where the files are.
        name: what it is called, without any path.
        revision: commit of the hub repository, or None for a local folder.
        weights: the safetensors file that the tensors are read from, or from its shards.
    """

    def __init__(
        self, folder: Path, name: str, revision: str | None = None, weights: str = SINGLE
    ) -> None:
        self.folder = folder
        self.name = name
        self.revision = revision
        self.weights = weights
        self._headers: dict[Path, dict[str, _Header]] = {}
        if not any(path.name.endswith((SUFFIX, INDEX_SUFFIX)) for path in folder.glob("*")):
            raise CheckpointError(self._without_tensors())

    def with_weights(self, weights: str) -> Checkpoint:
        """The same checkpoint with its tensors read from another safetensors file."""
        return Checkpoint(self.folder, self.name, self.revision, weights)

    def has_weights(self, weights: str) -> bool:
        """Whether that safetensors file is there, or an index of its shards."""
        names = (weights, _index_of(weights))
        return any((self.folder / name).is_file() for name in names)

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the checkpoint.

        Raises:
            CheckpointError: it is missing or no JSON object.
        """
        path = self.folder / name
        try:
            value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        except FileNotFoundError:
            raise CheckpointError(f"{self.name} has no {name}") from None
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{name} of {self.name} cannot be read: {error}") from None
        except OSError as error:
            raise CheckpointError(
                f"{name} of {self.name} cannot be read: {error.strerror}"
            ) from None
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

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, whatever its configuration says.

        Raises:
            CheckpointError: it is missing, or its file cannot be read.
        """
        return self._header(name)[1]

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Checks what is stored about a tensor, without reading it.

        Args:
            name: its name in the checkpoint.
            shape: the shape that the configuration promises.

        Raises:
            CheckpointError: it is missing, of another shape, or not floating point.
        """
        dtype, found = self._header(name)
        if dtype not in _FLOATS:
            raise CheckpointError(
                f"tensor {name!r} of {self.name} is {dtype}; "
                f"supported are {', '.join(_FLOATS[:-1])} and {_FLOATS[-1]}"
            )
        if found != shape:
            raise CheckpointError(
                f"tensor {name!r} of {self.name} has shape {list(found)}, "
                f"its config calls for {list(shape)}"
            )

    def tensor(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """One tensor as float32.

        Args:
            name: its name in the checkpoint.
            shape: the shape that the configuration promises.

        Raises:
            CheckpointError: it is missing, of another shape, not floating point, or not finite.
        """
        self.check(name, shape)
        if self._header(name)[0] == "BF16":
            # NumPy has no bfloat16 of its own.
            require("ml_dtypes", extra="export")
        # Opened anew for each tensor: the library maps the file into memory, and an open one would
        # come to hold the whole checkpoint there.
        with self._opened(self._files[name]) as tensors:
            array = np.asarray(tensors.get_tensor(name)).astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise CheckpointError(f"tensor {name!r} of {self.name} holds NaN or infinite values")
        return array

    def _header(self, name: str) -> _Header:
        """Stored type and shape of a tensor."""
        if name not in self._files:
            raise CheckpointError(f"{self.name} has no tensor {name!r}, which its config calls for")
        file = self._files[name]
        if file not in self._headers:
            with self._opened(file) as tensors:
                slices = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118
                self._headers[file] = {
                    key: (view.get_dtype(), tuple(view.get_shape())) for key, view in slices.items()
                }
        if name not in self._headers[file]:
            raise CheckpointError(
                f"{file.name} of {self.name} has no tensor {name!r}, "
                f"which {_index_of(self.weights)} says it holds"
            )
        return self._headers[file][name]

    @contextmanager
    def _opened(self, file: Path) -> Iterator[Any]:
        safetensors = require("safetensors", extra="export")
        try:
            with safetensors.safe_open(str(file), framework="numpy") as tensors:
                yield tensors
        except Exception as error:  # noqa: BLE001 - the library raises its own and OS errors
            raise CheckpointError(
                f"{file.name} of {self.name} cannot be read: {one_line(error)}"
            ) from None

    @cached_property
    def _files(self) -> Mapping[str, Path]:
        """Which file holds which tensor: one file, or shards named by an index."""
        index_name = _index_of(self.weights)
        if (self.folder / index_name).is_file():
            index = self.json(index_name).get("weight_map")
            if not isinstance(index, dict) or not all(isinstance(v, str) for v in index.values()):
                raise CheckpointError(f"{index_name} of {self.name} has no usable weight_map")
            return {name: self._shard(str(shard)) for name, shard in index.items()}
        file = self.folder / self.weights
        if not _is_file(file):
            raise CheckpointError(self._without_tensors())
        with self._opened(file) as tensors:
            return dict.fromkeys(tensors.keys(), file)

    def _shard(self, name: str) -> Path:
        if Path(name).name != name:
            raise CheckpointError(
                f"{_index_of(self.weights)} of {self.name} names a file outside it: {name!r}"
            )
        file = self.folder / name
        if not _is_file(file):
            raise CheckpointError(
                f"{self.name} is incomplete: its shard {one_line(name)} is missing"
            )
        return file

    def _without_tensors(self) -> str:
        found = sorted(path.name for path in self.folder.glob("*") if path.is_file())
        return (
            f"{self.name} has no {self.weights} and no {_index_of(self.weights)}; "
            f"found {', '.join(found) or 'no files at all'}. Only safetensors are read, because "
            "pickled weights (.bin, .pt) can run code when they are loaded; turn such weights into "
            "safetensors with: cliprt convert"
        )


def _is_file(path: Path) -> bool:
    """Whether there is a file; an index may give it a name that none can have."""
    try:
        return path.is_file()
    except OSError:
        return False


def _index_of(weights: str) -> str:
    """Name of the file that says which shard holds which tensor."""
    return weights.removesuffix(SUFFIX) + INDEX_SUFFIX


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which is no JSON")


def find_checkpoint(
    source: str, revision: str | None = None, family: str | None = None
) -> Checkpoint:
    """Opens a local folder, or downloads a hub repository.

    Args:
        source: a folder, or a hub id such as ``openai/clip-vit-base-patch32``.
        revision: branch, tag or commit of a hub repository; None means its main branch.
        family: which of the forms that a hub repository holds will be read; None for the first.

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
    return _download(source, revision, family)


def _download(repository: str, revision: str | None, family: str | None) -> Checkpoint:
    # Many repositories hold the same weights in both forms, gigabytes each; one is enough.
    for stem in reversed(_STEMS) if family == "openclip" else _STEMS:
        folder = _snapshot(repository, revision, stem)
        if _holds_weights(folder, stem):
            break
    return Checkpoint(folder, repository, folder.name)


def _snapshot(repository: str, revision: str | None, stem: str) -> Path:
    hub = require("huggingface_hub", extra="export")
    wanted = [*_DESCRIPTIONS, *(f"{stem}{ending}" for ending in _ENDINGS)]
    try:
        # Into a folder named after the commit, so that all files are of one state. Offline it finds
        # what was downloaded before.
        folder = Path(hub.snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except Exception as error:  # noqa: BLE001 - network, HTTP, disk: all mean there is no checkpoint
        raise CheckpointError(f"{repository} cannot be downloaded: {error}") from None
    for path in folder.rglob("*"):
        _check_hash(path, repository)
    return folder


def _check_hash(path: Path, repository: str) -> None:
    """Refuses a downloaded file that is not the one the hub named; the download compares sizes.

    Large files lie in the cache under their SHA-256, which the hub told before it sent them.
    """
    named = path.resolve().name
    if not (path.is_file() and _SHA256.fullmatch(named)):
        return
    if sha256_of(path) != named:
        raise CheckpointError(
            f"{path.name} of {repository} was damaged on its way or in the hub's cache: its "
            "SHA-256 is not the one that the hub names; remove it from that cache and try again"
        )


def _holds_weights(folder: Path, stem: str) -> bool:
    """Whether a form is there whole.

    transformers' weights say nothing without its config.json, and other libraries have a file of
    that name too, but none with a model_type in it.
    """
    if not any((folder / f"{stem}{ending}").is_file() for ending in (SUFFIX, INDEX_SUFFIX)):
        return False
    return stem != _STEMS[0] or "model_type" in Checkpoint(folder, folder.name).config()
