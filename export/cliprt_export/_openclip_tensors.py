"""OpenCLIP's and OpenAI's names of tensors, mapped onto the neutral ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cliprt._errors import CheckpointError
from cliprt_export._checkpoint import Checkpoint
from cliprt_export._specs import ResNetTower, Shapes, TextTower, Tower, VitTower, tower_tensors

Floats = NDArray[np.float32]

_VIT = {
    "patch.weight": "conv1.weight",
    "class_token": "class_embedding",
    "positions": "positional_embedding",
    "pre_norm": "ln_pre",
    "post_norm": "ln_post",
    "projection.weight": "proj",
}
_TEXT = {
    "token_embedding": "token_embedding.weight",
    "positions": "positional_embedding",
    "post_norm": "ln_final",
    "projection.weight": "text_projection",
}
# A projection with a bias is a linear layer of torch, which stores its weight the other way round.
_AFFINE_TEXT = {**_TEXT, "projection": "text_projection"}
del _AFFINE_TEXT["projection.weight"]
_BLOCK = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    "attention.out": "attn.out_proj",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
    "scale1": "ls_1.gamma",
    "scale2": "ls_2.gamma",
}
_RESNET_HEAD = {
    "head.positions": "attnpool.positional_embedding",
    "head.attention.query": "attnpool.q_proj",
    "head.attention.key": "attnpool.k_proj",
    "head.attention.value": "attnpool.v_proj",
    "head.attention.out": "attnpool.c_proj",
}
# Queries, keys and values are stored as one matrix, in this order.
_JOINED = ("query", "key", "value")
_TRANSPOSED = ("proj", "text_projection")
# torch's default, which both libraries keep.
_BATCH_NORM_EPSILON = 1e-5
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


class OpenClipTensors:
    """Looks up a tower's tensors by their neutral names."""

    def __init__(self, checkpoint: Checkpoint, tower: Tower, prefix: str) -> None:
        """Takes where the tensors are.

        Args:
            checkpoint: holds them.
            tower: its sizes.
            prefix: what stands before a tensor's name, such as ``visual.``.
        """
        self._checkpoint = checkpoint
        self._tower = tower
        self._prefix = prefix
        self._shapes: Shapes = tower_tensors(tower)

    def __call__(self, name: str) -> Floats:
        """A tensor as float32, in the layout of ``tower_tensors``.

        Raises:
            CheckpointError: it is missing or unusable.
        """
        shape = self._shapes[name]
        if isinstance(self._tower, ResNetTower) and not name.startswith("head."):
            return self._folded(name, shape)
        stored = self._stored(name)
        role, kind = _split(name)
        if stored.rsplit(".", 1)[-1].startswith("in_proj"):
            width = shape[0]
            joined = self._read(stored, (3 * width, *shape[1:]))
            place = _JOINED.index(role.rsplit(".", 1)[-1])
            return joined[place * width : (place + 1) * width]
        if kind == "weight" and stored in _TRANSPOSED:
            return np.ascontiguousarray(self._read(stored, shape[::-1]).T)
        return self._read(stored, shape)

    def stored_names(self) -> set[str]:
        """Names of all tensors of the checkpoint that the tower is made of."""
        names: set[str] = set()
        for name in self._shapes:
            if isinstance(self._tower, ResNetTower) and not name.startswith("head."):
                convolution, norm = _convolution(_split(name)[0])
                names |= {f"{convolution}.weight", *(f"{norm}.{kind}" for kind in _BATCH_NORM)}
            else:
                names.add(self._stored(name))
        return {self._prefix + name for name in names}

    def _read(self, stored: str, shape: tuple[int, ...]) -> Floats:
        return self._checkpoint.tensor(self._prefix + stored, shape)

    def _stored(self, name: str) -> str:
        """``blocks.3.mlp.up.bias`` -> ``transformer.resblocks.3.mlp.c_fc.bias``, for instance."""
        names = _outside_blocks(self._tower)
        if name in names:
            return names[name]
        if not name.startswith("blocks."):
            role, kind = _split(name)
            return f"{names[role]}.{kind}"
        _, layer, rest = name.split(".", 2)
        block = f"transformer.resblocks.{layer}"
        if rest in _BLOCK:
            return f"{block}.{_BLOCK[rest]}"
        role, kind = _split(rest)
        if role.removeprefix("attention.") in _JOINED:
            return f"{block}.attn.in_proj_{kind}"
        return f"{block}.{_BLOCK[role]}.{kind}"

    def _folded(self, name: str, shape: tuple[int, ...]) -> Floats:
        """A convolution's weight or bias with the batch norm behind it folded in, in float64."""
        role, kind = _split(name)
        convolution, norm = _convolution(role)
        channels = (shape[0],)
        gain, offset, mean, variance = (
            self._read(f"{norm}.{part}", channels).astype(np.float64) for part in _BATCH_NORM
        )
        if variance.min() < 0:
            raise CheckpointError(
                f"tensor {self._prefix + norm}.running_var of {self._checkpoint.name} holds "
                "negative variances"
            )
        factor = gain / np.sqrt(variance + _BATCH_NORM_EPSILON)
        if kind == "bias":
            return np.asarray(offset - mean * factor, dtype=np.float32)
        weight = self._read(f"{convolution}.weight", shape).astype(np.float64)
        return np.asarray(weight * factor[:, None, None, None], dtype=np.float32)


def _outside_blocks(tower: Tower) -> dict[str, str]:
    if isinstance(tower, VitTower):
        return _VIT
    if isinstance(tower, ResNetTower):
        return _RESNET_HEAD
    assert isinstance(tower, TextTower)
    return _AFFINE_TEXT if tower.projection == "affine" else _TEXT


def _convolution(role: str) -> tuple[str, str]:
    """Stored names of a convolution and of its batch norm.

    ``stem.conv2`` -> ``conv2``, ``bn2``; ``stages.0.1.conv3`` -> ``layer1.1.conv3``,
    ``layer1.1.bn3``; ``stages.2.0.shortcut`` -> ``layer3.0.downsample.0`` and ``.1``.
    """
    place, _, kind = role.rpartition(".")
    prefix = ""
    if place != "stem":
        _, stage, block = place.split(".")
        prefix = f"layer{int(stage) + 1}.{block}."
    if kind == "shortcut":
        return f"{prefix}downsample.0", f"{prefix}downsample.1"
    return prefix + kind, prefix + kind.replace("conv", "bn")


def _split(name: str) -> tuple[str, str]:
    """A tensor's name as that of its layer and what it is there: ``weight`` or ``bias``."""
    role, _, kind = name.rpartition(".")
    return role, kind
