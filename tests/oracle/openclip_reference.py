"""OpenCLIP's models, written anew from their published definition.

They are of torch's own layers under the library's names, so that a state dict loads strictly.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from checkpoints import Tensors
from numpy.typing import NDArray
from openclip_checkpoints import Config
from torch import nn
from torch.nn import functional as F


class QuickGelu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, config: Config, width: int, heads: int, quick: bool) -> None:
        super().__init__()
        epsilon = (config.get("norm_kwargs") or {}).get("eps", 1e-5)
        scaled = config.get("ls_init_value") is not None
        hidden = int(width * config.get("mlp_ratio", 4.0))
        act = QuickGelu() if quick else nn.GELU(**(config.get("act_kwargs") or {}))
        self.ln_1 = nn.LayerNorm(width, eps=epsilon)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ls_1 = LayerScale(width) if scaled else nn.Identity()
        self.ln_2 = nn.LayerNorm(width, eps=epsilon)
        layers = [("c_fc", nn.Linear(width, hidden)), ("gelu", act)]
        self.mlp = nn.Sequential(OrderedDict([*layers, ("c_proj", nn.Linear(hidden, width))]))
        self.ls_2 = LayerScale(width) if scaled else nn.Identity()

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        normed = self.ln_1(x)
        attended, _ = self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)
        x = x + self.ls_1(attended)
        return x + self.ls_2(self.mlp(self.ln_2(x)))


class Transformer(nn.Module):
    def __init__(self, config: Config, width: int, heads: int, quick: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(
            [Block(config, width, heads, quick) for _ in range(config["layers"])]
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class VisionTransformer(nn.Module):
    def __init__(self, config: Config, dim: int, quick: bool) -> None:
        super().__init__()
        self.config = config
        width, patch = config["width"], config["patch_size"]
        rows, columns = _pair(config["image_size"])
        epsilon = (config.get("norm_kwargs") or {}).get("eps", 1e-5)
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        tokens = (rows // patch) * (columns // patch) + 1
        self.positional_embedding = nn.Parameter(torch.empty(tokens, width))
        before = nn.Identity() if config.get("no_ln_pre") else nn.LayerNorm(width, eps=epsilon)
        self.ln_pre = before
        heads = width // config.get("head_width", 64)
        self.transformer = Transformer(config, width, heads, quick)
        self.ln_post = nn.LayerNorm(width, eps=epsilon)
        self.proj = nn.Parameter(torch.empty(width, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        token = self.class_embedding.expand(len(x), 1, -1)
        x = torch.cat([token, x], dim=1) + self.positional_embedding
        x = self.transformer(self.ln_pre(x))
        if not self.config.get("final_ln_after_pool"):
            x = self.ln_post(x)
        x = x[:, 1:].mean(dim=1) if self.config.get("pool_type") == "avg" else x[:, 0]
        if self.config.get("final_ln_after_pool"):
            x = self.ln_post(x)
        return x @ self.proj


class Bottleneck(nn.Module):
    def __init__(self, into: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.pool = nn.AvgPool2d(stride)
        self.downsample = None
        if stride > 1 or into != 4 * planes:
            convolution = nn.Conv2d(into, 4 * planes, 1, bias=False)
            parts = [("0", convolution), ("1", nn.BatchNorm2d(4 * planes))]
            self.downsample = nn.Sequential(OrderedDict(parts))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.pool(F.relu(self.bn2(self.conv2(out))))
        out = self.bn3(self.conv3(out))
        shortcut = x if self.downsample is None else self.downsample(self.pool(x))
        return F.relu(out + shortcut)


class AttentionPool(nn.Module):
    def __init__(self, tokens: int, width: int, heads: int, dim: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty(tokens, width))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, dim)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(2).permute(2, 0, 1)
        x = torch.cat([x.mean(dim=0, keepdim=True), x]) + self.positional_embedding[:, None]
        linears = (self.q_proj, self.k_proj, self.v_proj)
        out, _ = F.multi_head_attention_forward(
            query=x[:1],
            key=x,
            value=x,
            embed_dim_to_check=x.shape[-1],
            num_heads=self.heads,
            in_proj_weight=None,
            in_proj_bias=torch.cat([linear.bias for linear in linears]),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0,
            out_proj_weight=self.c_proj.weight,
            out_proj_bias=self.c_proj.bias,
            training=False,
            need_weights=False,
            use_separate_proj_weight=True,
            q_proj_weight=self.q_proj.weight,
            k_proj_weight=self.k_proj.weight,
            v_proj_weight=self.v_proj.weight,
        )
        return out[0]


class ModifiedResNet(nn.Module):
    def __init__(self, config: Config, dim: int) -> None:
        super().__init__()
        width = config["width"]
        rows, columns = _pair(config["image_size"])
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        into = width
        for stage, blocks in enumerate(config["layers"]):
            planes, layer = width * 2**stage, []
            for block in range(blocks):
                layer.append(Bottleneck(into, planes, 2 if stage and not block else 1))
                into = 4 * planes
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        heads = width * 32 // config.get("head_width", 64)
        self.attnpool = AttentionPool(rows // 32 * (columns // 32) + 1, into, heads, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for place in (1, 2, 3):
            convolution, norm = getattr(self, f"conv{place}"), getattr(self, f"bn{place}")
            x = F.relu(norm(convolution(x)))
        x = F.avg_pool2d(x, 2)
        for stage in (1, 2, 3, 4):
            x = getattr(self, f"layer{stage}")(x)
        return self.attnpool(x)


class TextTransformer(nn.Module):
    def __init__(self, config: Config, dim: int, quick: bool) -> None:
        super().__init__()
        self.config = config
        width, context = config["width"], config.get("context_length", 77)
        self.token_embedding = nn.Embedding(config.get("vocab_size", 49408), width)
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        self.transformer = Transformer(config, width, config["heads"], quick)
        epsilon = (config.get("norm_kwargs") or {}).get("eps", 1e-5)
        self.ln_final = nn.LayerNorm(width, eps=epsilon)
        self.text_projection: Any = None
        if config.get("proj_type") != "none":
            plain = nn.Parameter(torch.empty(width, dim))
            self.text_projection = nn.Linear(width, dim) if config.get("proj_bias") else plain

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        x = self.token_embedding(tokens) + self.positional_embedding
        causal = torch.full((length, length), float("-inf")).triu(1)
        x = self.transformer(x, None if self.config.get("no_causal_mask") else causal)
        x = self.ln_final(x)
        position = {
            "argmax": tokens.argmax(dim=-1),
            "eos": (tokens == self.config.get("eos_id", 2)).int().argmax(dim=-1),
            "first": torch.zeros(len(tokens), dtype=torch.long),
            "last": torch.full((len(tokens),), length - 1),
        }[self.config.get("pool_type", "argmax")]
        x = x[torch.arange(len(x)), position]
        if self.text_projection is None:
            return x
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(x)
        return x @ self.text_projection


class OpenClip(nn.Module):
    """Both towers of a ``model_cfg``, loaded strictly from a state dict in any layout."""

    def __init__(self, model: Config, tensors: Tensors) -> None:
        super().__init__()
        quick, dim, vision = bool(model.get("quick_gelu")), model["embed_dim"], model["vision_cfg"]
        if isinstance(vision["layers"], list):
            self.visual: nn.Module = ModifiedResNet(vision, dim)
        else:
            self.visual = VisionTransformer(vision, dim, quick)
        self.text = TextTransformer(model["text_cfg"], dim, quick)
        state = {}
        for name, array in tensors.items():
            if not name.startswith(("logit_", "input_resolution", "context_length", "vocab_size")):
                name = name if name.startswith(("visual.", "text.")) else f"text.{name}"
                state[name] = torch.from_numpy(np.array(array))
        self.load_state_dict(state, strict=True)
        self.float().eval()

    @torch.no_grad()
    def embed_pixels(self, pixels: NDArray[np.uint8], mean: Any, std: Any) -> NDArray[np.float32]:
        """Uint8 [n, height, width, 3] -> float32 [n, dim], normalised."""
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        x = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        return F.normalize(self.visual(x), dim=-1).numpy()

    @torch.no_grad()
    def embed_tokens(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Int64 [n, context] -> float32 [n, dim], normalised."""
        return F.normalize(self.text(torch.from_numpy(tokens)), dim=-1).numpy()


def _pair(value: Any) -> tuple[int, int]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value, value)
