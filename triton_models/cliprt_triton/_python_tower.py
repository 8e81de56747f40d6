"""What a tower needs in the Python runtime besides its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from cliprt._bundle import CERTIFICATE, GOLDEN, Bundle
from cliprt._extras import require
from cliprt_engines import CpuSettings, chosen_settings, measured_speed

SETTINGS_PARAMETER = "cliprt_settings"
"""Key of how the Python runtime computes a tower, as JSON of ``CpuSettings``; or empty."""


def encode_settings(settings: Mapping[str, CpuSettings], tower: str) -> str:
    """The value of the parameter for a tower, ``image`` or ``text``."""
    found = settings.get(tower)
    return "" if found is None else msgspec.json.encode(found).decode()


def known_answers(bundle: Bundle) -> dict[str, Path]:
    """By the names that they have beside ``model.py``, the files that say what must be answered."""
    return {name: bundle.file(name) for name in (GOLDEN, CERTIFICATE)}


def measured_settings(bundle: Bundle, precision: str) -> dict[str, CpuSettings]:
    """By tower, what is fastest on this machine: measured, or remembered from the last time.

    Raises:
        MissingExtra: onnxruntime is not installed.
        BundleError: the bundle has no such towers.
        FidelityError: a tower does not answer right on this machine.
    """
    require("onnxruntime", extra="serve")
    return {tower: chosen_settings(bundle, tower, precision) for tower in _towers_of(bundle)}


def measured_speeds(bundle: Bundle, precision: str) -> dict[str, float]:
    """By tower, how many items it embeds in a second with those settings; see there.

    Returns:
        Nothing where nothing is measured.
    """
    require("onnxruntime", extra="serve")
    found = {tower: measured_speed(bundle, tower, precision) for tower in _towers_of(bundle)}
    return {tower: speed for tower, speed in found.items() if speed is not None}


def _towers_of(bundle: Bundle) -> list[str]:
    specs = {"image": bundle.card.image, "text": bundle.card.text}
    return [tower for tower, spec in specs.items() if spec is not None]
