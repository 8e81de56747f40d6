"""A repository of small models with which the wire is tested: echo, slow, refusing.

The models are real models of the real server; only what they compute is nothing. Each is busy for
as long as a request wants it: a request may name a file that is made when its turn has come, and
that must be gone before it is answered.
"""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from patience import until

from cliprt._grpc import PendingTensor, TritonChannel
from cliprt_triton import TritonServer

VERSION = 7

ONE = {"value": np.array([[1, 2, 3]], dtype=np.uint8)}

HOLD = "until it is gone: "

MODEL = """
import json
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self._sleep_s = float(parameters["sleep_s"]["string_value"])
        self._refuse = parameters["refuse"]["string_value"]

    def execute(self, requests):
        time.sleep(self._sleep_s)
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        value = pb_utils.get_input_tensor_by_name(request, "value").as_numpy()
        if self._refuse:
            error = pb_utils.TritonError(
                value.tobytes().decode(), pb_utils.TritonError.INVALID_ARG
            )
            return pb_utils.InferenceResponse(error=error)
        if value.tobytes().startswith(HOLD.encode()):
            file = Path(value.tobytes().decode().removeprefix(HOLD))
            file.touch()
            ends = time.monotonic() + 60
            while file.exists() and time.monotonic() < ends:
                time.sleep(0.01)
        return pb_utils.InferenceResponse([pb_utils.Tensor("value", value)])
"""

CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: {batch}
version_policy {{ specific {{ versions: [{version}] }} }}
input [{{ name: "value" data_type: TYPE_UINT8 dims: [-1] }}]
output [{{ name: "value" data_type: TYPE_UINT8 dims: [-1] }}]
instance_group [{{ count: 1 kind: KIND_CPU }}]
dynamic_batching {{
  max_queue_delay_microseconds: 0
  priority_levels: 3
  default_priority_level: 2
  default_queue_policy {{
    max_queue_size: {queue}
    timeout_action: REJECT
    default_timeout_microseconds: 600000000
    allow_timeout_override: true
  }}
}}
parameters [
  {{ key: "sleep_s" value {{ string_value: "{sleep_s}" }} }},
  {{ key: "refuse" value {{ string_value: "{refuse}" }} }}
]
"""


def say(words: str) -> dict[str, NDArray[np.uint8]]:
    """An input that holds words."""
    return {"value": np.frombuffer(words.encode(), np.uint8)[None]}


def keep_busy(channel: TritonChannel, file: Path) -> PendingTensor:
    """A request that the model slow works at from now on, until a file is gone."""
    pending = channel.infer("slow", say(f"{HOLD}{file}"), "value", 90)
    until(file.exists)
    return pending


def waiting(server: TritonServer, model: str) -> int:
    """Requests that have come and whose turn has not."""
    with urllib.request.urlopen(server.metrics_url, timeout=20) as answer:
        text = answer.read().decode()
    name = "nv_inference_pending_request_count"
    (count,) = re.findall(rf'^{name}\{{model="{model}".*\}} (\d+)$', text, re.MULTILINE)
    return int(count)


def write_wire_repository(folder: Path, *, slow_s: float = 0.2) -> Path:
    """Writes the models: echo, slow (one at a time, four may wait), refusing."""
    _write(folder, "echo", batch=8, queue=100_000)
    _write(folder, "slow", batch=1, queue=4, sleep_s=slow_s)
    _write(folder, "refusing", batch=8, queue=100, refuse="yes")
    return folder


def _write(
    folder: Path, name: str, *, batch: int, queue: int, sleep_s: float = 0, refuse: str = ""
) -> None:
    code = folder / name / str(VERSION)
    code.mkdir(parents=True)
    (code / "model.py").write_text(f"HOLD = {HOLD!r}\n{MODEL}")
    (folder / name / "config.pbtxt").write_text(
        CONFIG.format(
            name=name, batch=batch, version=VERSION, queue=queue, sleep_s=sleep_s, refuse=refuse
        )
    )
