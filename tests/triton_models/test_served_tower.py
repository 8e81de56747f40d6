"""A tower in Triton's Python: computed as LocalClip computes it, checked when it is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import arrays, texts
from wire import request_of, stub_of, tensors_of

from cliprt import Bundle, Client, DeploymentError, ServerStartError
from cliprt_engines import CpuSettings, LocalClip
from cliprt_triton import TritonServer, _install, write_repository
from cliprt_triton._python_tower import measured_settings
from cliprt_triton.models import _backend

PICTURES, STRINGS = arrays(13, 32), texts(77)


@pytest.fixture
def repository(small_bundle: Bundle, tmp_path: Path) -> Path:
    return write_repository(small_bundle, tmp_path / "repository")


def version_of(repository: Path, model: str) -> Path:
    (folder,) = (path for path in (repository / model).iterdir() if path.is_dir())
    return folder


SETTINGS = {
    "more pieces than items": CpuSettings(workers=3, threads=1, batch=1),
    "one worker": CpuSettings(workers=1, threads=2, batch=5, spinning=True),
    "openvino": CpuSettings(runtime="openvino", workers=2, threads=1, batch=4),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_every_setting_answers_the_same(
    settings: CpuSettings, small_bundle: Bundle, tmp_path: Path
) -> None:
    repository = write_repository(
        small_bundle,
        tmp_path / "repository",
        settings={"image": settings, "text": settings},
        link=True,
    )
    with (
        TritonServer(repository) as server,
        Client(server.address) as client,
        LocalClip(small_bundle, settings=CpuSettings()) as local,
    ):
        images, strings = local.encode_image(PICTURES), local.encode_text(STRINGS)
        np.testing.assert_allclose(client.encode_image(PICTURES), images, atol=1e-5)
        np.testing.assert_allclose(client.encode_text(STRINGS), strings, atol=1e-5)


def test_int8_answers_as_in_process(int8_bundle: Bundle, tmp_path: Path) -> None:
    settings = {tower: CpuSettings(workers=2, batch=4) for tower in ("image", "text")}
    repository = write_repository(
        int8_bundle, tmp_path / "repository", precision="int8-cpu", settings=settings, link=True
    )
    with (
        TritonServer(repository) as server,
        Client(server.address) as client,
        LocalClip(int8_bundle, precision="int8-cpu", settings=settings["image"]) as local,
        LocalClip(int8_bundle, precision="fp32", settings=settings["image"]) as exact,
    ):
        found = client.encode_image(PICTURES)
        np.testing.assert_allclose(found, local.encode_image(PICTURES), atol=1e-5)
        assert np.abs(found - exact.encode_image(PICTURES)).max() > 1e-5


def test_what_follows_a_text_costs_and_changes_nothing(
    small_bundle: Bundle, repository: Path
) -> None:
    """Callers in other languages may fill texts up to the context."""
    spec = small_bundle.card.text
    assert spec is not None
    tokens = np.random.default_rng(0).integers(0, 49000, (4, 9)).astype(np.int32)
    tokens[:, -1] = spec.end_id
    filled = np.full((4, 77), spec.pad_id, np.int32)
    filled[:, :9] = tokens
    with TritonServer(repository) as server, stub_of(server.address) as stub:
        short, long = (
            tensors_of(stub.ModelInfer(request_of("clip_text", {"tokens": each}), timeout=30))
            for each in (tokens, filled)
        )
    np.testing.assert_allclose(long["embedding"], short["embedding"], atol=1e-6)


def test_a_tower_that_answers_wrong_is_not_ready(repository: Path) -> None:
    golden = version_of(repository, "clip_text") / "golden.npz"
    with np.load(golden) as file:
        content = dict(file)
    content["text_embedding"] = -content["text_embedding"]
    np.savez(golden, **content)
    with pytest.raises(ServerStartError, match="clip_text failed: .*known answers have a cosine"):
        TritonServer(repository)


def test_settings_that_cannot_be_are_named(small_bundle: Bundle, tmp_path: Path) -> None:
    repository = write_repository(
        small_bundle, tmp_path / "repository", settings={"image": CpuSettings()}
    )
    config = repository / "clip_image" / "config.pbtxt"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("spinning", "spinners"), encoding="utf-8")
    with pytest.raises(ServerStartError, match="parameter cliprt_settings is not usable.*spinners"):
        TritonServer(repository)


def test_another_version_of_cliprt_is_refused(repository: Path) -> None:
    model = version_of(repository, "clip_decode") / "model.py"
    model.write_text(model.read_text().replace("0.1.0", "9.8.7"), encoding="utf-8")
    with pytest.raises(
        ServerStartError,
        match=r"needs cliprt 9\.8\.7 in the Python that Triton uses, found: 0\.1\.0; install it "
        r"there with: pip install 'cliprt\[engines\]==9\.8\.7'",
    ):
        TritonServer(repository)


def test_without_cliprt_the_model_says_so(repository: Path) -> None:
    model = version_of(repository, "clip_image") / "model.py"
    run = subprocess.run(
        [sys.executable, "-I", "-S", str(model)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "found: No module named 'cliprt'; install it there with: pip install" in run.stderr


def test_settings_are_measured_for_the_towers_there_are(
    small_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPRT_CPU_CHOICE", "default")
    found = measured_settings(small_bundle, "fp32")
    assert set(found) == {"image", "text"}
    assert found["image"].threads == 1


def test_numpy_2_under_an_old_triton_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The stub of the wheel is of such a one: it crashes at the first string."""
    monkeypatch.setattr(np, "__version__", "2.1.0")
    _install.find_tritonserver(None, tmp_path)
    stub = tmp_path / "backends" / "python" / "triton_python_backend_stub"
    with pytest.raises(DeploymentError, match=r"crash Triton before 24\.11 under NumPy 2\.1\.0"):
        _backend.check_numpy(stub)
    _backend.check_numpy(Path(sys.executable))


def test_numpy_1_is_welcome_everywhere(tmp_path: Path) -> None:
    _backend.check_numpy(tmp_path / "nothing")
