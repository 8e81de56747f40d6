"""What decides the bytes of an output, and in what two runs differ."""

from __future__ import annotations

import json
from typing import Literal, TypeAlias

import msgspec

from cliprt_batch._records import Dtype

Layout: TypeAlias = Literal["npy", "parquet"]
Option: TypeAlias = str | int | float | bool

FOLDER, RUN = "_cliprt", "run.json"
"""Where a run keeps what is its own, inside the output; the file that tells which run it is."""


class RunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What decides the bytes of an output, but for the plan.

    Attributes:
        source: what is embedded, as it was named.
        model: name of the model.
        space: its embedding space, hexadecimal.
        dim: length of an embedding.
        towers: which embeddings are made: ``image``, ``text`` or both.
        layout: of the shards.
        dtype: of the numbers.
        shard_size: items of a shard, where the source does not decide.
        options: everything else: truncation, limits, precision, settings of the runtime.
    """

    source: dict[str, str]
    model: str
    space: str
    dim: int
    towers: tuple[str, ...]
    layout: Layout
    dtype: Dtype
    shard_size: int
    options: dict[str, Option]


def differences(
    found: RunConfig,
    asked: RunConfig,
    words: tuple[str, str] = ("the folder has", "asked for is"),
) -> tuple[str, ...]:
    """One sentence for each setting that differs, in the order of the fields.

    Args:
        found: of the run in the folder.
        asked: of the run that is asked for.
        words: what comes before the value of each.
    """
    one, other = _flat(found), _flat(asked)
    names = [*one, *(name for name in other if name not in one)]
    return tuple(
        f"{name}: {words[0]} {one.get(name, 'none')}, {words[1]} {other.get(name, 'none')}"
        for name in names
        if one.get(name) != other.get(name)
    )


def _flat(config: RunConfig) -> dict[str, str]:
    """Settings in words; of a table, each entry on its own."""
    words: dict[str, str] = {}
    for name, value in msgspec.to_builtins(config).items():
        entries = value.items() if isinstance(value, dict) else ()
        words |= {f"{name}.{key}": _word(entry) for key, entry in sorted(entries)}
        if not isinstance(value, dict):
            words[name] = _word(value)
    return words


def _word(value: object) -> str:
    if isinstance(value, str):
        # The words none and true could be a string as well; quotes only where they tell apart.
        return value if value and value not in ("none", "true", "false") else repr(value)
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    return json.dumps(value)
