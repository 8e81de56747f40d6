"""A tower inside Triton's Python backend, computed by ONNX Runtime.

This file is copied into model repositories as ``model.py``. It needs numpy and onnxruntime and
nothing of cliprt, so that a repository works wherever those two are installed.
"""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance of a tower. Triton calls ``execute`` with all requests of a batch."""

    def initialize(self, args):
        """Loads the tower that lies beside this file."""
        config = json.loads(args["model_config"])
        parameters = {key: entry["string_value"] for key, entry in config["parameters"].items()}
        self._input = config["input"][0]["name"]
        # Tokens only: ids that the embedding table has, and what fills up shorter texts.
        self._vocabulary = int(parameters.get("vocabulary", 0))
        self._pad_id = int(parameters.get("pad_id", 0))
        self._max_length = int(parameters.get("max_length", 0))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        # Idle threads must sleep: both towers and Triton itself share the processors.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        folder = Path(args["model_repository"]) / args["model_version"]
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def execute(self, requests):
        """Embeds the items of all requests in one run; a bad request fails alone."""
        responses = [None] * len(requests)
        batches, good = [], []
        for index, request in enumerate(requests):
            batch = pb_utils.get_input_tensor_by_name(request, self._input).as_numpy()
            problem = self._problem(batch)
            if problem:
                responses[index] = pb_utils.InferenceResponse(error=_invalid(problem))
            else:
                batches.append(batch)
                good.append(index)
        if good:
            try:
                answers = self._embed(batches)
            except Exception as error:  # noqa: BLE001 - the batch fails, the server must not
                failure = pb_utils.TritonError(f"the tower failed: {error}")
                answers = [pb_utils.InferenceResponse(error=failure) for _ in good]
            for index, answer in zip(good, answers, strict=True):
                responses[index] = answer
        return responses

    def _embed(self, batches):
        """Runs all batches as one and cuts the result up again."""
        joined = batches[0] if len(batches) == 1 else self._join(batches)
        (embeddings,) = self._session.run(None, {self._input: joined})
        ends = np.cumsum([len(batch) for batch in batches])
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("embedding", part)])
            for part in np.split(embeddings, ends[:-1])
        ]

    def _join(self, batches):
        """Concatenates; texts of unequal length are filled up, which a causal tower never sees."""
        if not self._vocabulary:
            return np.concatenate(batches)
        length = max(batch.shape[1] for batch in batches)
        joined = np.full((sum(map(len, batches)), length), self._pad_id, dtype=np.int32)
        row = 0
        for batch in batches:
            joined[row : row + len(batch), : batch.shape[1]] = batch
            row += len(batch)
        return joined

    def _problem(self, batch):
        """Why a request cannot be embedded, or None. Shapes of pixels are checked by Triton."""
        if not self._vocabulary:
            return None
        if not 2 <= batch.shape[1] <= self._max_length:
            return f"a text has {batch.shape[1]} tokens, the model takes 2 to {self._max_length}"
        if batch.min() < 0 or batch.max() >= self._vocabulary:
            return f"token ids must lie in 0 to {self._vocabulary - 1}"
        return None


def _invalid(message):
    return pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)
