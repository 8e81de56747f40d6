"""Measures a bundle again, on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from cliprt._bundle import GOLDEN, TOKENIZER, Bundle, open_bundle
from cliprt._card import TextSpec
from cliprt._compare import differing_parts
from cliprt._errors import BundleError, InvalidInput
from cliprt._extras import require
from cliprt._texts import TextTokenizer
from cliprt_engines import OnnxTower
from cliprt_export._certificate import (
    Bars,
    Certificate,
    cpu,
    measured_on,
    read_certificate,
    runtime,
)
from cliprt_export._checkpoint import find_checkpoint
from cliprt_export._drift import Step, layer_drift
from cliprt_export._emulation import tower_to_measure
from cliprt_export._families import read_model
from cliprt_export._fidelity import Fidelity
from cliprt_export._measure import (
    Floats,
    Run,
    accuracies,
    embed_samples,
    measure,
    reference_run,
    trimmed,
    worst_items,
)
from cliprt_export._model import ClipModel
from cliprt_export._own_items import check_folder_of_items, find_labelled
from cliprt_export._plan import PROMPT, Feed, Plan
from cliprt_export._precision import PRECISIONS, PrecisionName
from cliprt_export._samples import LIMITS, Count, Samples, text_lengths
from cliprt_export._space import identity_of, space_of

ORIGINAL, KNOWN, FP32 = "original weights", "known answers", "fp32 tower"
"""What a tower may be compared with."""

STEPS = ("bundle", "text", "image")


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One value on the way to the embedding.

    Attributes:
        name: the layer.
        cosine: 1st percentile over tokens and items; None for not a number.
        pooled: whether it was compared for the pooled token alone.
    """

    name: str
    cosine: float | None
    pooled: bool


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One tower in one precision, measured here.

    Attributes:
        tower: ``image`` or ``text``.
        precision: ``fp32``, ``fp16`` …
        against: ``original weights``, ``known answers`` or ``fp32 tower``.
        found: what was measured.
        certified: what the certificate says, or None if it has no such tower.
        same_items: whether the certificate was measured on the same items and reference.
        missed: the bars that are missed, in words.
        layers: how each layer compares; empty if not asked for.
    """

    tower: str
    precision: str
    against: str
    found: Fidelity
    certified: Fidelity | None
    same_items: bool
    missed: list[str]
    layers: list[Layer] = []


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle measured again.

    Attributes:
        space: of the bundle.
        rows: every tower and precision, against each reference.
        bars: what was demanded.
        runtime: what ran the towers here.
        cpu: the processor here.
        certified_runtime: what ran them for the certificate.
        certified_cpu: the processor of the certificate.
    """

    space: str
    rows: list[Row]
    bars: Bars
    runtime: str
    cpu: str
    certified_runtime: str
    certified_cpu: str

    @property
    def passed(self) -> bool:
        """Whether no bar is missed."""
        return not any(row.missed for row in self.rows)


def verify_bundle(
    bundle: str | Path,
    *,
    checkpoint: str | None = None,
    revision: str | None = None,
    family: str | None = None,
    calibrate: str | Path | None = None,
    evaluate: str | Path | None = None,
    prompt: str = PROMPT,
    samples: int | None = None,
    precisions: Sequence[PrecisionName] | None = None,
    layers: bool = False,
    bars: Callable[[Bars], Bars] = lambda bars: bars,
    on_step: Callable[[str], None] = lambda step: None,
) -> Verification:
    """Measures a bundle's towers on this machine.

    A bundle does not hold the original weights. Without them every tower is compared with the known
    answers that they gave at export, and with the bundle's own fp32 tower on more items.

    Args:
        bundle: the folder.
        checkpoint: the original weights: a folder or a hub id. They must have the bundle's space.
        revision: branch, tag or commit of a hub repository.
        family: reads the checkpoint as that family; None as the one that the bundle came from.
        calibrate: the folder that the export was calibrated on; its held-out part is measured on.
        evaluate: a folder with a sub-folder of pictures for each class.
        prompt: template of a class's text.
        samples: how many items of each tower; None takes the certificate's number.
        precisions: which ones; None takes all that the bundle has.
        layers: compare every layer as well; needs the checkpoint.
        bars: makes the bars from those that the certificate was held to.
        on_step: called as each of STEPS begins, and as it goes on.

    Raises:
        BundleError: the bundle is damaged, has no such precision, or another space than the
            checkpoint.
        CheckpointError: the checkpoint cannot be read.
        InvalidInput: layers without a checkpoint, or a folder that holds nothing readable.
    """
    require("onnxruntime", extra="export")
    if layers and checkpoint is None:
        raise InvalidInput(
            "layers are compared with the original weights, which a bundle does not hold; "
            "pass --checkpoint as well"
        )
    on_step("bundle")
    opened = open_bundle(bundle)
    certificate = read_certificate(opened)
    demanded = bars(certificate.bars)
    model = None
    if checkpoint is not None:
        family = family or opened.card.family
        model = read_model(find_checkpoint(checkpoint, revision, family), family)
        _check_space(opened, model, checkpoint)
    rows = _Rows(opened, model, certificate, demanded, layers, on_step)
    labelled = None if evaluate is None else find_labelled(Path(evaluate))
    items = None if calibrate is None else Path(calibrate)
    if items is not None:
        check_folder_of_items(items)
    plan = Plan(folder=items, labelled=labelled, prompt=prompt, samples=samples)
    chosen = _chosen(opened, precisions)
    # The text tower first: its embeddings of the classes are the zero-shot classifier.
    for tower in ("text", "image"):
        if any(name.startswith(f"{tower}.") for name in opened.card.files):
            on_step(tower)
            rows.measure(tower, chosen, plan)
    order = {"image": 0, "text": 1}
    return Verification(
        space=opened.card.space,
        rows=sorted(rows.done, key=lambda row: order[row.tower]),
        bars=demanded,
        runtime=runtime(),
        cpu=cpu(),
        certified_runtime=certificate.runtime,
        certified_cpu=certificate.cpu,
    )


class _Rows:
    """Measures tower by tower."""

    def __init__(
        self,
        bundle: Bundle,
        model: ClipModel | None,
        certificate: Certificate,
        bars: Bars,
        layers: bool,
        on_step: Callable[[str], None],
    ) -> None:
        self.done: list[Row] = []
        self._bundle, self._model, self._certificate = bundle, model, certificate
        self._bars, self._layers, self._on_step = bars, layers, on_step
        self._classes: dict[str, Floats] = {}

    def measure(self, tower: str, precisions: list[PrecisionName], plan: Plan) -> None:
        """Adds the rows of one tower."""
        feed = feed_of_bundle(self._bundle, tower)
        original = None if self._model is None else self._model.sides()[tower]
        recorded = self._certificate.measured_on[tower]
        calibrated = frozenset(self._certificate.calibrated_on)
        samples = feed.samples(replace(plan, calibrated=calibrated), count_of(plan, recorded.items))
        same = measured_on(samples).digest == recorded.digest and original is not None
        run: Run = OnnxTower(self._file(tower, "fp32")).run
        if original is not None:
            run = reference_run(original)
        against = FP32 if original is None else ORIGINAL
        reference = embed_samples(run, samples, self._told(f"{tower}: {against}"))
        prompts = feed.prompts(plan) if self._bundle.card.image is not None else None
        if prompts is not None:
            self._classes["reference"] = embed_samples(run, prompts)
        for precision in precisions:
            path = self._file(tower, precision)
            found_by = tower_to_measure(path, precision).run
            if original is None:
                known, answers = known_answers_of(self._bundle, tower, feed)
                self._add(tower, precision, KNOWN, measure(found_by, known, answers))
            found = embed_samples(found_by, samples, self._told(f"{tower}: {precision}"))
            if prompts is not None:
                self._classes[precision] = embed_samples(found_by, prompts)
            accuracy = None
            if tower == "image" and "reference" in self._classes:
                accuracy = accuracies(samples, reference, found, self._classes, precision)
            if original is None and precision == "fp32" and accuracy is None:
                continue
            figures = measure(found_by, samples, reference, accuracy, found)
            steps: list[Step] = []
            if self._layers and original is not None:
                inputs = trimmed(samples, worst_items(reference, found))
                steps = layer_drift(path, precision, original, inputs)
            self._add(tower, precision, against, figures, same, steps)

    def _add(
        self,
        tower: str,
        precision: PrecisionName,
        against: str,
        figures: Fidelity,
        same: bool = False,
        steps: Sequence[Step] = (),
    ) -> None:
        self.done.append(
            Row(
                tower=tower,
                precision=precision,
                against=against,
                found=figures,
                certified=self._certificate.towers[tower].get(precision),
                same_items=same,
                missed=self._bars.missed(precision, figures),
                layers=[
                    Layer(
                        name=step.name,
                        cosine=step.cosine if np.isfinite(step.cosine) else None,
                        pooled=step.pooled,
                    )
                    for step in steps
                ],
            )
        )

    def _file(self, tower: str, precision: str) -> Path:
        return self._bundle.file(f"{tower}.{precision}.onnx")

    def _told(self, what: str) -> Callable[[str], None]:
        return lambda done: self._on_step(f"{what}, {done}")


def count_of(plan: Plan, certified: int) -> Count:
    """As many items as the certificate has, unless the plan says otherwise."""
    if plan.samples is None:
        return Count(certified, least=min(certified, 40))
    return Count(plan.samples, least=min(plan.samples, 40), labelled=plan.samples)


def feed_of_bundle(bundle: Bundle, tower: str) -> Feed:
    """How the items of a bundle's tower are made, by its card."""
    card = bundle.card
    if tower == "image":
        assert card.image is not None, "a bundle with an image tower says how it is fed"
        return Feed(card.image)
    assert card.text is not None, "a bundle with a text tower says how it is fed"
    content = bundle.file(TOKENIZER).read_text(encoding="utf-8")
    return Feed(card.text, TextTokenizer(content, card.text, LIMITS))


def known_answers_of(bundle: Bundle, tower: str, feed: Feed) -> tuple[Samples, Floats]:
    """Inputs and answers of the original weights that the bundle keeps."""
    with np.load(bundle.file(GOLDEN)) as golden:
        inputs = golden["pixels" if tower == "image" else "tokens"]
        answers = golden[f"{tower}_embedding"]
    lengths = text_lengths(feed.spec, inputs) if isinstance(feed.spec, TextSpec) else None
    none = np.zeros(0, dtype=np.int64)
    return Samples(inputs, lengths, none, given=0, drawn=len(inputs), skipped=0), answers


def _chosen(bundle: Bundle, wanted: Sequence[PrecisionName] | None) -> list[PrecisionName]:
    """Precisions to measure, among those that the bundle has."""
    held = [
        name
        for name in PRECISIONS
        if any(file.endswith(f".{name}.onnx") for file in bundle.card.files)
    ]
    for name in wanted or ():
        if name not in held:
            raise BundleError(f"{bundle.path} has no tower in {name}; it has {', '.join(held)}")
    return [name for name in held if wanted is None or name in wanted]


def _check_space(bundle: Bundle, model: ClipModel, checkpoint: str) -> None:
    """Refuses original weights that are not those of the bundle."""
    identity = identity_of(model)
    if space_of(identity) == bundle.card.space:
        return
    parts = differing_parts(bundle.card.identity, identity)
    raise BundleError(
        f"{checkpoint} has another space than {bundle.path}, so that they cannot be compared; "
        f"what differs: {', '.join(parts)}"
    )
