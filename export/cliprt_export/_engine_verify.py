"""Measures engines on the GPU at hand, against the float32 reference of their bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec

from cliprt._bundle import CARD, Bundle, open_bundle
from cliprt._card import decode_card
from cliprt._errors import CliprtError, EngineError, EngineMismatch, MissingExtra
from cliprt._extras import require
from cliprt_engines import Engine, OnnxTower, TensorRtTower, Tower, device_at_hand, find_engines
from cliprt_export._certificate import Bars, MeasuredOn, measured_on, read_certificate
from cliprt_export._engine_certificate import (
    SCHEMA,
    EngineCertificate,
    save_engine_certificate,
)
from cliprt_export._engine_checks import Check, Items, check_tower
from cliprt_export._fidelity import Fidelity
from cliprt_export._measure import Floats, embed_samples, measure
from cliprt_export._plan import Feed, Plan
from cliprt_export._samples import Samples
from cliprt_export._verify import FP32, KNOWN, count_of, feed_of_bundle, known_answers_of

STEPS = ("engines", "reference", "checks")


class EngineRow(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one engine.

    Attributes:
        engine: name of its folder.
        certificate: what was measured, or None.
        refused: why it is not for this machine, or None if it is: no GPU, another one, another
            driver or TensorRT than it was built for, or none.
        failed: what is wrong with it or ended its checks, or None if they came to an end.
        unsaved: why the certificate could not be written beside the engine, or None.
    """

    engine: str
    certificate: EngineCertificate | None = None
    refused: str | None = None
    failed: str | None = None
    unsaved: str | None = None


class EngineVerification(msgspec.Struct, frozen=True, kw_only=True):
    """The engines of a folder, measured.

    Attributes:
        space: of the bundle.
        rows: every engine.
    """

    space: str
    rows: list[EngineRow]

    @property
    def passed(self) -> bool:
        """Whether some engine is for this machine, and none of those fails or misses anything."""
        run = [row for row in self.rows if row.refused is None]
        return bool(run) and not any(
            row.certificate is None or row.certificate.missed for row in run
        )


def holds_engines(folder: str | Path) -> bool:
    """Whether a folder is one of engines, rather than a bundle."""
    path = Path(folder)
    if (path / CARD).exists() or not path.is_dir():
        return False
    try:
        find_engines(path)
    except EngineError:
        # An engine that is damaged is one all the same.
        return any((*path.glob("*.plan"), *path.glob("*/*.plan")))
    return True


def load_engine(engine: Engine, bundle: Bundle) -> Tower:
    """An engine on the GPU at hand, with CUDA graphs and the bundle's vocabulary.

    Raises:
        EngineMismatch: there is no GPU, or the engine is for another GPU, driver or TensorRT.
        MissingExtra: TensorRT or cuda-bindings is not installed.
        DeploymentError: the engine is damaged or not of this bundle, or CUDA fails.
    """
    if device_at_hand() is None:
        raise EngineMismatch("there is no NVIDIA GPU here, or no driver for it")
    return TensorRtTower(engine.path, bundle=bundle)


def verify_engines(
    folder: str | Path,
    *,
    bundle: str | Path | None = None,
    samples: int | None = None,
    precisions: Sequence[str] | None = None,
    bars: Callable[[Bars], Bars] = lambda bars: bars,
    load: Callable[[Engine, Bundle], Tower] = load_engine,
    on_step: Callable[[str], None] = lambda step: None,
) -> EngineVerification:
    """Measures engines on this machine and writes a certificate beside each.

    Every engine answers the known inputs of the bundle and the items of its certificate, and is
    checked for what a comparison of single answers misses: inputs that take turns under CUDA
    graphs, the edges of every profile, an item alone and in the greatest batch, extreme inputs
    beside others, padding, token ids that do not exist. The reference is the bundle's float32
    tower on the processor, and the answers of the original weights.

    Args:
        folder: of engines, or of one.
        bundle: what they were built from; None looks beside the folder.
        samples: items to measure on; None takes the certificate's number.
        precisions: which engines; None takes all.
        bars: makes the bars from those that the bundle's certificate was held to.
        load: opens an engine's tower; EngineMismatch or MissingExtra from it say that the engine
            is not for this machine.
        on_step: called as each of STEPS begins, and as it goes on.

    Raises:
        EngineError: there are no engines, or none is for this machine.
        BundleError: the bundle cannot be found or is damaged.
    """
    require("onnxruntime", extra="export")
    on_step("engines")
    engines = [
        engine
        for engine in find_engines(folder)
        if precisions is None or engine.manifest.recipe.precision in precisions
    ]
    if not engines:
        raise EngineError(f"{folder} has no engine in {' or '.join(precisions or ())}")
    opened = open_bundle(bundle if bundle is not None else _bundle_beside(Path(folder), engines))
    demanded = bars(read_certificate(opened).bars)
    rows: list[EngineRow] = []
    references: dict[str, _Reference] = {}
    for engine in engines:
        name, tower_name = engine.path.name, engine.manifest.recipe.tower
        try:
            tower = load(engine, opened)
        except (EngineMismatch, MissingExtra) as error:
            rows.append(EngineRow(engine=name, refused=str(error)))
            continue
        except CliprtError as error:
            rows.append(EngineRow(engine=name, failed=str(error)))
            continue
        with closing(tower):
            try:
                if tower_name not in references:
                    on_step(f"reference: {tower_name}")
                    references[tower_name] = _Reference(opened, tower_name, samples)
                told = partial(_tell, on_step, name)
                certificate = references[tower_name].certify(engine, tower, demanded, told)
            except CliprtError as error:
                rows.append(EngineRow(engine=name, failed=str(error)))
                continue
        rows.append(_saved(engine, certificate))
    if all(row.refused is not None for row in rows):
        raise EngineError(f"no engine of {folder} can be run here: {rows[0].refused}")
    return EngineVerification(space=opened.card.space, rows=rows)


class _Reference:
    """What the engines of one tower are compared with."""

    def __init__(self, bundle: Bundle, tower: str, samples: int | None) -> None:
        self._fp32 = OnnxTower(bundle.file(f"{tower}.fp32.onnx"))
        self._feed: Feed = feed_of_bundle(bundle, tower)
        certificate = read_certificate(bundle)
        plan = Plan(samples=samples, calibrated=frozenset(certificate.calibrated_on))
        count = count_of(plan, certificate.measured_on[tower].items)
        self._samples: Samples = self._feed.samples(plan, count)
        self._answers: Floats = embed_samples(self._fp32.run, self._samples)
        self._known = known_answers_of(bundle, tower, self._feed)
        self._recorded: MeasuredOn = measured_on(self._samples)

    def certify(
        self, engine: Engine, tower: Tower, bars: Bars, told: Callable[[str], None]
    ) -> EngineCertificate:
        recipe = engine.manifest.recipe
        told("known answers")
        known, answers = self._known
        against: dict[str, Fidelity] = {KNOWN: measure(tower.run, known, answers)}
        told(FP32)
        against[FP32] = measure(tower.run, self._samples, self._answers)
        bar = bars.min_cosine.get(recipe.precision, 0.99)
        items = Items.of(self._samples, self._feed.spec)
        checks = check_tower(tower, self._fp32.run, items, recipe.profiles, bar, told)
        device = device_at_hand()
        return EngineCertificate(
            schema=SCHEMA,
            engine=engine.path.name,
            plan_sha256=engine.manifest.plan.sha256,
            space=recipe.space,
            tower=recipe.tower,
            precision=recipe.precision,
            runtime=tower.info.runtime,
            cuda=None if device is None else device.cuda,
            driver=None if device is None else device.driver,
            reference_runtime=self._fp32.info.runtime,
            against=against,
            checks=checks,
            measured_on=self._recorded,
            bars=bars,
            missed=_missed(recipe.precision, against, checks, bars),
        )


def _saved(engine: Engine, certificate: EngineCertificate) -> EngineRow:
    """Writes the certificate; where that is not allowed, what was measured is not lost."""
    unsaved = None
    try:
        save_engine_certificate(engine, certificate)
    except EngineError as error:
        unsaved = str(error)
    return EngineRow(engine=engine.path.name, certificate=certificate, unsaved=unsaved)


def _missed(
    precision: str, against: dict[str, Fidelity], checks: list[Check], bars: Bars
) -> list[str]:
    figures = [
        f"against the {what}: {text}"
        for what, found in against.items()
        for text in bars.missed(precision, found)
    ]
    return figures + [f"{check.name}: {text}" for check in checks for text in check.missed]


def _tell(on_step: Callable[[str], None], engine: str, what: str) -> None:
    on_step(f"checks: {engine}, {what}")


def _bundle_beside(folder: Path, engines: Sequence[Engine]) -> Path:
    """The bundle of that space in or beside the folder that holds the engines."""
    space = engines[0].manifest.recipe.space
    around = folder.resolve().parent
    try:
        nearby = [around, *sorted(entry for entry in around.iterdir() if entry.is_dir())]
    except OSError:
        nearby = [around]
    for candidate in nearby:
        card = candidate / CARD
        try:
            if card.is_file() and decode_card(card.read_bytes(), origin=str(card)).space == space:
                return candidate
        except (OSError, CliprtError):
            # Not every card.json beside it need be one of ours.
            continue
    raise EngineError(
        f"no bundle of the space {space}, which the engines were built from, lies beside {folder}; "
        "name it with --bundle"
    )
