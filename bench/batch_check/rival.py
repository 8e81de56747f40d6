"""A folder of embeddings as one writes it with transformers: what `cliprt embed` is compared with.

It goes on after nothing, reports nothing and stops at the first bad file; it is quick to write, and
that is its point.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPImageProcessorPil, CLIPModel

from cliprt._cores import usable_cores


class Pictures(Dataset):
    """Files as tensors, float32 [3, height, width]."""

    def __init__(self, paths, processor):
        self.paths, self.processor = paths, processor

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with Image.open(self.paths[index]) as image:
            return self.processor(image, return_tensors="pt")["pixel_values"][0]


def main():
    """Writes the embeddings; prints the files in a second, from the model's being loaded on."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("list")
    parser.add_argument("out")
    arguments = parser.parse_args()
    paths = Path(arguments.list).read_text().splitlines()

    model = CLIPModel.from_pretrained(arguments.checkpoint, dtype=torch.float32).eval()
    processor = CLIPImageProcessorPil.from_pretrained(arguments.checkpoint)

    begun = time.perf_counter()
    found = []
    with torch.no_grad():
        pictures = Pictures(paths, processor)
        for pixels in DataLoader(pictures, batch_size=64, num_workers=usable_cores()):
            features = model.get_image_features(pixels).pooler_output
            found.append(torch.nn.functional.normalize(features, dim=-1).numpy())
    np.save(arguments.out, np.concatenate(found))
    print(json.dumps({"rate": len(paths) / (time.perf_counter() - begun)}))


if __name__ == "__main__":
    main()
