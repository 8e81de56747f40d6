"""Labelled embeddings are arrays to torch as well."""

from __future__ import annotations

import numpy as np
import torch

from cliprt import Embeddings


def test_torch_takes_labelled_arrays() -> None:
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    labelled = Embeddings.of(numbers, "1" * 64)
    for tensor in (torch.from_numpy(labelled), torch.as_tensor(labelled), torch.tensor(labelled)):
        assert tensor.dtype == torch.float32
        assert tensor.numpy().tolist() == numbers.tolist()
