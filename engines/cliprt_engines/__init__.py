"""Towers in this process, and TensorRT engines: building, keeping and vouching for them."""

from cliprt_engines._build import BuildProgress, build_engines
from cliprt_engines._cpu_choice import chosen_settings, load_checked, measured_speed
from cliprt_engines._cpu_settings import CpuSettings
from cliprt_engines._device import Device, device_at_hand
from cliprt_engines._local import LocalClip
from cliprt_engines._manifest import (
    BuilderOptions,
    Engine,
    Manifest,
    OpenedEngine,
    find_engines,
    open_engine,
)
from cliprt_engines._onnx import OnnxTower
from cliprt_engines._openvino import OpenVinoTower
from cliprt_engines._profiles import Profile, Span
from cliprt_engines._tensorrt import TensorRtTower
from cliprt_engines._tower import Tower, TowerInfo

__all__ = [
    "BuildProgress",
    "BuilderOptions",
    "CpuSettings",
    "Device",
    "Engine",
    "LocalClip",
    "Manifest",
    "OnnxTower",
    "OpenVinoTower",
    "OpenedEngine",
    "Profile",
    "Span",
    "TensorRtTower",
    "Tower",
    "TowerInfo",
    "build_engines",
    "chosen_settings",
    "device_at_hand",
    "find_engines",
    "load_checked",
    "measured_speed",
    "open_engine",
]
