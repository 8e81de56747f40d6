"""Measuring settings on the machine at hand: are the answers right, and how many in a second."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt._bundle import Bundle
from cliprt._errors import FidelityError
from cliprt._known import Known, bar_of_folder, cosines
from cliprt_engines._cpu_settings import CpuSettings, load_tower
from cliprt_engines._tower import Inputs, Tower

Goal: TypeAlias = Literal["throughput", "latency"]

# Least cosine between what two runtimes answer to the same input in the same precision. OpenVINO in
# bfloat16 had 0.9997 and more with both towers of ViT-B/32.
_MIN_AGREEMENT = 0.999

# A caption of some 12 words.
_TEXT_TOKENS = 16

_REPEATS = 2

# How long a try lasts at least, if one run does not take longer.
_TIMED_S = 0.3

# Other sizes of batch that the best candidate is tried with.
_BATCHES = (16, 4)

# One run of a batch takes no longer than about this: great towers are timed on fewer items.
_RUN_S = 1.0

# A candidate that is this much slower than the best one at its first try gets no other.
_HOPELESS = 0.75

# Two that differ by less than this take turns once more.
_CLOSE = 0.87

_LOG = logging.getLogger(__name__)


class Measured(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was seen of one candidate.

    Attributes:
        settings: the candidate.
        items_per_s: items it embeds in a second; 0 if it cannot be used.
        min_cosine: between its answers and the bundle's known ones; None if it gave none.
        refused: why it cannot be used; empty if it can.
    """

    settings: CpuSettings
    items_per_s: float
    min_cosine: float | None
    refused: str = ""


def measure(
    bundle: Bundle,
    tower: str,
    precision: str,
    candidates: Sequence[CpuSettings],
    *,
    goal: Goal,
    budget_s: float,
) -> list[Measured]:
    """Measures candidates one after the other; best first, those that cannot be used last.

    A candidate that fails, whatever it raises, costs itself alone. One that answers differently
    from the first that was accepted is refused as well: which runtime is faster may decide about
    rounding, not about what an embedding says.

    Args:
        bundle: whose tower it is.
        tower: ``image`` or ``text``.
        precision: ``fp32`` or ``int8-cpu``.
        candidates: in the order in which they are tried; the first one always is.
        goal: whether many items at once are timed, or single ones.
        budget_s: another candidate is not begun if it might not end within this time, once one can
            be used.

    Raises:
        BundleError: the known answers or the certificate cannot be read.
    """
    ends = time.monotonic() + budget_s
    trial = _Trial(bundle, tower, precision, goal)
    longest = 0.0
    try:
        for settings in candidates:
            begun = time.monotonic()
            if trial.usable and begun + longest > ends:
                break
            trial.candidate(settings)
            longest = max(longest, time.monotonic() - begun)
        for size in _BATCHES:
            if time.monotonic() > ends:
                break
            trial.batch(size)
    finally:
        trial.close()
    return sorted(trial.found, key=lambda seen: -seen.items_per_s)


def unusable(tower: str, precision: str, why: str) -> FidelityError:
    """What is raised where a tower does not answer right on this machine."""
    return FidelityError(
        f"the {tower} tower in {precision} cannot be used on this machine: {why}"
        + ("" if precision == "fp32" else "; use precision='fp32'")
    )


def check_answers(folder: Path, tower: str, precision: str, loaded: Tower) -> None:
    """Checks that a tower gives the bundle's known answers.

    Args:
        folder: where the bundle's ``golden.npz`` and ``certificate.json`` lie.
        tower: ``image`` or ``text``.
        precision: ``fp32`` or ``int8-cpu``.
        loaded: what is checked.

    Raises:
        BundleError: the known answers or the certificate cannot be read.
        FidelityError: it does not, or fails.
    """
    known = _Known(folder, tower, precision)
    try:
        cosine = known.cosine(loaded.run(known.inputs))
    except Exception as error:  # noqa: BLE001 - runtimes raise many types
        raise unusable(tower, precision, _words(error)) from None
    if why := known.wrong(cosine):
        raise unusable(tower, precision, why)


def sample_inputs(bundle: Bundle, tower: str, count: int) -> Inputs:
    """Drawn pixels, or tokens of texts as long as captions; always the same ones."""
    random = np.random.Generator(np.random.PCG64(0))
    if tower == "image":
        spec = bundle.card.image
        assert spec is not None
        return random.integers(0, 256, (count, spec.height, spec.width, 3), dtype=np.uint8)
    text = bundle.card.text
    assert text is not None
    length = text.context_length
    if not text.fixed_length:
        length = min(_TEXT_TOKENS, length)
    tokens = random.integers(0, text.vocabulary, (count, length), dtype=np.int32)
    tokens[tokens == text.end_id] = 0
    tokens[:, -1] = text.end_id
    return tokens


class _Trial:
    """Candidates for one tower; the best so far stays loaded."""

    def __init__(self, bundle: Bundle, tower: str, precision: str, goal: Goal) -> None:
        self.found: list[Measured] = []
        self._bundle, self._tower, self._goal = bundle, tower, goal
        self._graph = bundle.file(f"{tower}.{precision}.onnx")
        self._known = _Known(bundle.path, tower, precision)
        self._first_answers: NDArray[np.float32] | None = None
        self._best: Measured | None = None
        self._loaded: Tower | None = None
        self._most = 1

    @property
    def usable(self) -> bool:
        """Whether a candidate was found that can be used."""
        return self._best is not None

    def candidate(self, settings: CpuSettings) -> None:
        """Loads a candidate, checks its answers and times it."""
        before = len(self.found)
        loaded = None
        try:
            loaded = load_tower(self._graph, settings)
            self._judge(settings, loaded)
        except Exception as error:  # noqa: BLE001 - runtimes raise many types
            # What was timed before it failed does not speak for it.
            del self.found[before:]
            self._refuse(settings, _words(error))
        finally:
            if loaded is not None and loaded is not self._loaded:
                loaded.close()

    def _judge(self, settings: CpuSettings, loaded: Tower) -> None:
        begun = time.perf_counter()
        answers = loaded.run(self._known.inputs)
        item_s = (time.perf_counter() - begun) / len(answers)
        cosine = self._known.cosine(answers)
        if why := self._known.wrong(cosine) or self._differing(answers):
            self._refuse(settings, why, cosine)
            return
        if self._first_answers is None:
            self._first_answers = answers
        most = max(1, int(_RUN_S / item_s))
        sized = msgspec.structs.replace(settings, batch=min(settings.batch, most))
        found = self._timed(loaded, sized, cosine)
        best = self._best
        if best and self._loaded and _CLOSE < found.items_per_s / best.items_per_s < 1 / _CLOSE:
            # What else ran on the machine may have met one of the two alone.
            again = self._timed(self._loaded, best.settings, best.min_cosine)
            self._best = max(best, again, key=lambda seen: seen.items_per_s)
            again = self._timed(loaded, sized, cosine)
            found = max(found, again, key=lambda seen: seen.items_per_s)
        if self._best is None or found.items_per_s > self._best.items_per_s:
            self.close()
            self._best, self._most, self._loaded = found, most, loaded

    def batch(self, size: int) -> None:
        """Times the best candidate with another size of batch."""
        if self._best is None or self._loaded is None or self._goal == "latency":
            return
        if size <= self._most:
            settings = msgspec.structs.replace(self._best.settings, batch=size)
            try:
                self._timed(self._loaded, settings, self._best.min_cosine)
            except Exception as error:  # noqa: BLE001 - as for candidates
                self._refuse(settings, _words(error))

    def close(self) -> None:
        if self._loaded is not None:
            self._loaded.close()

    def _differing(self, answers: NDArray[np.float32]) -> str:
        """How answers differ from those of the first candidate; empty if they do not."""
        if self._first_answers is None:
            return ""
        cosine = _least_cosine(answers, self._first_answers)
        if cosine >= _MIN_AGREEMENT:
            return ""
        return (
            f"known inputs have a cosine of {cosine:.5f} to the first candidate's answers, "
            f"below {_MIN_AGREEMENT}"
        )

    def _refuse(self, settings: CpuSettings, why: str, cosine: float | None = None) -> None:
        _LOG.info("%s is not used: %s", settings, why)
        self.found.append(
            Measured(settings=settings, items_per_s=0, min_cosine=cosine, refused=why)
        )

    def _timed(self, loaded: Tower, settings: CpuSettings, cosine: float | None) -> Measured:
        best = self._best.items_per_s if self._best else 0.0
        speed = _items_per_s(self._bundle, self._tower, loaded, settings, self._goal, best)
        found = Measured(settings=settings, items_per_s=speed, min_cosine=cosine)
        self.found.append(found)
        return found


def _items_per_s(
    bundle: Bundle, tower: str, loaded: Tower, settings: CpuSettings, goal: Goal, best: float
) -> float:
    """Items in a second, the best of a few tries: what else runs on the machine only slows it."""
    workers, size = (settings.workers, settings.batch) if goal == "throughput" else (1, 1)
    inputs = sample_inputs(bundle, tower, size)
    fastest, rounds = 0.0, 1

    def work() -> None:
        for _ in range(rounds):
            loaded.run(inputs)

    with ThreadPoolExecutor(workers) as pool:
        for repeat in range(_REPEATS + 1):
            begun = time.perf_counter()
            for future in [pool.submit(work) for _ in range(workers)]:
                future.result()
            fastest = max(fastest, rounds * workers * size / (time.perf_counter() - begun))
            # The first run allocates, and compiles for the shape.
            if repeat and fastest < _HOPELESS * best:
                break
            rounds = max(1, int(_TIMED_S * fastest / (workers * size)))
    return fastest


class _Known:
    """The bundle's known inputs of one tower and what must be answered to them."""

    def __init__(self, folder: Path, tower: str, precision: str) -> None:
        known = Known.of(folder, tower)
        self.inputs: Inputs = known.inputs
        self._expected = known.expected
        self._bar = bar_of_folder(folder, tower, precision).min_cosine

    def cosine(self, answers: NDArray[np.float32]) -> float:
        """Least cosine between known answers and given ones."""
        return _least_cosine(answers, self._expected)

    def wrong(self, cosine: float) -> str:
        """What is wrong with a cosine; empty if nothing is."""
        # Written so that NaN is refused.
        if cosine >= self._bar:
            return ""
        return f"known answers have a cosine of {cosine:.7g}, below {self._bar:.7g}"


def _least_cosine(some: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    return float(cosines(some, others).min())


def _words(error: Exception) -> str:
    """What an error says, or at least what it is."""
    return str(error) or type(error).__name__
