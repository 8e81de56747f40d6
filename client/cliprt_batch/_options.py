"""What the output of a job is like, and the settings that an earlier run of it has left."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from cliprt._json import UnreadableJson, read_json
from cliprt._limits import Limits
from cliprt_batch._disk import Scratch
from cliprt_batch._inside import inside
from cliprt_batch._output_errors import OutputError, writing
from cliprt_batch._records import Dtype
from cliprt_batch._run_config import FOLDER, Layout
from cliprt_batch._run_records import read_run

Towers: TypeAlias = tuple[Literal["image", "text"], ...]


@dataclass(frozen=True)
class JobOptions:
    """What decides which bytes come out, besides the source and the model.

    Attributes:
        towers: which embeddings are made.
        layout: ``npy``, that of clip-retrieval, or ``parquet``, one table.
        dtype: of the embeddings that are kept.
        shard_size: items of a shard, where the source does not decide (a tar is one).
        truncate: whether captions beyond the context are cut or refused.
        fast_jpeg: whether large JPEG files are decoded at a part of their size; see ``Decoding``.
        limits: bounds on pictures and texts.
    """

    towers: Towers = ("image",)
    layout: Layout = "npy"
    dtype: Dtype = "float32"
    shard_size: int = 10_000
    truncate: bool = True
    fast_jpeg: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.towers or set(self.towers) - {"image", "text"}:
            raise ValueError(f"towers must be image, text or both, got {self.towers!r}")
        if self.shard_size < 1:
            raise ValueError(f"shard_size must be at least 1, got {self.shard_size}")


COMPUTE = "compute.json"
"""Beside the plan: how the towers are computed, so that a resumed run computes the same numbers."""


def recorded_settings(out: Path, precision: str) -> dict[str, Any]:
    """How an earlier run in the folder computed each tower; empty where there was none.

    Settings of another precision are left out: they are not fit for the one that is asked for, and
    that the folder holds another run is said when it is opened.

    Args:
        out: the folder.
        precision: the one asked for; ``fastest`` takes what was chosen before.
    """
    settings = read_settings(inside(out, f"{FOLDER}/{COMPUTE}"))
    if not settings:
        return {}
    chosen = read_run(out).config.options
    return {
        tower: setting
        for tower, setting in settings.items()
        if precision in ("fastest", chosen.get(f"{tower}_precision"))
    }


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a file; empty where there is none.

    Raises:
        OutputError: it is damaged.
    """
    try:
        return read_json(path.read_bytes(), dict[str, Any])
    except FileNotFoundError:
        return {}
    except (OSError, UnreadableJson) as cause:
        raise OutputError(
            f"{path} cannot be read: {cause}; delete it, and the same command measures anew: "
            "numbers may then differ in their last digits"
        ) from None


def agreed_settings(path: Path, own: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The settings of a job: those of whoever was the first to write them down.

    Args:
        path: where they are kept.
        own: makes those of this process, if there are none.

    Raises:
        OutputError: they cannot be written or read.
    """
    if (settings := read_settings(path)) or not (settings := own()):
        return settings
    content = msgspec.json.format(msgspec.json.encode(settings))
    with writing(path):
        sink = Scratch(path.parent).sink()
        try:
            sink.write(content)
            sink.finish()
            # Unlike a rename, a link does not replace what somebody else has put there meanwhile.
            with contextlib.suppress(FileExistsError):
                os.link(sink.path, path)
        finally:
            sink.discard()
    return read_settings(path)
