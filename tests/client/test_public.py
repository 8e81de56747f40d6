"""The public names are pinned: adding or losing one is a decision."""

from __future__ import annotations

import importlib
import inspect

import pytest

import cliprt

PUBLIC = {
    "cliprt": {
        "AsyncClient", "Bundle", "BundleError", "Card", "CheckpointError", "Client", "CliprtError",
        "ClosedError", "Connection", "DeadlineExceeded", "Decoding", "DeploymentError",
        "Embeddings", "EngineError", "EngineMismatch", "FidelityError", "FileEntry", "ImageInput",
        "ImageSpec", "ImageTooLarge", "InvalidInput", "Item", "Limits", "MissingExtra",
        "ModelUnavailable", "Overloaded", "RequestTimes", "Retry", "RetryableError", "ServerError",
        "ServerStartError", "ServerUnavailable", "SpaceMismatch", "TextSpec", "Tls", "TowerTimes",
        "__version__", "open_bundle",
    },
    "cliprt_batch": {
        "Encoder", "Group", "Hit", "JobOptions", "Local", "LocalEncoder", "Manifest", "Member",
        "OutputBusy", "OutputError", "OutputMismatch", "OutputUnfinished", "Served",
        "ServedEncoder", "Source", "SourceChanged", "Summary", "embed", "embed_on_ray", "merge",
        "near_duplicates", "read_manifest", "search",
    },
    "cliprt_bench": {"Latency", "drawn", "jpeg", "measure_latency", "photo"},
    "cliprt_engines": {
        "BuildProgress", "BuilderOptions", "CpuSettings", "Device", "Engine", "LocalClip",
        "Manifest", "OnnxTower", "OpenVinoTower", "OpenedEngine", "Profile", "Span",
        "TensorRtTower", "Tower", "TowerInfo", "build_engines", "chosen_settings", "device_at_hand",
        "find_engines", "load_checked", "measured_speed", "open_engine",
    },
    "cliprt_export": {
        "Bars", "Certificate", "Check", "EngineCertificate", "EngineRow", "EngineVerification",
        "Fidelity", "MeasuredOn", "Verification", "export_checkpoint", "export_random",
        "read_certificate", "read_engine_certificate", "verify_bundle", "verify_engines",
    },
    "cliprt_triton": {
        "Policy", "Restarts", "ServerTls", "TritonServer", "Tuned", "openai_app", "read_tuned",
        "write_repository",
    },
}  # fmt: skip


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) == PUBLIC[package]
    assert all(hasattr(module, name) for name in module.__all__)


def test_every_error_is_drawn_in_the_tree() -> None:
    module = importlib.import_module("cliprt._errors")
    errors = inspect.getmembers(module, lambda v: inspect.isclass(v) and issubclass(v, Exception))
    for name, error in errors:
        assert issubclass(error, cliprt.CliprtError)
        assert name in (module.__doc__ or "")


def test_errors_can_be_caught_as_their_builtin_kin() -> None:
    assert issubclass(cliprt.InvalidInput, ValueError)
    assert issubclass(cliprt.DeadlineExceeded, TimeoutError)
    assert issubclass(cliprt.MissingExtra, ImportError)


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_image_pixels must be positive"):
        cliprt.Limits(max_image_pixels=0)
    with pytest.raises(ValueError, match="must not exceed 178,956,970"):
        cliprt.Limits(max_image_pixels=400_000_000)
