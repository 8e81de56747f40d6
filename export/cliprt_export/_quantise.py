"""INT8 and FP8: which products, with which ranges, after which smoothing; from measured values.

Three choices are made for each product, from rows of its input that were kept while the original
weights ran over the calibration items:

- smoothing: input channels with outliers are divided by a factor and the weights multiplied by it
  (Xiao et al. 2023, SmoothQuant). The factor is folded into whatever produced the input: a
  LayerNorm, the values of the attention, a convolution before a ReLU. It costs nothing at run time
  and changes nothing but rounding.
- range: how much of the input's range is kept; clipping rare outliers leaves finer steps for all
  others.
- whether to quantise at all: a product whose estimated error exceeds ``MAX_ERROR`` stays as it is.

The error is estimated for independent rounding errors: that of the inputs weighted by the weights'
squares, and that of the weights weighted by the inputs' squares, relative to the output's size.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt._names import PIXELS
from cliprt_export._calibration import Calibration, Product
from cliprt_export._precision import Precision, PrecisionName, Range
from cliprt_export._specs import Tensors, Tower, VitTower

Floats = NDArray[np.float32]

MAX_ERROR = 0.1
"""Greatest estimated error of a product, relative to its output (root mean square)."""

_STRENGTHS = (0.0, 0.3, 0.5, 0.7, 0.85)
_CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


class Choice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was decided for one product.

    Attributes:
        quantised: whether it is computed with 8-bit integers.
        low: least input that is represented.
        high: greatest input that is represented.
        clip: the part of the seen range that was kept, 0 to 1.
        smoothing: exponent of the smoothing factors; 0 means none.
        error: estimated error relative to the output's root mean square.
    """

    quantised: bool
    low: float
    high: float
    clip: float
    smoothing: float
    error: float


@dataclass(frozen=True)
class Quantisation:
    """The choices for one tower.

    Attributes:
        choices: by the name of the product's input.
        factors: smoothing factors per input channel, by the name of the product's input.
        products: what the names refer to.
    """

    choices: dict[str, Choice]
    factors: dict[str, Floats]
    products: tuple[Product, ...]

    def ranges(self) -> dict[str, Range]:
        """What ``Precision`` needs: the ranges of the products that are quantised."""
        return {
            name: Range(choice.low, choice.high)
            for name, choice in self.choices.items()
            if choice.quantised
        }

    def smoothed(self, tensors: Tensors) -> Tensors:
        """The tower's tensors with the factors folded in; the same function up to rounding."""
        multiply: dict[str, Floats] = {}
        divide: dict[str, Floats] = {}
        for product in self.products:
            if product.input in self.factors:
                multiply |= dict.fromkeys(product.weights, self.factors[product.input])
                divide |= dict.fromkeys(product.producer, self.factors[product.input])

        def tensor(name: str) -> Floats:
            array = tensors(name)
            if name in multiply:
                array = array * _along(multiply[name], array.ndim, 1)
            if name in divide:
                array = array / _along(divide[name], array.ndim, 0)
            return array

        return tensor


def choose(calibration: Calibration, tensors: Tensors, name: PrecisionName) -> Quantisation:
    """Decides smoothing, range and whether to quantise, for every product.

    Args:
        calibration: what was seen.
        tensors: the original weights.
        name: int8, int8-cpu or fp8.
    """
    precision = Precision(name)
    choices: dict[str, Choice] = {}
    factors: dict[str, Floats] = {}
    for product in calibration.products:
        rows = calibration.rows(product.input)
        weight = np.concatenate([_flat(tensors(name)) for name in product.weights])
        # A convolution's weight has a column per channel and place of its window.
        repeat = weight.shape[1] // rows.shape[1]
        best: Choice | None = None
        for strength in _STRENGTHS if product.producer else (0.0,):
            factor = _factors(rows, weight, strength, repeat)
            scaled = np.asarray(weight * np.repeat(factor, repeat), dtype=np.float32)
            choice = _best_range(rows / factor, scaled, precision, strength)
            if best is None or choice.error < best.error:
                best = choice
                if strength:
                    factors[product.input] = factor
        assert best is not None
        choices[product.input] = best
    return Quantisation(choices, factors, calibration.products)


def pixel_range(tower: Tower, name: PrecisionName) -> dict[str, Range]:
    """The range of ``PIXELS`` where the patch convolution is a product of integers.

    Pixels are bytes already, so that nothing is rounded: ONNX Runtime on x86 multiplies them as
    they are. The middle of their range is the mean that the tower subtracts, so that what the
    weights lose to rounding multiplies centred values. TensorRT takes no bytes beyond its border.

    Args:
        tower: any; other than a ViT whose patches cover the picture it has no such product.
        name: int8, int8-cpu or fp8.
    """
    if name != "int8-cpu" or not isinstance(tower, VitTower):
        return {}
    if tower.height % tower.patch or tower.width % tower.patch:
        return {}
    middle = int(np.clip(round(float(np.mean(tower.mean)) / tower.rescale), 0, 255))
    return {PIXELS: Range(float(-middle), float(255 - middle))}


def _best_range(rows: Floats, weight: Floats, precision: Precision, strength: float) -> Choice:
    repeat = weight.shape[1] // rows.shape[1]
    squares = (weight * weight).sum(axis=0).reshape(-1, repeat).sum(axis=1)
    # The first two rows are extremes, not what is usual.
    usual = rows[2:]
    energy = (usual * usual).mean(axis=0)
    scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True), 1e-9) / precision.levels
    rounding = ((weight - precision.rounded(weight / scale) * scale) ** 2).sum(axis=0)
    of_weights = float((rounding.reshape(-1, repeat).sum(axis=1) * energy).sum())
    signal = float((squares * energy).sum())
    low, high = float(rows.min()), float(rows.max())
    found: list[tuple[float, float]] = []
    for clip in _CLIPS:
        scope = Range(low * clip, high * clip)
        error = usual - _rounded(usual, scope, precision)
        found.append((float(((error * error).mean(axis=0) * squares).sum()), clip))
    of_inputs, clip = min(found)
    relative = float(np.sqrt((of_inputs + of_weights) / max(signal, 1e-30)))
    # A half holds scales below its least normal number badly, and those below 6e-8 not at all.
    least = 2.0**-14 if precision.half else 0.0
    scale_fits = Range(low * clip, high * clip).magnitude / precision.levels >= least
    return Choice(
        quantised=relative <= MAX_ERROR and scale_fits,
        low=low * clip,
        high=high * clip,
        clip=clip,
        smoothing=strength,
        error=relative,
    )


def _rounded(x: Floats, scope: Range, precision: Precision) -> Floats:
    if precision.name == "int8-cpu":
        scale, zero = scope.asymmetric()
        levels = np.clip(np.rint(x / scale) + zero, 0, 255)
        return np.asarray((levels - zero) * scale, dtype=np.float32)
    scale = scope.magnitude / precision.levels
    return np.asarray(precision.rounded(x / scale) * scale, dtype=np.float32)


def _factors(rows: Floats, weight: Floats, strength: float, repeat: int) -> Floats:
    """Smoothing factors per input channel; equation 4 of Xiao et al. 2023, geometric mean 1."""
    if not strength:
        return np.ones(rows.shape[1], dtype=np.float32)
    inputs = np.maximum(np.abs(rows).max(axis=0), 1e-5)
    columns = np.abs(weight).max(axis=0).reshape(-1, repeat).max(axis=1)
    factor = inputs**strength / np.maximum(columns, 1e-5) ** (1 - strength)
    factor /= np.exp(np.log(factor).mean())
    return np.asarray(np.clip(factor, 1e-2, 1e2), dtype=np.float32)


def _flat(weight: Floats) -> Floats:
    """[out, in] or [out, in, rows, columns] -> [out, in * rows * columns]."""
    return weight.reshape(len(weight), -1)


def _along(factor: Floats, ndim: int, axis: int) -> Floats:
    return factor.reshape([-1 if place == axis else 1 for place in range(ndim)])
