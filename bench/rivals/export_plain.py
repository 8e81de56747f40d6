"""The plainest export: torch's own, of transformers' model as it is, without a pass of ours.

It runs in the environment of transformers and writes ``image.onnx`` (pixel_values float32
[n, 3, side, side]) and ``text.onnx`` (input_ids and attention_mask int64 [n, tokens]); both give
the projected embedding, float32 [n, dim], not of length 1. torch's exporter by tracing
(``dynamo=False``) is taken: the other one needs a further package.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPModel

OPSET = 18


class _Image(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> Any:
        """The projected embedding, not of length 1."""
        return self.model.get_image_features(pixel_values=pixel_values).pooler_output


class _Text(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        """The projected embedding, not of length 1."""
        found = self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        return found.pooler_output


def export_plain(checkpoint: Path, folder: Path) -> None:
    """Writes both graphs.

    Args:
        checkpoint: a folder in Hugging Face's form.
        folder: where the graphs are written; it is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = CLIPModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    side = model.config.vision_config.image_size
    # Two texts of different length, so that the trace keeps the mask.
    tokens = torch.full((2, 9), 49407)
    tokens[:, 0], tokens[0, 1:7], tokens[1, 1:4] = 49406, 320, 320
    mask = torch.ones_like(tokens)
    mask[1, 5:] = 0
    batch = {0: "n"}
    torch.onnx.export(
        _Image(model),
        (torch.zeros(2, 3, side, side),),
        str(folder / "image.onnx"),
        input_names=["pixel_values"],
        output_names=["embedding"],
        dynamic_axes={"pixel_values": batch, "embedding": batch},
        opset_version=OPSET,
        dynamo=False,
    )
    both = {0: "n", 1: "tokens"}
    torch.onnx.export(
        _Text(model),
        (tokens, mask),
        str(folder / "text.onnx"),
        input_names=["input_ids", "attention_mask"],
        output_names=["embedding"],
        dynamic_axes={"input_ids": both, "attention_mask": both, "embedding": batch},
        opset_version=OPSET,
        dynamo=False,
    )


def main() -> None:
    """Exports as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    # The tracer warns of every branch that it fixes; the answers are compared afterwards.
    warnings.simplefilter("ignore")
    export_plain(arguments.checkpoint, arguments.folder)


if __name__ == "__main__":
    main()
