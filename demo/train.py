"""Trains the demo's small CLIP from scratch, on pictures it draws itself.

    python demo/train.py

writes `demo/checkpoint`: a Hugging Face CLIP checkpoint with its model card. All chance comes from
the seed. It needs torch and transformers, which the runtime does not.
"""

from __future__ import annotations

import argparse
import io
import math
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from card import write_card
from draw import (
    VALUES,
    Scene,
    caption,
    choose_stated,
    combinations,
    draw,
    random_scene,
    random_size,
)
from evaluate import CHECKPOINT, Judge, measure
from words import learn_tokenizer, save_tokenizer, write_json

SIDE = 64
CONTEXT = 32
CORPUS_CAPTIONS = 20_000
WARMUP_STEPS = 100
POSITION_SCALE = 1.0
MAX_LOGIT_SCALE = math.log(100)

Pixels = NDArray[np.uint8]


def training_scene(rng: np.random.Generator) -> Scene:
    """Returns a random scene of a combination that is not held out."""
    triples = combinations(held_out=False)
    return random_scene(rng, *triples[rng.integers(len(triples))])


def training_picture(seed: tuple[int, int]) -> tuple[Scene, Pixels]:
    """Draws one training picture, sized as the processor will size a user's picture.

    Args:
        seed: The run's seed and the picture's number.

    Returns:
        The scene and its pixels.
    """
    rng = np.random.default_rng(seed)
    scene = training_scene(rng)
    picture = draw(scene, random_size(rng, 64, 224), rng)
    if rng.random() < 0.5:
        picture = _through_jpeg(picture, int(rng.integers(60, 96)))
    small = ImageOps.fit(picture, (SIDE, SIDE), Image.Resampling.BICUBIC)
    return scene, np.asarray(small)


def draw_training_set(count: int, seed: int, processes: int) -> tuple[list[Scene], torch.Tensor]:
    """Draws the training pictures once, for drawing them at every step would cost more.

    Args:
        count: How many pictures to draw.
        seed: The run's seed.
        processes: How many processes draw.

    Returns:
        The scenes and their pixels, shaped (count, SIDE, SIDE, 3).
    """
    scenes: list[Scene] = []
    pixels = np.empty((count, SIDE, SIDE, 3), dtype=np.uint8)
    seeds = ((seed, number) for number in range(count))
    with multiprocessing.Pool(processes) as pool:
        for scene, picture in pool.imap(training_picture, seeds, chunksize=64):
            pixels[len(scenes)] = picture
            scenes.append(scene)
    return scenes, torch.from_numpy(pixels)


def make_tokenizer(seed: int) -> CLIPTokenizer:
    """Learns the tokenizer from captions of random training scenes."""
    rng = np.random.default_rng(seed)
    scenes = (training_scene(rng) for _ in range(CORPUS_CAPTIONS))
    return learn_tokenizer(
        (caption(scene, rng, choose_stated(scene, rng)) for scene in scenes), CONTEXT
    )


def make_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Returns the untrained model."""
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": CONTEXT,
        "hidden_act": "quick_gelu",
        "projection_dim": 64,
    }
    vision = {
        "image_size": SIDE,
        "patch_size": 8,
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "hidden_act": "quick_gelu",
        "projection_dim": 64,
    }
    model = CLIPModel(CLIPConfig(text_config=text | ids, vision_config=vision, projection_dim=64))
    _strengthen(model)
    _place_patches(model)
    return model


def make_image_processor() -> CLIPImageProcessorPil:
    """Returns CLIP's own preprocessing, for this model's picture size."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )


def contrastive_loss(
    logits: torch.Tensor, facts: torch.Tensor, stated: torch.Tensor
) -> torch.Tensor:
    """Returns the symmetric InfoNCE loss without false negatives.

    "A red circle" is as true of the next red circle in the batch as of its own picture, so a
    caption and another picture that it also fits are neither pulled together nor pushed apart.

    Args:
        logits: Scaled similarities, one row for each picture and one column for each caption.
        facts: Attribute values of each picture's scene, as numbers.
        stated: Which of the attributes each caption states.
    """
    differs = facts[:, None, :] != facts[None, :, :]
    fits = ~(differs & stated[None, :, :]).any(2)
    fits.fill_diagonal_(False)
    logits = logits.masked_fill(fits, -math.inf)
    own = torch.arange(len(logits))
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def attribute_loss(
    heads: torch.nn.ModuleList, features: torch.Tensor, facts: torch.Tensor
) -> torch.Tensor:
    """Returns how badly the attributes can be read off the pictures' features.

    Captions leave most attributes out and words must be learned first; reading attributes off
    directly makes the image tower look at outlines and places from the first step. The heads are
    thrown away after training.

    Args:
        heads: A linear classifier for each attribute.
        features: Projected features of the pictures, before they are normalised.
        facts: Attribute values of each picture's scene, as numbers.
    """
    losses = [cross_entropy(head(features), facts[:, k]) for k, head in enumerate(heads)]
    return torch.stack(losses).sum()


def train(
    model: CLIPModel,
    tokenizer: CLIPTokenizer,
    scenes: list[Scene],
    pixels: torch.Tensor,
    options: argparse.Namespace,
) -> None:
    """Trains a model in place: first the image tower to see, then both towers to agree.

    Args:
        model: The model.
        tokenizer: The tokenizer of its texts.
        scenes: The training scenes.
        pixels: Their pictures.
        options: The command line's options.
    """
    rng = np.random.default_rng((options.seed, len(scenes)))
    facts = torch.tensor([_facts(scene) for scene in scenes])
    heads = torch.nn.ModuleList(
        torch.nn.Linear(model.config.vision_config.hidden_size, len(v)) for v in VALUES.values()
    )
    processor = make_image_processor()
    mean, std = (torch.tensor(v) for v in (processor.image_mean, processor.image_std))

    def pictures_of(chosen: list[int]) -> torch.Tensor:
        return ((pixels[chosen].float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()

    def see(step: int) -> torch.Tensor:
        chosen = _any_batch(facts, options.batch, rng)
        seen = model.vision_model(pictures_of(chosen)).pooler_output
        return attribute_loss(heads, seen, facts[chosen])

    def agree(step: int) -> torch.Tensor:
        batch_of = _alike_batch if step % 2 else _any_batch
        chosen = batch_of(facts, options.batch, rng)
        batch = [scenes[number] for number in chosen]
        stated = [choose_stated(scene, rng) for scene in batch]
        texts = [caption(scene, rng, s) for scene, s in zip(batch, stated, strict=True)]
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        if tokens.input_ids.shape[1] > CONTEXT:
            raise ValueError(f"a caption has more than {CONTEXT} tokens")
        seen = model.vision_model(pictures_of(chosen)).pooler_output
        said = model.get_text_features(**tokens).pooler_output
        logits = model.logit_scale.exp() * (
            normalize(model.visual_projection(seen)) @ normalize(said).T
        )
        told = torch.tensor([[field in s for field in VALUES] for s in stated])
        matching = contrastive_loss(logits, facts[chosen], told)
        return matching + attribute_loss(heads, seen, facts[chosen]) / len(VALUES)

    model.train()
    run_stage("see", see, options.seeing, [model.vision_model, heads], options, cool=False)
    run_stage("agree", agree, options.agreeing, [model, heads], options, cool=True)
    model.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)


def run_stage(
    name: str,
    loss_of: Callable[[int], torch.Tensor],
    steps: int,
    modules: list[torch.nn.Module],
    options: argparse.Namespace,
    *,
    cool: bool,
) -> None:
    """Minimises a loss.

    Args:
        name: What the progress lines call the stage.
        loss_of: Computes the loss of a step.
        steps: How many steps to take.
        modules: What to train.
        options: The command line's options.
        cool: Whether the learning rate falls to zero along half a cosine.
    """
    optimizer = torch.optim.AdamW(
        _parameter_groups(*modules), lr=options.learning_rate, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: _rate(k, steps, cool))
    parameters = [parameter for module in modules for parameter in module.parameters()]
    started, total = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        total += loss.item()
        if step % options.report == 0:
            minutes = (time.monotonic() - started) / 60
            mean = total / options.report
            print(f"{name} {step}/{steps}: loss {mean:.3f}, {minutes:.1f} min", flush=True)
            total = 0.0


def save(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Writes a checkpoint with its tokenizer and its preprocessing."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    settings = make_image_processor().to_dict()
    settings = {key: value for key, value in settings.items() if value is not None}
    # The name that every release of transformers resolves to a class it has.
    settings["image_processor_type"] = "CLIPImageProcessor"
    settings["processor_class"] = "CLIPProcessor"
    write_json(folder / "preprocessor_config.json", settings)


def _through_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    """Returns the picture as JPEG keeps it."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def _facts(scene: Scene) -> list[int]:
    """Returns a scene's attribute values as numbers."""
    return [list(values).index(getattr(scene, field)) for field, values in VALUES.items()]


def _any_batch(facts: torch.Tensor, size: int, rng: np.random.Generator) -> list[int]:
    """Returns the numbers of random pictures."""
    return rng.choice(len(facts), size, replace=False).tolist()  # type: ignore[no-any-return]


def _alike_batch(facts: torch.Tensor, size: int, rng: np.random.Generator) -> list[int]:
    """Returns the numbers of random pictures whose scenes share two attributes.

    In a batch of unlike scenes nearly every caption is told apart by colour and background alone.
    Where those agree it takes shape, pattern, count and position, which are harder to learn.
    """
    while True:
        fields = rng.choice(len(VALUES), 2, replace=False)
        like = facts[rng.integers(len(facts)), fields]
        alike = (facts[:, fields] == like).all(1).nonzero().flatten().numpy()
        if len(alike) >= size:
            return rng.choice(alike, size, replace=False).tolist()  # type: ignore[no-any-return]


def _strengthen(model: CLIPModel) -> None:
    """Starts the image tower's projections larger than CLIP does.

    CLIP's start suits towers of width 768 and more; at width 96 attention stays uniform for
    thousands of steps.
    """
    embeddings = model.vision_model.embeddings
    torch.nn.init.normal_(embeddings.patch_embedding.weight, std=0.06)
    for layer in model.vision_model.encoder.layers:
        attention = layer.self_attn
        torch.nn.init.xavier_uniform_(attention.q_proj.weight, gain=1.4)
        torch.nn.init.xavier_uniform_(attention.k_proj.weight, gain=1.4)
        torch.nn.init.xavier_uniform_(attention.v_proj.weight)
        torch.nn.init.xavier_uniform_(layer.mlp.fc1.weight)


def _place_patches(model: CLIPModel) -> None:
    """Starts the picture's position embeddings as sines and cosines of row and column.

    From the usual start, small noise, a short training on few pictures barely learns where a patch
    is, and so neither shapes nor positions.
    """
    embedding = model.vision_model.embeddings.position_embedding.weight.data
    patches, width = embedding.shape[0] - 1, embedding.shape[1]
    places = torch.arange(math.isqrt(patches)).float()
    angles = places[:, None] * math.pi / torch.logspace(0, math.log10(2 * len(places)), width // 4)
    waves = POSITION_SCALE * torch.cat([angles.sin(), angles.cos()], 1)
    rows = waves[:, None, :].expand(-1, len(places), -1)
    columns = waves[None, :, :].expand(len(places), -1, -1)
    embedding[1:] = torch.cat([rows, columns], 2).flatten(0, 1)


def _parameter_groups(*modules: torch.nn.Module) -> list[dict[str, object]]:
    """Returns the matrices with weight decay, and the gains, biases and logit scale without."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _rate(step: int, steps: int, cool: bool) -> float:
    """Returns the learning rate's factor: a linear rise, then level or half a cosine to zero."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    if not cool:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / (steps - WARMUP_STEPS)))


def _options() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Train the demo's CLIP, measure it and write its model card.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="folder to write")
    parser.add_argument("--seeing", type=int, default=1300, help="steps of the first stage")
    parser.add_argument("--agreeing", type=int, default=1400, help="steps of the second stage")
    parser.add_argument("--batch", type=int, default=128, help="pictures in a batch")
    parser.add_argument("--pictures", type=int, default=40_000, help="training pictures drawn")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1, help="seed of everything")
    parser.add_argument("--threads", type=int, default=2, help="threads and drawing processes")
    parser.add_argument("--report", type=int, default=100, help="steps between progress lines")
    return parser.parse_args()


def main() -> None:
    """Draws, trains, saves, measures, and writes the model card."""
    options = _options()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    started = time.monotonic()
    scenes, pixels = draw_training_set(options.pictures, options.seed, options.threads)
    drawn = time.monotonic()
    print(f"{len(scenes)} pictures drawn in {drawn - started:.0f} s", flush=True)
    tokenizer = make_tokenizer(options.seed)
    model = make_model(tokenizer)
    print(f"{model.num_parameters()} parameters, {len(tokenizer)} tokens", flush=True)
    train(model, tokenizer, scenes, pixels, options)
    save(model, tokenizer, options.checkpoint)
    minutes = (time.monotonic() - started) / 60
    accuracies = measure(Judge(options.checkpoint))
    for title, share in accuracies.items():
        print(f"{100 * share:6.2f} %  {title}")
    write_card(options, minutes, accuracies)


if __name__ == "__main__":
    main()
