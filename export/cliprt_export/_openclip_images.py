"""How OpenCLIP and OpenAI's CLIP make pixels of a picture."""

from __future__ import annotations

from typing import Any, Literal

from cliprt._card import ImageSpec
from cliprt._errors import CheckpointError

_DEFAULTS: dict[str, Any] = {
    "mode": "RGB",
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def image_spec(config: dict[str, Any], height: int, width: int) -> ImageSpec:
    """The steps that a ``preprocess_cfg`` asks for.

    Args:
        config: ``preprocess_cfg``; what is missing or null has the library's default, and keys that
            the library does not know are passed over, as there. Its size is that of the tower.
        height: rows of the tower's input.
        width: columns of the tower's input.

    Raises:
        CheckpointError: it asks for what is not supported.
    """
    values = {
        key: config[key] if config.get(key) is not None else default
        for key, default in _DEFAULTS.items()
    }
    _check(values)
    resize: Literal["shortest", "cover", "squash"]
    if values["resize_mode"] == "squash":
        resize = "squash"
    else:
        resize = "shortest" if height == width else "cover"
    return ImageSpec(
        height=height,
        width=width,
        resize=resize,
        resize_height=height,
        resize_width=width,
        # "random" is a choice of the training; everywhere else it means bicubic.
        resample="bilinear" if values["interpolation"] == "bilinear" else "bicubic",
        crop="none" if resize == "squash" else "round",
        convert="last",
        transparency="drop",
        mean=_triple(values["mean"]),
        std=_triple(values["std"]),
        rescale=1 / 255,
    )


def _check(values: dict[str, Any]) -> None:
    supported = {
        "mode": ("RGB",),
        "interpolation": ("bicubic", "bilinear", "random"),
        "resize_mode": ("shortest", "squash"),
    }
    for key, choices in supported.items():
        if values[key] not in choices:
            raise CheckpointError(
                f"preprocess_cfg has {key} = {values[key]!r}; supported: {', '.join(choices)}"
            )


def _triple(values: float | list[float]) -> tuple[float, float, float]:
    """One number for each channel; one for all is repeated."""
    red, green, blue = values if isinstance(values, (list, tuple)) else [values] * 3
    return float(red), float(green), float(blue)
