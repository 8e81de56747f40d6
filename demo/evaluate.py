"""Measures a saved checkpoint through transformers, on pictures and words it never saw.

    python demo/evaluate.py

Every picture is drawn afresh on a canvas of its own size and goes through the checkpoint's own
processor and model, as a user's picture would.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPProcessor

from draw import (
    BACKGROUNDS,
    COUNTS,
    NAME_FIELDS,
    POSITIONS,
    Scene,
    combinations,
    describe,
    draw,
    random_scene,
    random_size,
)

CHECKPOINT = Path(__file__).parent / "checkpoint"
SAMPLES = Path(__file__).parent / "pictures"
EVALUATION_SEED = 20_000
SMALLEST, LARGEST = 80, 320
TEMPLATE = "a picture of a {}"
BATCH = 64


class Judge:
    """A saved checkpoint that embeds pictures and texts as unit vectors."""

    def __init__(self, checkpoint: Path) -> None:
        """Loads the model and the processor.

        Args:
            checkpoint: The folder that holds both.
        """
        self._model = CLIPModel.from_pretrained(checkpoint).eval()
        # "pil" keeps transformers from asking for torchvision.
        self._processor = CLIPProcessor.from_pretrained(checkpoint, backend="pil")

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> torch.Tensor:
        """Returns one unit vector for each text."""
        inputs = self._processor(text=texts, padding=True, return_tensors="pt")
        return normalize(self._model.get_text_features(**inputs).pooler_output)

    @torch.inference_mode()
    def pictures(self, pictures: Iterable[Image.Image]) -> torch.Tensor:
        """Returns one unit vector for each picture."""
        vectors: list[torch.Tensor] = []
        remaining = iter(pictures)
        while batch := list(islice(remaining, BATCH)):
            inputs = self._processor(images=batch, return_tensors="pt")
            vectors.append(normalize(self._model.get_image_features(**inputs).pooler_output))
        return torch.cat(vectors)


def measure(judge: Judge, each: int = 25, seed: int = EVALUATION_SEED) -> dict[str, float]:
    """Measures zero-shot accuracies on freshly drawn pictures.

    Args:
        judge: The checkpoint.
        each: Pictures drawn for each combination.
        seed: The seed of the drawing, which no training picture shares.

    Returns:
        The share of right answers for each measure, by the measure's title.
    """
    rng = np.random.default_rng(seed)
    unseen, seen = combinations(held_out=True), combinations(held_out=False)
    unseen_names, seen_names = ([" ".join(triple) for triple in side] for side in (unseen, seen))
    everything = unseen_names + seen_names
    new = [random_scene(rng, *triple, count=1) for triple in unseen for _ in range(each)]
    known = [random_scene(rng, *triple, count=1) for triple in seen for _ in range(each)]
    # In the middle, for only there can one object be exchanged for several.
    groups = [
        replace(random_scene(rng, *triple, count=count), position="centre")
        for triple in unseen
        for count in COUNTS
        for _ in range(math.ceil(each / len(COUNTS)))
    ]
    new_vectors, known_vectors, group_vectors = (
        judge.pictures(draw(scene, random_size(rng, SMALLEST, LARGEST), rng) for scene in scenes)
        for scenes in (new, known, groups)
    )
    return {
        f"held-out combinations, among the {len(unseen)} held-out": _named(
            judge, new, new_vectors, unseen_names
        ),
        f"held-out combinations, among all {len(everything)}": _named(
            judge, new, new_vectors, everything
        ),
        f"seen combinations, among the {len(seen)} seen": _named(
            judge, known, known_vectors, seen_names
        ),
        f"seen combinations, among all {len(everything)}": _named(
            judge, known, known_vectors, everything
        ),
        f"count of held-out objects, among {len(COUNTS)}": _attribute(
            judge, groups, group_vectors, "count", list(COUNTS)
        ),
        f"position of one held-out object, among {len(POSITIONS)}": _attribute(
            judge, new, new_vectors, "position", list(POSITIONS)
        ),
        f"background of one held-out object, among {len(BACKGROUNDS)}": _attribute(
            judge, new, new_vectors, "background", list(BACKGROUNDS)
        ),
    }


def measure_samples(judge: Judge, folder: Path = SAMPLES) -> dict[str, float]:
    """Measures the sample pictures: their classes, and the queries that look for them.

    Args:
        judge: The checkpoint.
        folder: The folder that `samples.py` writes.

    Returns:
        The shares of right classes and right queries, and the smallest lead in cosine similarity
        of a right answer over the best wrong one (negative if an answer is wrong).
    """
    samples = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    queries = json.loads((folder / "queries.json").read_text(encoding="utf-8"))
    files = [sample["file"] for sample in samples]
    names = sorted({sample["class"] for sample in samples})
    vectors = judge.pictures(Image.open(folder / file) for file in files)
    classes = vectors @ judge.texts([TEMPLATE.format(name) for name in names]).T
    wanted_class = torch.tensor([[s["class"] == name for name in names] for s in samples])
    found = judge.texts([query["query"] for query in queries]) @ vectors.T
    wanted_file = torch.tensor([[file in q["expected"] for file in files] for q in queries])
    class_leads, query_leads = _leads(classes, wanted_class), _leads(found, wanted_file)
    return {
        f"sample pictures right, among {len(names)} classes": float(
            (class_leads > 0).float().mean()
        ),
        "smallest lead of a sample's class": float(class_leads.min()),
        f"queries right, among {len(files)} pictures": float((query_leads > 0).float().mean()),
        "smallest lead of a query's picture": float(query_leads.min()),
    }


def _leads(similarities: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Returns for each row how far its best wanted entry is ahead of the best other one."""
    best = similarities.masked_fill(~wanted, -math.inf).amax(1)
    return best - similarities.masked_fill(wanted, -math.inf).amax(1)


def _named(judge: Judge, scenes: list[Scene], vectors: torch.Tensor, names: list[str]) -> float:
    """Returns how many pictures are nearest to the prompt with their own name."""
    prompts = judge.texts([TEMPLATE.format(name) for name in names])
    truth = torch.tensor([names.index(scene.name) for scene in scenes])
    return float(((vectors @ prompts.T).argmax(1) == truth).double().mean())


def _attribute(
    judge: Judge,
    scenes: list[Scene],
    vectors: torch.Tensor,
    field: str,
    choices: list[str] | list[int],
) -> float:
    """Returns how many pictures are nearest to the prompt with the right value of one attribute.

    The prompts of a picture differ in that attribute only, as in "a picture of two red striped
    circles" and "a picture of three red striped circles".
    """
    stated = NAME_FIELDS | {field}
    prompts = [
        f"a picture of {describe(replace(scene, **{field: choice}), stated)}"
        for scene in scenes
        for choice in choices
    ]
    candidates = judge.texts(prompts).unflatten(0, (len(scenes), len(choices)))
    answers = (candidates @ vectors[:, :, None]).squeeze(2).argmax(1)
    truth = torch.tensor([list(choices).index(getattr(scene, field)) for scene in scenes])
    return float((answers == truth).double().mean())


def main() -> None:
    """Prints the accuracies of a checkpoint."""
    parser = argparse.ArgumentParser(description="Measure a checkpoint's zero-shot accuracies.")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="checkpoint folder")
    parser.add_argument("--each", type=int, default=25, help="pictures for each combination")
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED, help="seed of the drawing")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    judge = Judge(options.checkpoint)
    for title, share in measure(judge, options.each, options.seed).items():
        print(f"{100 * share:6.2f} %  {title}")
    for title, value in measure_samples(judge).items():
        print(f"{value:8.3f}  {title}")


if __name__ == "__main__":
    main()
