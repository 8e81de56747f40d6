"""Served towers that answer wrongly, each in a way that happens: for checks that must notice.

A broken tower is the repository's own one with something done to its answers. What is done is read
from a file at every batch, so that one server is broken in many ways, one after the other.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from cliprt import Bundle
from cliprt._bundle import CERTIFICATE, GOLDEN
from cliprt._names import PRECISION_PARAMETER, ModelNames
from cliprt_triton._health import health_model

_SPOILT = """
import importlib.util, time
from pathlib import Path
import numpy as np
import triton_python_backend_utils as pb_utils

spec = importlib.util.spec_from_file_location("sound", Path(__file__).with_name("sound.py"))
sound = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sound)
MODE = Path({mode!r})


def spoilt(mode, rows, position, items):
    if mode == "nan":
        rows[0, 1] = np.nan
    elif mode == "constant":
        rows[:] = 0
        rows[:, 3] = 1
    elif mode == "long":
        rows *= 1.25
    elif mode == "size" and items > 1:
        rows = rows + np.float32(0.002 * items) * rows[:, ::-1]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    elif mode == "neighbours":
        rows = rows + np.float32(0.01) * (rows.mean(axis=0) - rows)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    elif mode == "order":
        rows = rows[::-1].copy()
    elif mode == "half":
        rows = rows[:, ::2].copy()
    return rows


class TritonPythonModel(sound.TritonPythonModel):
    def _answers(self, batches):
        mode = MODE.read_text()
        while mode == "slow" and MODE.read_text() == "slow":
            time.sleep(0.02)
        if mode.startswith("tired"):
            time.sleep(0.05)
            mode = mode.removeprefix("tired").strip()
        if mode == "fails":
            raise RuntimeError("a broken tower")
        responses = super()._answers(batches)
        found = [response.output_tensors()[0].as_numpy().copy() for response in responses]
        items, done = sum(map(len, found)), 0
        for index, rows in enumerate(found):
            changed = spoilt(mode, rows, done, items)
            done += len(rows)
            responses[index] = pb_utils.InferenceResponse([pb_utils.Tensor("embedding", changed)])
        return responses
"""

_FORGETFUL = f"""
import json
from cliprt_triton.models.tower import TritonPythonModel as Tower


class TritonPythonModel(Tower):
    def initialize(self, args):
        config = json.loads(args["model_config"])
        config["parameters"]["{PRECISION_PARAMETER}"] = {{"string_value": "fp32"}}
        super().initialize({{**args, "model_config": json.dumps(config)}})
"""


class Switch:
    """Says how a broken tower is broken."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.file.write_text("good")

    @contextmanager
    def broken(self, mode: str) -> Iterator[None]:
        """Broken in this way, and sound again."""
        self.file.write_text(mode)
        try:
            yield
        finally:
            self.file.write_text("good")


def break_tower(model: Path, version: int, switch: Switch) -> None:
    """Makes a tower of a repository one that a switch breaks."""
    code = model / str(version) / "model.py"
    code.rename(code.with_name("sound.py"))
    code.write_text(_SPOILT.format(mode=str(switch.file)))


def swap_tower(folder: Path, other: Bundle) -> None:
    """Puts the image tower of another bundle into the folder of a version, whole."""
    for name in ("image.fp32.onnx", GOLDEN, CERTIFICATE):
        served = folder / ("model.onnx" if name.endswith(".onnx") else name)
        if served.exists():
            served.unlink()
            shutil.copyfile(other.file(name), served)


def forget_precision(model: Path, version: int) -> None:
    """Makes a tower's configuration say no precision; it is computed in fp32 all the same."""
    config = read_config(model)
    del config.parameters[PRECISION_PARAMETER]
    (model / "config.pbtxt").write_text(text_format.MessageToString(config))
    (model / str(version) / "model.py").write_text(_FORGETFUL)


def read_config(model: Path) -> Any:
    """The configuration of a model."""
    text = (model / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def set_patience(repository: Path, bundle: Bundle, name: str, patience_s: float) -> None:
    """Makes the health model of a repository in fp32 wait no longer than this for a tower."""
    config = health_model(bundle, ModelNames(name), "fp32", patience_s=patience_s).config
    (repository / config.name / "config.pbtxt").write_text(config.to_pbtxt())
