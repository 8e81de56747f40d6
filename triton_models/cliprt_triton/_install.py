"""Finding a tritonserver, and making the one from the pip wheel runnable."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from cliprt._errors import ServerStartError

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class TritonInstall:
    """A tritonserver and what it needs around it.

    Attributes:
        binary: the executable.
        arguments: arguments that belong to this installation.
        cache_arguments: those that it needs as soon as responses are cached.
        environment: variables to set for it.
    """

    binary: Path
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    cache_arguments: tuple[str, ...] = ()


def find_tritonserver(given: str | Path | None, work: Path) -> TritonInstall:
    """Finds the tritonserver to use: the given one, the one on PATH, or the wheel's.

    Args:
        given: path of an executable, or None.
        work: an existing folder for files that the wheel's server needs; it must outlive it.

    Raises:
        ServerStartError: there is none, or the wheel's cannot run with this Python.
    """
    wheel = _wheel_package()
    if given is None and (found := shutil.which("tritonserver")):
        given = found
    if given is not None:
        binary = Path(given)
        if not (binary.is_file() and os.access(binary, os.X_OK)):
            raise ServerStartError(f"{binary} is no executable file")
        if wheel is None or not binary.resolve().is_relative_to(wheel.resolve()):
            return TritonInstall(binary)
    if wheel is None:
        raise ServerStartError(
            "no tritonserver on PATH and none from pip; install one with: "
            "pip install 'cliprt[serve]', or name one with --tritonserver"
        )
    return _from_wheel(wheel, work)


def _wheel_package() -> Path | None:
    """Where nvidia-pytriton is installed; not imported, because only its binary is used."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _from_wheel(package: Path, work: Path) -> TritonInstall:
    """Completes nvidia-pytriton's server: its Python backend, and where libraries lie."""
    server = package / "tritonserver"
    stub = server / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
    if not stub.is_file():
        raise ServerStartError(
            f"nvidia-pytriton has no Python backend for Python {_PYTHON}; use Python 3.10 to 3.12"
        )
    backend = work / "backends" / "python"
    backend.mkdir(parents=True)
    for file in (server / "backends" / "python").iterdir():
        if file.is_file():
            (backend / file.name).symlink_to(file)
    # Beside the backend, and executable, which not every installer leaves it.
    shutil.copyfile(stub, backend / stub.name)
    (backend / stub.name).chmod(0o755)
    libraries = [package.parent / "nvidia_pytriton.libs", *_python_library_folders()]
    return TritonInstall(
        binary=server / "bin" / "tritonserver",
        arguments=(f"--backend-directory={backend.parent}",),
        cache_arguments=(f"--cache-directory={server / 'caches'}",),
        environment={
            "LD_LIBRARY_PATH": _path(*map(str, libraries), os.environ.get("LD_LIBRARY_PATH")),
            # The stub embeds an isolated Python, which ignores PYTHONPATH and takes its packages
            # from the environment whose python3 comes first on PATH.
            "PATH": _path(str(Path(sys.executable).parent), os.environ.get("PATH")),
        },
    )


def _python_library_folders() -> list[Path]:
    """Folders with this interpreter's shared library, which the stub links."""
    name = f"libpython{_PYTHON}.so.1.0"
    folders = [Path(sys.base_prefix) / "lib"]
    if libdir := sysconfig.get_config_var("LIBDIR"):
        folders += [Path(libdir), Path(libdir) / (sysconfig.get_config_var("MULTIARCH") or "")]
    found = [folder for folder in folders if (folder / name).is_file()]
    if not found and ctypes.util.find_library(f"python{_PYTHON}") is None:
        raise ServerStartError(
            f"this Python has no shared library {name}, which Triton's Python backend needs; "
            f"install it (on Debian and Ubuntu: apt install libpython{_PYTHON}) "
            "or use a Python built with --enable-shared"
        )
    return found


def _path(*entries: str | None) -> str:
    return os.pathsep.join(dict.fromkeys(entry for entry in entries if entry))
