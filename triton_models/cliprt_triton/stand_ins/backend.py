"""A STAND-IN for a backend of Triton that is missing here; never part of a deployment.

``cliprt repository --check`` and the tests copy this file as ``model.py`` into a backend folder
that has the missing backend's name. The real Triton core then loads its models with their
configurations as they are: names, shapes, versions, batching, queues, ensembles and warm-up are
real. What computes is not: ONNX Runtime on the processor where a tower is named, zeros elsewhere.

It needs numpy and onnxruntime, and nothing of cliprt.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found,unused-ignore]

_TOWERS = "CLIPRT_STAND_IN_TOWERS"
"""Variable with the path of a JSON object: by the model's name, the ONNX file that computes it."""


class TritonPythonModel:
    """A model of the missing backend."""

    def initialize(self, args: dict[str, str]) -> None:
        """Looks for the files that the configuration names, and loads the tower if there is one."""
        self._config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        self._find_files(folder)
        tower = json.loads(Path(os.environ[_TOWERS]).read_text()).get(args["model_name"])
        self._session = None
        if tower is not None:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = len(os.sched_getaffinity(0))
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self._session = onnxruntime.InferenceSession(
                tower, options, providers=["CPUExecutionProvider"]
            )
        computes = f"{tower} on the processor" if tower else "nothing and answers zeros"
        pb_utils.Logger.log_warn(
            f"STAND-IN for the backend {self._config['backend']}: {args['model_name']} "
            f"computes {computes}"
        )

    def _find_files(self, folder: Path) -> None:
        named = {*self._config.get("cc_model_filenames", {}).values()}
        # The core names a default by itself, which need not be there beside files by architecture.
        default = self._config.get("default_model_filename")
        if default and not named:
            named.add(default)
        for name in sorted(named):
            if not (folder / name).is_file():
                raise pb_utils.TritonModelException(f"{name} is not in {folder.name}")
        if not any(folder.iterdir()):
            raise pb_utils.TritonModelException(f"version {folder.name} has no files")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers all requests of a batch; like the real backends, they fail together."""
        try:
            return self._answer(requests)
        except Exception as error:  # noqa: BLE001 - the batch fails, the server must not
            failure = pb_utils.TritonError(f"the stand-in failed: {error}")
            return [pb_utils.InferenceResponse(error=failure) for _ in requests]

    def _answer(self, requests: list[Any]) -> list[Any]:
        batched = self._config["max_batch_size"] > 0
        fed = []
        for entry in self._config["input"]:
            name = entry["name"]
            found = [pb_utils.get_input_tensor_by_name(request, name) for request in requests]
            fed.append((name, [each.as_numpy() for each in found if each is not None]))
        sizes = [len(array) for array in fed[0][1]] if batched else [1] * len(requests)
        # Requests meet only if their shapes are equal: there is no filling up here.
        joined = {name: np.concatenate(arrays) for name, arrays in fed if arrays}
        answers = self._compute(joined, sum(sizes) if batched else None)
        ends = np.cumsum(sizes)[:-1]
        parts = {name: np.split(array, ends) for name, array in answers.items()}
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, arrays[index]) for name, arrays in parts.items()]
            )
            for index in range(len(requests))
        ]

    def _compute(self, fed: dict[str, Any], batch: int | None) -> dict[str, Any]:
        if self._session is not None:
            names = [entry["name"] for entry in self._config["output"]]
            return dict(zip(names, self._session.run(names, fed), strict=True))
        answers = {}
        for entry in self._config["output"]:
            dims = [max(int(size), 1) for size in entry["dims"]]
            dtype = pb_utils.triton_string_to_numpy(entry["data_type"])
            shape = dims if batch is None else [batch, *dims]
            answers[entry["name"]] = np.zeros(shape, dtype)
        return answers
