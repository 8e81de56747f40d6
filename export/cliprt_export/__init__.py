"""Checkpoint to bundle: ONNX towers written straight from the weights, and their certificate."""

from cliprt_export._certificate import Bars, Certificate, MeasuredOn, read_certificate
from cliprt_export._engine_certificate import EngineCertificate, read_engine_certificate
from cliprt_export._engine_checks import Check
from cliprt_export._engine_verify import EngineRow, EngineVerification, verify_engines
from cliprt_export._export import export_checkpoint, export_random
from cliprt_export._fidelity import Fidelity
from cliprt_export._verify import Verification, verify_bundle

__all__ = [
    "Bars",
    "Certificate",
    "Check",
    "EngineCertificate",
    "EngineRow",
    "EngineVerification",
    "Fidelity",
    "MeasuredOn",
    "Verification",
    "export_checkpoint",
    "export_random",
    "read_certificate",
    "read_engine_certificate",
    "verify_bundle",
    "verify_engines",
]
