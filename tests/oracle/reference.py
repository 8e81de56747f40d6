"""transformers, as the reference: loaded without torchvision, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer


class Reference:
    """A checkpoint in transformers."""

    def __init__(self, folder: Path) -> None:
        self.model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        self.processor = CLIPImageProcessorPil.from_pretrained(folder)

    def embed_images(self, images: Sequence[Any]) -> NDArray[np.float32]:
        """float32 [n, dim], normalised."""
        inputs = self.processor(list(images), return_tensors="pt")
        with torch.no_grad():
            embeddings = self.model.get_image_features(**inputs).pooler_output
        return _normalised(embeddings)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [n, dim], normalised."""
        inputs = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            embeddings = self.model.get_text_features(**inputs).pooler_output
        return _normalised(embeddings)

    def pixels(self, image: Any) -> NDArray[np.uint8]:
        """uint8 [height, width, 3]: the processor's output before scaling."""
        output = self.processor(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
        return np.ascontiguousarray(np.moveaxis(np.asarray(output), 0, -1))

    def ids(self, text: str) -> list[int]:
        """Token ids, cut to the context."""
        return list(self.tokenizer(text, truncation=True)["input_ids"])


def _normalised(embeddings: torch.Tensor) -> NDArray[np.float32]:
    return torch.nn.functional.normalize(embeddings, dim=-1).numpy()
