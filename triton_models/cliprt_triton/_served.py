"""A model of a repository: its configuration, the code that runs in Triton, and its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cliprt import __version__
from cliprt_triton._config import ModelConfig

_MODEL_PY = """\"\"\"Written by cliprt {version}, whose code computes this model.\"\"\"

try:
    from cliprt import __version__ as found
except ModuleNotFoundError as error:
    found = str(error)
if found != "{version}":
    raise ImportError(
        f"this model needs cliprt {version} in the Python that Triton uses, found: {{found}}; "
        "install it there with: pip install 'cliprt[engines]=={version}'"
    )

from cliprt_triton.models.{module} import TritonPythonModel  # noqa: E402, F401
"""


@dataclass(frozen=True)
class ServedModel:
    """A folder of the repository.

    Attributes:
        config: its configuration.
        code: module of ``cliprt_triton.models`` whose ``TritonPythonModel`` computes it in Triton's
            Python backend; None for ensembles and for models of Triton's own backends.
        files: what else lies in the folder of its version: name there, and the file it is.
        contents: files that are written from memory: name there, and the content.
    """

    config: ModelConfig
    code: str | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    contents: Mapping[str, bytes] = field(default_factory=dict)

    def model_py(self) -> str:
        """The text of ``model.py``, which finds the code in the Python that Triton uses."""
        return _MODEL_PY.format(version=__version__, module=self.code)
