"""The torch tower that bench/gpu_check times is the bundle's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import ROOT

from cliprt_engines import OnnxTower


def test_the_tower_in_torch_has_the_same_weights(
    vit_b_32: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench" / "gpu_check"))
    from timing import largest_error, pictures
    from torch_tower import image_tower

    graph = vit_b_32.bundle.file("image.fp32.onnx")
    reference = OnnxTower(graph)
    some = pictures(reference.info, 2)
    with torch.inference_mode():
        found = image_tower(graph, device="cpu", half=False)(torch.from_numpy(some)).numpy()
    assert largest_error(reference.run(some), found) < 1e-6
