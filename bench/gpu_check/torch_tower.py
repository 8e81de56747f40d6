"""The image tower of a bundle in torch, with the very same weights, as its users run it.

Written with torch's own fused attention and no detour, so that it is at least as fast as the home
libraries' modules. It computes every token in the last block, as those do; the bundle's tower only
the one that is pooled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional

HEAD = 64
"""Width of a head in every published size."""


class Block(torch.nn.Module):
    """One block of the transformer."""

    def __init__(self, weights: dict[str, torch.Tensor], prefix: str) -> None:
        super().__init__()
        for name, value in weights.items():
            if name.startswith(prefix):
                self.register_buffer(name.removeprefix(prefix).replace(".", "_"), value)
        # The bundle's last block has queries of one token, apart from keys and values.
        if hasattr(self, "attention_query_weight"):
            for kind in ("weight", "bias"):
                parts = [
                    getattr(self, f"attention_query_{kind}"),
                    getattr(self, f"attention_key_value_{kind}"),
                ]
                self.register_buffer(f"attention_query_key_value_{kind}", torch.cat(parts, dim=-1))

    def forward(self, x: Any) -> Any:
        """Adds attention and the two-layer network."""
        batch, length, width = x.shape
        joined = functional.linear(
            self._norm(x, "norm1"),
            self.attention_query_key_value_weight.T,
            self.attention_query_key_value_bias,
        )
        q, k, v = joined.view(batch, length, 3, width // HEAD, HEAD).permute(2, 0, 3, 1, 4)
        # The bundle's weights hold the scale already.
        attended = functional.scaled_dot_product_attention(q, k, v, scale=1.0)
        attended = attended.transpose(1, 2).reshape(batch, length, width)
        x = x + functional.linear(attended, self.attention_out_weight.T, self.attention_out_bias)
        hidden = functional.linear(self._norm(x, "norm2"), self.mlp_up_weight.T, self.mlp_up_bias)
        hidden = hidden * torch.sigmoid(1.702 * hidden)
        return x + functional.linear(hidden, self.mlp_down_weight.T, self.mlp_down_bias)

    def _norm(self, x: Any, name: str) -> Any:
        weight, bias = getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")
        return functional.layer_norm(x, weight.shape, weight, bias, 1e-5)


class ImageTower(torch.nn.Module):
    """uint8 [batch, height, width, 3] to float32 [batch, dim], rows of length 1."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name in ("patch.weight", "patch.bias", "positions", "class_token"):
            self.register_buffer(name.replace(".", "_"), weights[name])
        for name in ("pre_norm", "post_norm"):
            for kind in ("weight", "bias"):
                self.register_buffer(f"{name}_{kind}", weights[f"{name}.{kind}"])
        self.register_buffer("projection", weights["projection.weight"])
        count = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
        self.blocks = torch.nn.ModuleList(
            Block(weights, f"blocks.{number}.") for number in range(count)
        )

    def forward(self, pixels: Any) -> Any:
        """Embeds pictures."""
        x = pixels.permute(0, 3, 1, 2).to(self.patch_weight.dtype)
        stride = self.patch_weight.shape[-1]
        x = functional.conv2d(x, self.patch_weight, self.patch_bias, stride=stride)
        x = x.flatten(2).transpose(1, 2) + self.positions
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1)
        x = functional.layer_norm(
            x, self.pre_norm_weight.shape, self.pre_norm_weight, self.pre_norm_bias, 1e-5
        )
        for block in self.blocks:
            x = block(x)
        pooled = functional.layer_norm(
            x[:, 0], self.post_norm_weight.shape, self.post_norm_weight, self.post_norm_bias, 1e-5
        )
        return functional.normalize((pooled @ self.projection).float(), dim=-1)


def image_tower(graph: Path, *, device: str, half: bool) -> ImageTower:
    """Reads the weights of a bundle's fp32 tower.

    Args:
        graph: ``image.fp32.onnx`` of a ViT with QuickGELU.
        device: cuda or cpu.
        half: whether weights are float16.
    """
    weights = {
        tensor.name: torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
        for tensor in onnx.load(str(graph)).graph.initializer
        if not tensor.name.startswith("const_")
    }
    tower = ImageTower(weights)
    return (tower.half() if half else tower).to(device).eval()
