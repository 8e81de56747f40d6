"""Backends of Triton that are missing here, stood in for by one that runs on the processor.

A stand-in is a Python-based backend: a ``model.py`` in a folder of the missing backend's name,
which Triton runs with the library of its Python backend. See ``stand_ins/backend.py``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from cliprt_triton._install import TritonInstall

SOURCE = Path(__file__).parent / "stand_ins" / "backend.py"

_TOWERS = "CLIPRT_STAND_IN_TOWERS"
_FLAG = "--backend-directory="

# Built into the core.
BUILT_IN = ("ensemble",)


def backend_folder(install: TritonInstall) -> Path:
    """Where an installation keeps its backends."""
    for argument in install.arguments:
        if argument.startswith(_FLAG):
            return Path(argument.removeprefix(_FLAG))
    return install.binary.resolve().parent.parent / "backends"


def missing_backends(install: TritonInstall, names: Collection[str]) -> list[str]:
    """Those of some backends that an installation does not have."""
    folder = backend_folder(install)
    return sorted(name for name in set(names) - {*BUILT_IN} if not (folder / name).is_dir())


def stand_ins(
    names: Collection[str], towers: Mapping[str, Path]
) -> Callable[[TritonInstall, Path], TritonInstall]:
    """What ``TritonServer(prepare=...)`` calls to put stand-ins beside the backends there are.

    Args:
        names: backends to stand in for; one that is there is replaced.
        towers: by the name of a model, the ONNX file that computes it; others answer zeros.
    """

    def prepare(install: TritonInstall, work: Path) -> TritonInstall:
        real, folder = backend_folder(install), work / "with-stand-ins"
        folder.mkdir()
        for backend in real.iterdir() if real.is_dir() else ():
            if backend.name == "python":
                # Triton does not follow links from the Python backend to its library when it runs
                # another backend with it.
                shutil.copytree(backend, folder / backend.name)
            elif backend.name not in names:
                (folder / backend.name).symlink_to(backend.resolve())
        for name in names:
            (folder / name).mkdir()
            shutil.copyfile(SOURCE, folder / name / "model.py")
        listing = work / "towers.json"
        listing.write_text(json.dumps({name: str(path) for name, path in towers.items()}))
        others = tuple(each for each in install.arguments if not each.startswith(_FLAG))
        return replace(
            install,
            arguments=(*others, f"{_FLAG}{folder}"),
            environment={**install.environment, _TOWERS: str(listing)},
        )

    return prepare
