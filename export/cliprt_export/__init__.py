"""Checkpoint to bundle: ONNX towers written straight from the weights, and their certificate."""

from cliprt_export._certificate import Certificate, Fidelity
from cliprt_export._export import export_checkpoint, export_random, read_certificate

__all__ = ["Certificate", "Fidelity", "export_checkpoint", "export_random", "read_certificate"]
