"""Known answers: inputs in the bundle, what the original weights answer, and how near is right."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cliprt._bundle import CERTIFICATE, GOLDEN
from cliprt._errors import BundleError
from cliprt._json import one_line, read_json
from cliprt._names import PIXELS, TOKENS

NORM_TOLERANCE = 1e-3
"""How far the length of an embedding may be from 1: beyond rounding, below broken towers."""

# Least cosine of a known answer. In fp32 runtimes differ by roundings alone; TF32 is off in all of
# them. The known pictures are harder than usual ones, stripes and noise: the bars of the others
# find processors and kernels that compute something else, and the certificate, measured on usual
# items, says how good the tower is. The demo model had 0.9999997 in fp16 and 0.9973 in 8 bits.
_MIN_COSINE = {"fp32": 0.999_999, "fp16": 0.999, "int8": 0.97, "int8-cpu": 0.97, "fp8": 0.97}

# Most that a number of an embedding may change with the batch around it. With ONNX Runtime on a
# processor the demo model had 0 in fp32 and int8-cpu, 7e-5 in emulated fp16, 6e-6 in int8; GPUs
# choose other kernels for other batches, which moves a half by some units in its last place.
_MAX_BATCH_EFFECT = {"fp32": 1e-4, "fp16": 2e-3, "int8": 1e-2, "int8-cpu": 1e-2, "fp8": 1e-2}

# What golden.npz may hold when it is unpacked: it is a zip, and may come from a server. That of the
# largest published model holds 3 MB.
_MAX_GOLDEN_BYTES = 256 * 2**20

PRECISIONS = tuple(_MIN_COSINE)
"""Precisions that have bars."""


class Bar(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What answers of a tower must reach.

    Attributes:
        min_cosine: least cosine to a known answer.
        max_batch_effect: most that a number of an embedding may change with its neighbours, the
            size of its batch and what fills it up.
    """

    min_cosine: float
    max_batch_effect: float


@dataclass(frozen=True)
class Known:
    """Known inputs of a tower and what must be answered to them.

    Attributes:
        inputs: pixels, uint8 [n, height, width, 3], or tokens, int32 [n, length].
        expected: float32 [n, dim], rows of length 1.
    """

    inputs: NDArray[Any]
    expected: NDArray[np.float32]

    @classmethod
    def read(cls, golden: bytes, tower: str, *, origin: str) -> Known:
        """Known answers of a tower.

        Args:
            golden: content of a bundle's ``golden.npz``.
            tower: ``image`` or ``text``.
            origin: where it comes from, for error messages.

        Raises:
            BundleError: it cannot be read.
        """
        try:
            with np.load(io.BytesIO(golden)) as arrays:
                if sum(entry.file_size for entry in arrays.zip.infolist()) > _MAX_GOLDEN_BYTES:
                    raise ValueError(f"it unpacks to more than {_MAX_GOLDEN_BYTES:,} bytes")
                inputs = arrays[PIXELS if tower == "image" else TOKENS]
                expected = arrays[f"{tower}_embedding"]
                # Members that are no arrays come as bytes.
                if not (isinstance(inputs, np.ndarray) and isinstance(expected, np.ndarray)):
                    raise ValueError("it holds something else than arrays")
        except Exception as error:  # noqa: BLE001 - zipfile and numpy raise many types
            raise BundleError(f"{GOLDEN} of {origin} cannot be read: {one_line(error)}") from None
        dtypes = np.dtype(np.uint8 if tower == "image" else np.int32), np.dtype(np.float32)
        if (
            (inputs.dtype, expected.dtype) != dtypes
            or (inputs.ndim, expected.ndim) != (4 if tower == "image" else 2, 2)
            or not 1 <= len(inputs) == len(expected)
        ):
            raise BundleError(f"{GOLDEN} of {origin} holds no known answers of the {tower} tower")
        return cls(inputs, expected)

    @classmethod
    def of(cls, folder: Path, tower: str) -> Known:
        """Known answers of a tower, from a folder with a bundle's ``golden.npz``.

        Raises:
            BundleError: they cannot be read.
        """
        return cls.read(_content(folder / GOLDEN), tower, origin=str(folder))


def bar_of(certificate: bytes, tower: str, precision: str, *, origin: str) -> Bar:
    """What a tower must reach: the bar of its precision, and no more than its certificate promises.

    Args:
        certificate: content of a bundle's ``certificate.json``.
        tower: ``image`` or ``text``.
        precision: one of ``PRECISIONS``.
        origin: where the certificate comes from, for error messages.

    Raises:
        BundleError: the certificate cannot be read, or nobody knows the precision.
    """
    if precision not in _MIN_COSINE:
        raise BundleError(
            f"the {tower} tower of {origin} has the precision {precision!r}, this cliprt knows "
            f"{', '.join(PRECISIONS)}; make its repository again"
        )
    try:
        rows: Any = read_json(certificate, dict[str, Any])["towers"][tower]
        row = rows.get(precision, {})
        cosine = float(row.get("min_cosine", 1.0))
        effects = [2 * float(row[key] or 0) for key in ("single_vs_batch", "padding") if key in row]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BundleError(
            f"the certificate of {origin} cannot be read ({one_line(error)}); "
            "export the checkpoint again"
        ) from None
    return Bar(
        min_cosine=min(_MIN_COSINE[precision], cosine),
        # What was seen when the bundle was made may be seen again, and a little more.
        max_batch_effect=max(_MAX_BATCH_EFFECT[precision], *effects, 0.0),
    )


def bar_of_folder(folder: Path, tower: str, precision: str) -> Bar:
    """The same for a folder with a bundle's ``certificate.json``.

    Raises:
        BundleError: as above.
    """
    return bar_of(_content(folder / CERTIFICATE), tower, precision, origin=str(folder))


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{file} cannot be read ({error.strerror}); export the checkpoint again"
        ) from None


def cosines(some: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosines between rows of length 1; rows of another length count as different.

    Args:
        some: float32 [n, dim].
        others: float32 [n, dim].

    Returns:
        float64 [n].

    Raises:
        ValueError: the two are of different shapes.
    """
    if some.shape != others.shape:
        raise ValueError(f"expected embeddings {list(others.shape)}, got {list(some.shape)}")
    found: NDArray[np.float64] = 1 - np.square(some.astype(np.float64) - others).sum(axis=1) / 2
    return found
