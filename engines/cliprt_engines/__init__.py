"""Running a bundle's towers in this process."""

from cliprt_engines._onnx import OnnxTower
from cliprt_engines._tower import Tower, TowerInfo

__all__ = ["OnnxTower", "Tower", "TowerInfo"]
