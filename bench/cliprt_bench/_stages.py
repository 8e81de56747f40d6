"""Where the time of an item goes, stage by stage, with nothing else under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cliprt import Client, InvalidInput
from cliprt._images import preprocess
from cliprt._limits import Limits
from cliprt_bench._bench_card import Tower
from cliprt_bench._figures import Figure, figure
from cliprt_bench._inputs import InputSet
from cliprt_bench._targets import InProcess, Served, Subject

if TYPE_CHECKING:
    from cliprt._texts import TextTokenizer
    from cliprt_engines import LocalClip

Stages = dict[str, dict[str, Figure]]

STAGED = (InProcess, Served)
"""Those that tell their stages."""

# Items of a call of the tower; so many are prepared for it.
BATCH = 16


def stages_of(
    subject: Subject,
    inputs: InputSet,
    *,
    towers: Sequence[Tower],
    repeats: int,
    repeat_s: float,
    advance: Callable[[str], None] = lambda stage: None,
) -> Iterator[Stages]:
    """Milliseconds of an item, by tower and stage.

    In process each stage is called by itself: the tower with all the threads that it was given,
    what comes before it in one, though many do it at a time when items are embedded. So each says
    what it takes alone; their sum is not what an item takes. Of a server they are the means of
    ``client.profile()``: what the client prepared, the wire, Triton's queue, and the tower.

    Args:
        subject: LocalClip or Client.
        inputs: what is embedded.
        towers: those of the subject whose stages are measured.
        repeats: how often each stage is measured.
        repeat_s: seconds of each.
        advance: is told of a stage that was measured.

    Yields:
        After each round over all stages what is known by then.

    Raises:
        InvalidInput: neither LocalClip nor Client; others do not tell their stages.
    """
    if isinstance(subject, InProcess):
        return _own_stages(subject, inputs, towers, repeats, repeat_s, advance)
    if isinstance(subject, Served):
        return _served_stages(subject, inputs, towers, repeats, repeat_s, advance)
    raise InvalidInput(
        f"{subject.target.name} does not tell its stages; measure LocalClip (--bundle) or Client "
        "(--url)"
    )


def _own_stages(
    subject: InProcess,
    inputs: InputSet,
    towers: Sequence[Tower],
    repeats: int,
    repeat_s: float,
    advance: Callable[[str], None],
) -> Iterator[Stages]:
    works: dict[str, dict[str, tuple[Callable[[], object], int]]] = {}
    clip: LocalClip = subject.clip
    if "image" in towers:
        spec, files = clip.card.image, inputs.pictures[:BATCH]
        assert spec is not None
        pixels = [preprocess(file, spec, Limits()) for file in files]
        works["image"] = {
            "decode": (lambda: list(map(_loaded, files)), len(files)),
            "decode and resize": (
                lambda: [preprocess(f, spec, Limits()) for f in files],
                len(files),
            ),
            "tower": (lambda: clip.encode_image(pixels), len(files)),
        }
    if "text" in towers:
        tokenizer = subject.tokenizer()
        assert tokenizer is not None
        texts = list(inputs.captions[:BATCH])
        works["text"] = _text_works(clip, tokenizer, texts)
    found: dict[str, dict[str, list[float]]] = {
        tower: {stage: [] for stage in stages} for tower, stages in works.items()
    }
    # Stages take turns, so that what else happens on the machine meets all alike.
    for _ in range(repeats):
        for tower, stages in works.items():
            for stage, (work, items) in stages.items():
                found[tower][stage].append(_milliseconds(work, items, repeat_s))
                advance(f"{tower} {stage}")
        yield _told(found)


def _told(measured: dict[str, dict[str, list[float]]]) -> Stages:
    """Each stage by itself, where it was measured together with others."""
    found = {tower: dict(stages) for tower, stages in measured.items()}
    if "image" in found:
        image = found["image"]
        image["resize"] = _less(image.pop("decode and resize"), image["decode"])
    if "text" in found:
        text = found["text"]
        text["tower"] = _less(
            text.pop("all"), [sum(each) for each in zip(*text.values(), strict=True)]
        )
    order = ("decode", "resize", "tokenise", "fill up", "tower")
    return {
        tower: {stage: figure(stages[stage]) for stage in order if stage in stages}
        for tower, stages in found.items()
    }


def _text_works(
    clip: LocalClip, tokenizer: TextTokenizer, texts: Sequence[str]
) -> dict[str, tuple[Callable[[], object], int]]:
    ids = tokenizer(texts)
    return {
        "tokenise": (lambda: tokenizer(texts), len(texts)),
        "fill up": (lambda: tokenizer.pad(ids), len(texts)),
        # The tower takes no tokens from outside; it is the rest of a whole call.
        "all": (lambda: clip.encode_text(texts), len(texts)),
    }


def _served_stages(
    subject: Served,
    inputs: InputSet,
    towers: Sequence[Tower],
    repeats: int,
    repeat_s: float,
    advance: Callable[[str], None],
) -> Iterator[Stages]:
    client: Client = subject.client
    works: dict[str, Callable[[], object]] = {}
    if "image" in towers:
        works["image"] = lambda: client.encode_image(list(inputs.pictures[:BATCH]))
    if "text" in towers:
        works["text"] = lambda: client.encode_text(list(inputs.captions[:BATCH]))
    found: dict[str, dict[str, list[float]]] = {}
    for work in works.values():
        work()
    for _ in range(repeats):
        for tower, work in works.items():
            with client.profile(show=False) as profile:
                _milliseconds(work, 1, repeat_s)
            times = profile.towers[tower]
            per_item = times.requests / times.items
            stages = {
                "prepare": times.prepare_ms,
                "wire": times.wire_ms,
                "queue": times.queue_ms,
                "tower": times.compute_ms,
            }
            for stage, value in stages.items():
                found.setdefault(tower, {}).setdefault(stage, []).append(value * per_item)
            advance(tower)
        yield {
            tower: {stage: figure(values) for stage, values in stages.items()}
            for tower, stages in found.items()
        }


def _milliseconds(work: Callable[[], object], items: int, seconds: float) -> float:
    """Of an item: the median of the calls that fit into some seconds, five at least."""
    work()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < until:
        begun = time.perf_counter_ns()
        work()
        times.append((time.perf_counter_ns() - begun) / 1e6 / items)
    return float(np.median(times))


def _less(whole: Sequence[float], parts: Sequence[float]) -> list[float]:
    return [max(0.0, a - b) for a, b in zip(whole, parts, strict=True)]


def _loaded(file: bytes) -> None:
    with Image.open(BytesIO(file)) as image:
        image.load()
