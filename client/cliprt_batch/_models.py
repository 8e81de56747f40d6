"""What a job computes with, as the command line names it, and how it becomes an encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from cliprt._connection import Connection
from cliprt_batch._encoders import Encoder, LocalEncoder, ServedEncoder
from cliprt_batch._options import JobOptions, recorded_settings


class Model(Protocol):
    """Something that an encoder can be made of, here or on another machine."""

    def settings_in(self, out: Path) -> dict[str, Any]:
        """How an earlier run in a folder computed; empty where there was none."""
        ...

    def encoder(
        self, options: JobOptions, settings: dict[str, Any]
    ) -> AbstractContextManager[Encoder]:
        """Opens it.

        Args:
            options: of the job.
            settings: how it is computed, as ``Encoder.settings``; what is not there is measured.
        """
        ...


@dataclass(frozen=True)
class Local:
    """A bundle, computed by each process itself.

    Attributes:
        bundle: its folder.
        precision: of the towers, as for ``LocalClip``.
    """

    bundle: Path
    precision: Literal["fp32", "int8-cpu", "fastest"] = "fp32"

    def settings_in(self, out: Path) -> dict[str, Any]:
        """Those that the folder's first run measured."""
        return recorded_settings(out, self.precision)

    @contextmanager
    def encoder(self, options: JobOptions, settings: dict[str, Any]) -> Iterator[Encoder]:
        """Opens the bundle; towers are loaded when they are needed."""
        from cliprt_engines import CpuSettings, LocalClip

        with LocalClip(
            self.bundle,
            precision=self.precision,
            settings=msgspec.convert(settings, dict[str, CpuSettings]) or None,
            limits=options.limits,
        ) as clip:
            yield LocalEncoder(clip, options.towers, truncate=options.truncate)


@dataclass(frozen=True)
class Served:
    """A model on one or several servers.

    Attributes:
        connection: how they are reached.
        model: prefix of the models' names.
        patience_s: how long to wait for a server that is gone or full, in seconds.
    """

    connection: Connection
    model: str = "clip"
    patience_s: float = 300.0

    def settings_in(self, out: Path) -> dict[str, Any]:
        """None: the server has its own."""
        return {}

    @contextmanager
    def encoder(self, options: JobOptions, settings: dict[str, Any]) -> Iterator[Encoder]:
        """Connects."""
        from cliprt import Client

        # In a queue of its own, so that interactive callers of the server pass.
        with Client(
            self.connection, model=self.model, limits=options.limits, priority="bulk"
        ) as client:
            yield ServedEncoder(client, truncate=options.truncate, patience_s=self.patience_s)
