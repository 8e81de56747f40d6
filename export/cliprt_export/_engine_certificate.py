"""The certificate of an engine: what was measured on the GPU that ran it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cliprt._bundle import CERTIFICATE
from cliprt._errors import EngineError
from cliprt._folders import write_whole
from cliprt._json import UnreadableJson, read_json
from cliprt_engines import Engine
from cliprt_export._certificate import Bars, MeasuredOn
from cliprt_export._engine_checks import Check
from cliprt_export._fidelity import Fidelity

SCHEMA = 1


class EngineCertificate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine, measured on a GPU.

    Attributes:
        schema: version of this layout.
        engine: name of the engine's folder.
        plan_sha256: of the plan that was run; an engine that was built again has another.
        space: of the bundle.
        tower: ``image`` or ``text``.
        precision: of the tower.
        runtime: what ran the engine: TensorRT with its version, and the GPU.
        cuda: newest CUDA of the driver there; None where no GPU ran it.
        driver: version of the driver, None if it did not say.
        reference_runtime: what ran the float32 tower.
        against: fidelity to the ``known answers`` of the original weights and to the bundle's
            ``fp32 tower``.
        checks: what else was checked.
        measured_on: the items of the comparison with the fp32 tower.
        bars: what was demanded.
        missed: everything that is wrong, in words; empty if nothing is.
    """

    schema: int
    engine: str
    plan_sha256: str
    space: str
    tower: str
    precision: str
    runtime: str
    cuda: str | None
    driver: str | None
    reference_runtime: str
    against: dict[str, Fidelity]
    checks: list[Check]
    measured_on: MeasuredOn
    bars: Bars
    missed: list[str]

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"it has schema {self.schema}, this cliprt reads schema {SCHEMA}")


def save_engine_certificate(engine: Engine, certificate: EngineCertificate) -> Path:
    """Writes the certificate beside the engine's plan, in the place of a former one.

    Raises:
        EngineError: it cannot be written; a former one stays as it was.
    """
    target = engine.path / CERTIFICATE
    content = msgspec.json.format(msgspec.json.encode(certificate), indent=2) + b"\n"
    try:
        write_whole(target, content)
    except OSError as error:
        raise EngineError(f"{target} cannot be written: {error.strerror or error}") from None
    return target


def read_engine_certificate(engine: Engine) -> EngineCertificate | None:
    """The certificate of an engine; None if there is none, or it is one of another plan.

    Raises:
        EngineError: it cannot be read.
    """
    path = engine.path / CERTIFICATE
    try:
        found = read_json(path.read_bytes(), EngineCertificate)
    except FileNotFoundError:
        return None
    except (OSError, UnreadableJson) as error:
        raise EngineError(
            f"{path} cannot be read: {error}; measure again with: cliprt verify {engine.path}"
        ) from None
    return found if found.plan_sha256 == engine.manifest.plan.sha256 else None
