"""Running a bundle's towers in this process."""

from cliprt_engines._onnx import OnnxTower

__all__ = ["OnnxTower"]
