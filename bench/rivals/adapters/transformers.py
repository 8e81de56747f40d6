"""transformers with torch: the home library, and the reference of all answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from rivals.adapters import Adapter, rgb


class Rival(Adapter):
    """``CLIPModel`` with its processor and tokenizer."""

    # Inference in torch is a function of tensors; the tokenizer keeps its padding while it works,
    # so that only calls with the same padding, as here, may meet in it.
    threads = True
    packages = ("numpy", "pillow", "tokenizers", "torch", "transformers")

    def __init__(self, *, checkpoint: str, dtype: str = "float32", padding: str = "max_length"):
        """Loads the model.

        Args:
            checkpoint: a folder in Hugging Face's form.
            dtype: of weights and computation, as torch names it.
            padding: of texts: ``max_length`` fills up to the model's context, ``longest`` to the
                longest of a request.
        """
        self._dtype, self._padding = getattr(torch, dtype), padding
        self._model = CLIPModel.from_pretrained(checkpoint, dtype=self._dtype).eval()
        self._processor = CLIPImageProcessorPil.from_pretrained(checkpoint)
        self._tokenizer = CLIPTokenizer.from_pretrained(checkpoint)
        self._context = self._model.config.text_config.max_position_embeddings

    def embed(self, kind: str, items: Sequence[Any]) -> NDArray[Any]:
        """As `Adapter.embed` says."""
        with torch.inference_mode():
            if kind == "image":
                pixels = self._processor(rgb(items), return_tensors="pt")["pixel_values"]
                found = self._model.get_image_features(pixels.to(self._dtype))
            else:
                tokens = self._tokenizer(
                    list(items),
                    padding=self._padding,
                    truncation=True,
                    max_length=self._context,
                    return_tensors="pt",
                )
                found = self._model.get_text_features(**tokens)
            rows = found.pooler_output.float()
            return torch.nn.functional.normalize(rows, dim=-1).numpy()
