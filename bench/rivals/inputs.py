"""What every rival is given: one checkpoint, its bundle and plain graphs, pictures and captions."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cliprt_bench._inputs import long_captions
from cliprt_export import Bars, export_checkpoint
from rivals.entries import INT8
from rivals.environments import BENCH, Environment, Refusal, attempt

EXPORT_S = 600
COMPARED = 16


@dataclass(frozen=True)
class Inputs:
    """Folders and items.

    Attributes:
        folders: ``checkpoint``, ``bundle`` and ``graphs``.
        items: by kind (``image``, ``text``): encoded pictures, strings.
    """

    folders: dict[str, Path]
    items: dict[str, list[bytes] | list[str]]

    def compared(self, kind: str) -> list[bytes] | list[str]:
        """The items whose answers are compared."""
        return self.items[kind][:COMPARED]


def prepare(folder: Path, *, small: bool = False) -> Inputs:
    """Checkpoint and bundle, made if they are not there, and the items.

    Args:
        folder: where they are kept.
        small: a model of two layers and small pictures, for tests.
    """
    # What draws and writes them lies beside the tests and the demo model.
    for name in ("tests", "demo"):
        if (path := str(BENCH.parent / name)) not in sys.path:
            sys.path.append(path)
    from checkpoints import SMALL, VIT_B_32, write_checkpoint
    from safetensors.numpy import load_file, save_file

    from cliprt_bench import photo
    from folders import write_calibration

    folders = {name: folder / name for name in ("checkpoint", "bundle", "graphs")}
    weights = folders["checkpoint"] / "model.safetensors"
    if not weights.exists():
        write_checkpoint(folders["checkpoint"], SMALL if small else VIT_B_32)
        # Older versions of transformers refuse weights that do not say who wrote them.
        tensors = {name: np.array(tensor) for name, tensor in load_file(weights).items()}
        save_file(tensors, weights, metadata={"format": "pt"})
    if not folders["bundle"].exists():
        if not (calibration := folder / "calibration").exists():
            write_calibration(calibration, 8 if small else 64)
        export_checkpoint(
            folders["checkpoint"],
            folders["bundle"],
            precisions=["int8-cpu"],
            calibrate=calibration,
            # A tiny model of drawn weights loses a little more than one of full size.
            bars=Bars({**Bars().min_cosine, "int8-cpu": INT8}) if small else None,
        )
    width, height, pictures = (64, 48, 16) if small else (640, 480, 64)
    return Inputs(
        folders,
        {
            "image": [photo(width, height, seed) for seed in range(pictures)],
            "text": long_captions(256),
        },
    )


def write_graphs(inputs: Inputs, environment: Environment) -> Refusal | None:
    """Writes the plain graphs with the exporter of torch, if they are not there.

    Args:
        inputs: what `prepare` made.
        environment: the one of transformers.
    """
    graphs = inputs.folders["graphs"]
    if (graphs / "text.onnx").exists():
        return None
    command = [
        *(str(environment.python), "-W", "ignore", "-m", "rivals.export_plain"),
        *(str(inputs.folders["checkpoint"]), str(graphs)),
    ]
    return attempt("prepare", command, EXPORT_S)
