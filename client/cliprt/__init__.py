"""cliprt: CLIP embeddings from a Triton server, for Python.

The client lives here; the packages beside it make what the client talks to: ``cliprt_export``
(checkpoint to bundle), ``cliprt_engines`` (towers in process), ``cliprt_triton`` (bundle to served
model), ``cliprt_bench`` (measurement).
"""

from cliprt._async_client import AsyncClient
from cliprt._batch import Item
from cliprt._bundle import Bundle, open_bundle
from cliprt._card import Card, FileEntry, ImageSpec, TextSpec
from cliprt._client import Client
from cliprt._connection import Connection, Retry, Tls
from cliprt._decoding import Decoding
from cliprt._errors import (
    BundleError,
    CheckpointError,
    CliprtError,
    ClosedError,
    DeadlineExceeded,
    DeploymentError,
    EngineError,
    EngineMismatch,
    FidelityError,
    ImageTooLarge,
    InvalidInput,
    MissingExtra,
    ModelUnavailable,
    Overloaded,
    RetryableError,
    ServerError,
    ServerStartError,
    ServerUnavailable,
    SpaceMismatch,
)
from cliprt._images import ImageInput
from cliprt._limits import Limits
from cliprt._profile import RequestTimes, TowerTimes
from cliprt._space import Embeddings

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Bundle",
    "BundleError",
    "Card",
    "CheckpointError",
    "Client",
    "CliprtError",
    "ClosedError",
    "Connection",
    "DeadlineExceeded",
    "Decoding",
    "DeploymentError",
    "Embeddings",
    "EngineError",
    "EngineMismatch",
    "FidelityError",
    "FileEntry",
    "ImageInput",
    "ImageSpec",
    "ImageTooLarge",
    "InvalidInput",
    "Item",
    "Limits",
    "MissingExtra",
    "ModelUnavailable",
    "Overloaded",
    "RequestTimes",
    "Retry",
    "RetryableError",
    "ServerError",
    "ServerStartError",
    "ServerUnavailable",
    "SpaceMismatch",
    "TextSpec",
    "Tls",
    "TowerTimes",
    "__version__",
    "open_bundle",
]
