"""Optional dependencies: imported where they are used, and named when they are missing."""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType

from cliprt._errors import MissingExtra

QUIET = {"ORT_DISABLE_TELEMETRY": "1"}
"""Environment in which ONNX Runtime tells its maker nothing; what a user has set counts first.

Its builds for Linux (seen with 1.31) keep an id of the machine in the user's cache and send events
about models and their use, unless this is set before they are loaded.
"""


def require_installed(module: str, *, extra: str) -> None:
    """As ``require``, for a module that another process imports.

    Raises:
        MissingExtra: the module is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise _missing(module, extra)


def require(module: str, *, extra: str) -> ModuleType:
    """Imports an optional module, or says which extra installs it.

    Args:
        module: dotted module name, for instance ``onnxruntime``.
        extra: the extra of cliprt that brings it.

    Raises:
        MissingExtra: the module is not installed.
    """
    if module.startswith("onnxruntime"):
        os.environ.update({**QUIET, **os.environ})
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module that exists but misses one of its own dependencies is another problem.
        if error.name is None or not module.startswith(error.name):
            raise
        raise _missing(module, extra) from None


def _missing(module: str, extra: str) -> MissingExtra:
    return MissingExtra(
        f"this needs the module {module!r}, which is not installed; "
        f"install it with: pip install 'cliprt[{extra}]'",
        name=module,
    )
