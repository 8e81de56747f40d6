"""The certificate: how far each exported tower is from the original weights, as measured."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from cliprt._bundle import CERTIFICATE, Bundle
from cliprt._errors import BundleError
from cliprt._extras import require
from cliprt._json import UnreadableJson, read_json
from cliprt_export._fidelity import NEIGHBOURS_NEED, Fidelity
from cliprt_export._precision import PRECISIONS
from cliprt_export._samples import Samples

SCHEMA = 2

REFERENCE = "NumPy float32 forward pass of the original weights"

_MIN_COSINE = {"fp32": 0.99999, "fp16": 0.9999, "int8": 0.99, "int8-cpu": 0.99, "fp8": 0.99}
_MAX_BATCH_EFFECT = {"fp32": 1e-5}


@dataclass(frozen=True)
class Bars:
    """What a tower must reach.

    Attributes:
        min_cosine: by precision, the least cosine to the reference that 99 of 100 items exceed.
        min_overlap: least overlap of the ten nearest neighbours, 0 to 1; None sets no bar.
        max_top1_loss: most points of zero-shot accuracy that may be lost; None sets no bar.
        max_batch_effect: by precision, the largest difference that an item's batch or padding may
            make. Precisions without an entry have no bar.
    """

    min_cosine: Mapping[str, float] = field(default_factory=lambda: dict(_MIN_COSINE))
    min_overlap: float | None = None
    max_top1_loss: float | None = None
    max_batch_effect: Mapping[str, float] = field(default_factory=lambda: dict(_MAX_BATCH_EFFECT))

    def __post_init__(self) -> None:
        for name, value in self.min_cosine.items():
            if name not in PRECISIONS:
                raise ValueError(
                    f"a bar is set for the precision {name!r}; there are {', '.join(PRECISIONS)}"
                )
            if not -1 <= value <= 1:
                raise ValueError(f"a cosine lies between -1 and 1, the bar for {name} is {value}")
        if self.min_overlap is not None and not 0 <= self.min_overlap <= 1:
            raise ValueError(f"an overlap lies between 0 and 1, the bar is {self.min_overlap}")
        if self.max_top1_loss is not None and not 0 <= self.max_top1_loss <= 100:
            raise ValueError(
                f"a loss lies between 0 and 100 points, the bar is {self.max_top1_loss}"
            )

    def missed(self, precision: str, found: Fidelity) -> list[str]:
        """What a tower does not reach, in words; NaN reaches nothing.

        Args:
            precision: of the tower.
            found: its figures.
        """
        least = {
            "cosine (1st percentile)": (found.p01_cosine, self.min_cosine.get(precision)),
            "overlap of the ten nearest neighbours": (found.neighbours, self.min_overlap),
        }
        most = {
            "loss of zero-shot top-1 in points": (found.top1_loss, self.max_top1_loss),
            "difference between single and batch": (
                found.single_vs_batch,
                self.max_batch_effect.get(precision),
            ),
            "difference by padding": (found.padding, self.max_batch_effect.get(precision)),
        }
        # Written so that NaN fails.
        low = [
            f"{what} {value:.10g}, the bar is {bar:.10g}"
            for what, (value, bar) in least.items()
            if value is not None and bar is not None and not value >= bar
        ]
        high = [
            f"{what} {value:.3g}, at most {bar:.3g} is allowed"
            for what, (value, bar) in most.items()
            if value is not None and bar is not None and not value <= bar
        ]
        unmeasured = []
        if self.min_overlap is not None and found.neighbours is None:
            unmeasured.append(
                f"the overlap of neighbours was not measured on {found.items} items, it needs "
                f"{NEIGHBOURS_NEED} (--samples)"
            )
        return low + high + unmeasured


class MeasuredOn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which items a tower was measured on.

    Attributes:
        items: how many.
        labelled: pictures of ``--evaluate``.
        given: held-out items of the ``--calibrate`` folder.
        drawn: items drawn by cliprt.
        skipped: items of the user's folders that could not be read.
        digest: SHA-256 of all inputs; equal if the same was measured.
    """

    items: int
    labelled: int
    given: int
    drawn: int
    skipped: int
    digest: str


class Certificate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was measured when the bundle was made.

    Attributes:
        schema: version of this layout.
        towers: fidelity by tower (``image``, ``text``) and precision (``fp32``, ``fp16`` …).
        measured_on: by tower, the items.
        prompt: template of the zero-shot classifier's texts, None without labels.
        classes: of the zero-shot classifier, in order; empty without labels.
        calibrated_on: digests of the inputs that were calibrated on; none of them was measured.
        bars: what was demanded.
        reference: what the towers were compared with.
        runtime: what ran the towers, with its version. Halves were emulated: every value was
            rounded to 11 bits.
        cpu: the processor that ran them; saturation of 8-bit products depends on it.
    """

    schema: int
    towers: dict[str, dict[str, Fidelity]]
    measured_on: dict[str, MeasuredOn]
    prompt: str | None
    classes: list[str]
    calibrated_on: list[str]
    bars: Bars
    reference: str
    runtime: str
    cpu: str

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(
                f"the certificate has schema {self.schema}, this cliprt reads schema {SCHEMA}; "
                "export the checkpoint again or install the matching version"
            )


def read_certificate(bundle: Bundle) -> Certificate:
    """The certificate of a bundle.

    Raises:
        BundleError: it cannot be read.
    """
    try:
        return read_json(bundle.file(CERTIFICATE).read_bytes(), Certificate)
    except UnreadableJson as error:
        raise BundleError(f"{CERTIFICATE} of {bundle.path} cannot be read: {error}") from None
    except OSError as error:
        raise BundleError(
            f"{CERTIFICATE} of {bundle.path} cannot be read: {error.strerror}"
        ) from None


def encode_certificate(certificate: Certificate) -> bytes:
    """Writes a certificate as indented JSON. Not a number becomes null, which no reader takes."""
    return msgspec.json.format(msgspec.json.encode(certificate), indent=2) + b"\n"


def measured_on(samples: Samples) -> MeasuredOn:
    """The record of what was measured."""
    return MeasuredOn(
        items=len(samples),
        labelled=len(samples.labels),
        given=samples.given,
        drawn=samples.drawn,
        skipped=samples.skipped,
        digest=samples.digest(),
    )


def runtime() -> str:
    """What runs the towers here."""
    onnxruntime = require("onnxruntime", extra="export")
    return f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider, halves emulated"


def cpu() -> str:
    """The processor's model and the instructions that decide how 8-bit products are computed."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    known = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
    name = facts.get("model name") or platform.machine()
    return " ".join([name, *(flag for flag in known if flag in flags)])
