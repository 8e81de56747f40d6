"""Hands out the files a client needs, by name, inside Triton's Python backend.

Names and contents travel as bytes (UINT8), because string tensors crash Tritons before 24.11 under
NumPy 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cliprt_triton.models._backend import Setup, answer, array_of, each_answered, pb_utils


class TritonPythonModel:
    """Serves the files that the configuration lists, and no others."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Reads the files into memory."""
        setup = Setup(args)
        self._files = {
            name: np.frombuffer((setup.folder / name).read_bytes(), dtype=np.uint8)
            for name in setup.parameters["files"].split(",")
        }

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers each request with the file it names."""
        return each_answered(requests, self._answer)

    def _answer(self, request: Any) -> Any:
        asked = array_of(request, "name")
        # Of names that are longer than any, nothing is made.
        name = asked[:256].tobytes().decode("utf-8", "replace")
        content = self._files.get(name) if asked.size <= 256 else None
        if content is None:
            utils = pb_utils()
            known = ", ".join(sorted(self._files))
            error = utils.TritonError(
                f"no such file; there are {known}", utils.TritonError.NOT_FOUND
            )
            return utils.InferenceResponse(error=error)
        return answer(content=content)
