"""All targets, by name."""

from __future__ import annotations

from fuzz import artefacts, batches, inputs, weights
from fuzz.harness import TARGETS

__all__ = ["TARGETS", "artefacts", "batches", "inputs", "weights"]
