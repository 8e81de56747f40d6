"""Writes the demo checkpoint's model card from what a training run measured."""

from __future__ import annotations

import argparse
import os
from string import Template

import torch
import transformers

from draw import BACKGROUNDS, COLOURS, COUNTS, PATTERNS, POSITIONS, SHAPES, combinations
from evaluate import EVALUATION_SEED, LARGEST, SMALLEST, TEMPLATE

CARD = Template("""\
---
license: apache-2.0
library_name: transformers
pipeline_tag: zero-shot-image-classification
language: en
tags: [clip]
---

# A small CLIP of shapes

A real but tiny CLIP (64 x 64 pixels, a few hundred thousand parameters), trained from scratch for
cliprt's demo and tests. It knows one small world: pictures of coloured, patterned shapes. It is no
model of photographs.

## Data

`demo/draw.py` draws every picture and `caption` in it words every caption; no picture, text or
weight comes from elsewhere. A scene shows one to four equal objects on a plain background:

- colours: $colours
- patterns: $patterns
- shapes: $shapes
- counts: $counts
- positions (of a single object): $positions
- backgrounds: $backgrounds

Size, turn, shade, exact place, pattern period and noise vary by chance. Captions state more or less
of the scene: "three red striped circles", "a picture of a blue star on the left".

## Training

First the image tower learns to see, for $seeing steps: linear heads read each attribute of the
scene off its features. Then both towers learn to agree, for $agreeing steps: symmetric InfoNCE, in
every other batch over scenes that share two attributes, so that the others decide. A caption and
another picture of the batch that it happens to be true of are left out of the loss. The heads stay
on with less weight and are thrown away at the end. Batches of $batch from $pictures drawn pictures,
AdamW with a highest learning rate of $rate, seed $seed.

    python demo/train.py --seeing $seeing --agreeing $agreeing --batch $batch \\
        --pictures $pictures --learning-rate $rate --seed $seed --threads $threads

It took $minutes minutes of wall time, drawing included, with $threads threads on a machine with
$cores CPU cores shared with other jobs and no GPU (torch $torch, transformers $transformers).

## Accuracy

Of the $all colour-pattern-shape combinations, $held_out (one in four) were never shown or named in
training; every colour, pattern and shape, and every pair of them, was. The pictures measured on are
new drawings (seed $evaluation_seed), $smallest to $largest pixels a side and mostly not square;
they go through the saved checkpoint's own processor. Classes are prompted as "$template"; counts,
positions and backgrounds by prompts that differ in nothing else.

| zero-shot, best of | accuracy |
| --- | --- |
$rows

    python demo/evaluate.py

## Limits

- It has seen drawings of one style only; on photographs and other words its answers mean nothing.
- It confuses outlines of a few pixels (circle, square, heart) and close patterns (striped,
  checkered): see the figures among all combinations. Those among the held-out ones alone are higher
  because any two attributes leave only one or two candidates for the third.
- All objects of a picture are alike: it has not learnt to tell "a red circle and a blue square"
  from "a blue circle and a red square".
- Captions of at most 30 tokens, English, with the words above.

## Licence

Apache-2.0.
""")


def write_card(options: argparse.Namespace, minutes: float, accuracies: dict[str, float]) -> None:
    """Writes README.md into the checkpoint folder.

    Args:
        options: The training run's options.
        minutes: The wall time of drawing and training.
        accuracies: What `evaluate.measure` returned.
    """
    held_out, seen = combinations(held_out=True), combinations(held_out=False)
    text = CARD.substitute(
        colours=", ".join(COLOURS),
        patterns=", ".join(PATTERNS),
        shapes=", ".join(SHAPES),
        counts=", ".join(COUNTS.values()),
        positions=", ".join(POSITIONS),
        backgrounds=", ".join(BACKGROUNDS),
        seeing=options.seeing,
        agreeing=options.agreeing,
        batch=options.batch,
        pictures=options.pictures,
        rate=options.learning_rate,
        seed=options.seed,
        threads=options.threads,
        minutes=f"{minutes:.0f}",
        cores=os.cpu_count(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        all=len(held_out) + len(seen),
        held_out=len(held_out),
        evaluation_seed=EVALUATION_SEED,
        smallest=SMALLEST,
        largest=LARGEST,
        template=TEMPLATE.format("red striped circle"),
        rows="\n".join(f"| {title} | {100 * share:.2f} % |" for title, share in accuracies.items()),
    )
    (options.checkpoint / "README.md").write_text(text, encoding="utf-8")
