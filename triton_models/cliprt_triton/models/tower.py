"""A tower inside Triton's Python backend, computed on the CPU as ``LocalClip`` computes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt._errors import DeploymentError, InvalidInput
from cliprt._names import PRECISION_PARAMETER, TOKENS
from cliprt._texts import is_cut_at_end, real_lengths
from cliprt_engines import CpuSettings, load_checked
from cliprt_triton._python_tower import SETTINGS_PARAMETER
from cliprt_triton.models._ahead import Ahead
from cliprt_triton.models._backend import (
    Setup,
    answer,
    each_answered,
    each_tried,
    items_of,
)
from cliprt_triton.models._pieces import cut, take

GRAPH = "model.onnx"


class TritonPythonModel:
    """The one instance of a tower: its weights are held once, whatever the number of threads.

    Triton calls ``execute`` with all requests of a batch. Their items are sorted by length and cut
    into pieces, which threads compute.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Loads the tower that lies in the model's folder, and asks it the known answers.

        Raises:
            BundleError: it cannot be loaded.
            FidelityError: it does not answer right on this machine.
        """
        setup = Setup(args)
        self._input = setup.inputs[0]
        self._text = setup.card.text if self._input == TOKENS else None
        tower: Literal["image", "text"] = "image" if self._text is None else "text"
        self._tower, self._settings = load_checked(
            setup.folder / GRAPH,
            tower,
            setup.parameters[PRECISION_PARAMETER],
            _settings(setup.parameters),
        )
        # What follows the token whose state counts cannot change it in a causal tower.
        self._shortens = self._text is not None and is_cut_at_end(self._text)
        self._pool = ThreadPoolExecutor(
            self._settings.workers, thread_name_prefix=f"cliprt-{tower}"
        )
        self._ahead = Ahead(self._answers, setup.max_batch_size, f"cliprt-{tower}-ahead")

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """Embeds the items of all requests together; a bad request fails alone.

        Returns:
            The responses; None where the requests are answered later.
        """
        batches = each_tried(requests, self._batch)
        items = sum(len(batch) for batch in batches if not isinstance(batch, Exception))
        if self._ahead.wanted(items):
            self._ahead.give(requests, batches)
            return None
        responses = self._answers(batches)
        self._ahead.rested(items)
        return responses

    def finalize(self) -> None:
        """Gives the tower back."""
        self._ahead.close()
        self._pool.shutdown()
        self._tower.close()

    def _answers(self, batches: Sequence[NDArray[Any] | Exception]) -> list[Any]:
        """A response for each batch."""
        good = [batch for batch in batches if not isinstance(batch, Exception)]
        try:
            found = iter(self._embed(good) if good else [])
        except Exception as error:  # noqa: BLE001 - these requests fail, the server must not
            batches = [each if isinstance(each, Exception) else error for each in batches]
        return each_answered(batches, lambda batch: answer(embedding=next(found)))

    def _batch(self, request: Any) -> NDArray[Any]:
        """A request's input, if the tower can take it. Triton checks the size of pictures."""
        batch = items_of(request, self._input)
        if (spec := self._text) is not None:
            if not 2 <= batch.shape[1] <= spec.context_length:
                raise InvalidInput(
                    f"a text has {batch.shape[1]} tokens, the model takes 2 to "
                    f"{spec.context_length}"
                )
            # Numbers below 0 are great ones without a sign.
            if batch.view(np.uint32).max() >= spec.vocabulary:
                raise InvalidInput(f"token ids must lie in 0 to {spec.vocabulary - 1}")
        return batch

    def _embed(self, batches: list[NDArray[Any]]) -> list[NDArray[np.float32]]:
        """The embeddings of several batches: contiguous float32 [n, dim] of each."""
        joined = self._join(batches)
        lengths = self._lengths(joined)
        pieces = cut(lengths, self._settings)
        embeddings = np.empty((len(joined), self._tower.info.dim), dtype=np.float32)

        def compute(piece: NDArray[np.intp]) -> None:
            rows = take(joined, piece)
            if self._shortens:
                rows = np.ascontiguousarray(rows[:, : lengths[piece[0]]])
            embeddings[piece] = self._tower.run(rows)

        if len(pieces) == 1:
            compute(pieces[0])
        else:
            list(self._pool.map(compute, pieces))
        ends = np.cumsum([len(batch) for batch in batches])
        return np.split(embeddings, ends[:-1])

    def _join(self, batches: list[NDArray[Any]]) -> NDArray[Any]:
        """One batch; shorter texts are filled up, which a causal tower never sees."""
        if len(batches) == 1:
            return batches[0]
        if self._text is None or self._text.fixed_length:
            return np.concatenate(batches)
        longest = max(batch.shape[1] for batch in batches)
        joined = np.full((sum(map(len, batches)), longest), self._text.pad_id, dtype=np.int32)
        row = 0
        for batch in batches:
            joined[row : row + len(batch), : batch.shape[1]] = batch
            row += len(batch)
        return joined

    def _lengths(self, joined: NDArray[Any]) -> NDArray[np.intp]:
        """What each item costs: the tokens that can change its embedding, or 1."""
        if not self._shortens or self._text is None:
            return np.ones(len(joined), dtype=np.intp)
        end_id = self._text.end_id if self._text.pooling == "end" else None
        return np.maximum(real_lengths(joined, end_id), 2)


def _settings(parameters: Mapping[str, str]) -> CpuSettings | None:
    text = parameters.get(SETTINGS_PARAMETER, "")
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=CpuSettings)
    except msgspec.MsgspecError as error:
        raise DeploymentError(
            f"the parameter {SETTINGS_PARAMETER} is not usable ({error}): {text}"
        ) from None
