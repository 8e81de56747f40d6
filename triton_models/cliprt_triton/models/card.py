"""Hands out the files a client needs, by name, inside Triton's Python backend.

This file is copied into model repositories as ``model.py``. Names and contents travel as bytes
(UINT8), because string tensors abort the Python backend of Triton 24.10 under numpy 2.
"""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Serves the files that the configuration lists, and no others."""

    def initialize(self, args):
        """Reads the files into memory."""
        parameters = json.loads(args["model_config"])["parameters"]
        folder = Path(args["model_repository"]) / args["model_version"]
        self._files = {
            name: np.frombuffer((folder / name).read_bytes(), dtype=np.uint8)
            for name in parameters["files"]["string_value"].split(",")
        }

    def execute(self, requests):
        """Answers each request with the file it names."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        name = pb_utils.get_input_tensor_by_name(request, "name").as_numpy().tobytes()
        content = self._files.get(name.decode("utf-8", "replace"))
        if content is None:
            known = ", ".join(sorted(self._files))
            error = pb_utils.TritonError(
                f"no such file; there are {known}", pb_utils.TritonError.NOT_FOUND
            )
            return pb_utils.InferenceResponse(error=error)
        return pb_utils.InferenceResponse([pb_utils.Tensor("content", content)])
