"""The base install: the wheel's contents, a light import, numpy 2, and a command that helps."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from numpy.typing import NDArray

from cliprt_triton import TritonServer

COMMANDS = (
    "build", "compare", "convert", "dedup", "embed", "export", "health", "merge", "models",
    "repository", "search", "serve", "verify",
)  # fmt: skip
PACKAGES = {
    "cliprt", "cliprt_batch", "cliprt_bench", "cliprt_engines", "cliprt_export", "cliprt_triton",
}  # fmt: skip
HEAVY = {
    "onnx", "onnxruntime", "torch", "tensorrt", "tensorrt_rtx_bindings", "transformers", "ray",
    "pyarrow", "faiss", "pandas", "matplotlib", "starlette", "uvicorn", "prometheus_client",
}  # fmt: skip

# The serving extra needs numpy 1; the client must work with numpy 2.
NUMPY_2 = "numpy==2.2.6"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, without extras, and the pinned versions except numpy's."""
    folder = tmp_path_factory.mktemp("base")
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join([*(p for p in pins if not p.startswith("numpy=")), NUMPY_2]))
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    install = ["-m", "pip", "install", "--quiet", "--constraint", str(constraints), str(wheel)]
    subprocess.run([str(python), *install], check=True, capture_output=True)
    return python


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Away from the repository, whose folders would be importable by accident.
    return subprocess.run(
        [str(python), "-I", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=python.parent,
    )


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert "cliprt_triton/models/tower.py" in names


def test_the_base_install_pulls_no_runtime(python: Path) -> None:
    listing = json.loads(run(python, "-m", "pip", "list", "--format", "json").stdout)
    installed = {entry["name"].lower().replace("-", "_") for entry in listing}
    assert not installed & (HEAVY | {"onnxruntime_gpu", "nvidia_pytriton"})
    assert "numpy" in installed


def test_importing_it_is_light(python: Path) -> None:
    code = "import cliprt, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = set(run(python, "-c", code).stdout.split())
    assert "cliprt" in loaded
    # Nor gRPC, which is loaded when a client connects.
    assert not loaded & (HEAVY | {"grpc", "tritonclient", "rich", "click"})


def test_importing_it_is_light_where_everything_is_installed() -> None:
    code = "import cliprt, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(out.stdout.split()) & (HEAVY | {"grpc", "tritonclient"})


def test_every_module_imports_without_extras(python: Path) -> None:
    code = """
import importlib, pkgutil
for package in %r:
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, package + "."):
        if ".models" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
print("fine")
"""
    done = run(python, "-c", code % sorted(PACKAGES))
    assert done.stdout == "fine\n", done.stderr


def test_the_command_shows_everything_and_names_the_missing_extra(
    python: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    shown = run(python, "-m", "cliprt", "--help").stdout
    assert all(f"\n  {command} " in shown for command in COMMANDS)
    for command in COMMANDS:
        assert run(python, "-m", "cliprt", command, "--help").returncode == 0
    out = str(tmp_path / "bundle")
    export = run(python, "-m", "cliprt", "export", str(small_checkpoint), "--out", out)
    assert export.returncode == 1
    assert "pip install 'cliprt[export]'" in export.stderr
    assert len(export.stderr.splitlines()) == 1


def test_building_without_tensorrt_names_both_extras(python: Path, small_bundle: object) -> None:
    path = str(small_bundle.path)  # type: ignore[attr-defined]
    build = run(python, "-m", "cliprt", "build", path, "--out", str(python.parent / "engines"))
    assert build.returncode == 1
    assert "pip install 'cliprt[tensorrt]'" in build.stderr
    assert "pip install 'cliprt[rtx]'" in build.stderr
    assert not (python.parent / "engines").exists()


def test_serving_without_the_extra_names_it(python: Path, small_bundle: object) -> None:
    path = str(small_bundle.path)  # type: ignore[attr-defined]
    serve = run(python, "-m", "cliprt", "serve", path, "--grpc-port", "0", "--metrics-port", "0")
    assert serve.returncode == 1
    assert "pip install 'cliprt[serve]'" in serve.stderr


def test_the_http_front_names_its_extra(python: Path, small_bundle: object) -> None:
    path = str(small_bundle.path)  # type: ignore[attr-defined]
    serve = run(python, "-m", "cliprt", "serve", path, "--http", "--openai-port", "0")
    assert serve.returncode == 1
    assert "pip install 'cliprt[http]'" in serve.stderr
    assert len(serve.stderr.splitlines()) == 1


CLIENT = """
import sys
import numpy
from cliprt import Client
assert numpy.__version__.startswith("2.")
with Client(sys.argv[1]) as client:
    pictures = client.encode_image(sys.argv[3:])
    texts = client.encode_text(["a picture", "a", ""])
    assert texts.shape == (3, client.card.dim)
    numpy.save(sys.argv[2], pictures)
"""


def test_the_client_works_with_numpy_2(
    python: Path,
    demo_server: TritonServer,
    demo_golden: dict[str, NDArray[np.float32]],
    tmp_path: Path,
) -> None:
    from cases import demo_pictures

    out = tmp_path / "pictures.npy"
    pictures = [str(path) for path in demo_pictures()]
    done = run(python, "-c", CLIENT, demo_server.address, str(out), *pictures)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(out), demo_golden["images"], atol=1e-5)
