"""Bundle to model repository."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from cliprt._bundle import Bundle
from cliprt._errors import BundleError
from cliprt._folders import folder_that_becomes
from cliprt._limits import Limits
from cliprt._names import PRECISION_PARAMETER, ModelNames
from cliprt_engines import CpuSettings
from cliprt_triton._health import health_model
from cliprt_triton._pipelines import pipeline_models
from cliprt_triton._policy import Policy
from cliprt_triton._runtime import Provider, Runtime, RuntimeName
from cliprt_triton._served import ServedModel
from cliprt_triton._towers import tower_models


def write_repository(
    bundle: Bundle,
    out: str | Path,
    *,
    runtime: RuntimeName = "python",
    precision: str | None = None,
    provider: Provider = "cpu",
    engines: str | Path | None = None,
    engine_cache: str | None = None,
    gpus: int | None = None,
    settings: Mapping[str, CpuSettings] | None = None,
    speeds: Mapping[str, float] | None = None,
    name: str = "clip",
    policy: Policy | None = None,
    limits: Limits | None = None,
    link: bool = False,
) -> Path:
    """Writes a model repository. It appears whole or not at all.

    Models, tensors and keys of parameters are the same with every runtime.

    Args:
        bundle: what to serve.
        out: folder to write; it must not exist.
        runtime: what computes the towers: ``python`` is ONNX Runtime in Triton's Python backend, on
            the processor; ``onnxruntime`` and ``tensorrt`` are Triton's own backends.
        precision: of the towers; None is fp32 on a processor, fp16 with a provider for GPUs, and
            that of the engines if they have but one.
        provider: what the runtime onnxruntime computes with: cpu, cuda, or tensorrt.
        engines: folder that ``cliprt build`` filled, for the runtime tensorrt.
        engine_cache: folder on the server where the provider tensorrt keeps what it builds; None
            builds at every start.
        gpus: use the first so many GPUs; None uses all that Triton finds.
        settings: by ``image`` and ``text``, how the runtime python computes the towers on the
            machine that will serve them; None leaves that to the defaults.
        speeds: by ``image`` and ``text``, how many items a second the towers embed on the machine
            that will serve them, so that their queues are bounded in time (``Policy.at_speed``);
            None bounds them as the policy says.
        name: prefix of the models' names, so that one server can hold several bundles.
        policy: batches and queues; None is the preset ``balanced``.
        limits: what models that take pictures and strings accept; None means the defaults.
        link: point to files instead of copying them; for a repository that is used where it is made
            and goes before they do.

    Returns:
        The folder.

    Raises:
        BundleError: out exists, cannot be written, or the bundle has no such precision.
        EngineError: an engine is missing, cannot be told from another, or must not be loaded.
        InvalidInput: the runtime does not know such a precision, provider or option.
        ValueError: name is not allowed, or a speed is not positive.
    """
    chosen = Runtime(
        name=runtime,
        precision=precision,
        provider=provider,
        engines=None if engines is None else Path(engines),
        engine_cache=engine_cache,
        gpus=gpus,
        settings=settings or {},
        speeds=speeds or {},
    )
    target = Path(out)
    if target.exists():
        raise BundleError(f"{target} already exists; choose another --out")
    models = served_models(
        bundle, ModelNames(name), chosen, policy or Policy(), limits=limits or Limits()
    )
    with folder_that_becomes(target) as folder:
        for model in models:
            _write_model(folder, model, link)
    return target


def served_models(
    bundle: Bundle, names: ModelNames, runtime: Runtime, policy: Policy, *, limits: Limits
) -> list[ServedModel]:
    """Every model of a repository, the towers first.

    Raises:
        BundleError: the bundle has no tower of that precision.
        EngineError: an engine is missing, cannot be told from another, or must not be loaded.
    """
    towers = tower_models(bundle, names, runtime, policy)
    precision = towers[0].config.parameters[PRECISION_PARAMETER]
    return [
        *towers,
        *pipeline_models(bundle, names, limits=limits, towers=towers),
        health_model(bundle, names, precision, towers=towers),
    ]


def _write_model(repository: Path, model: ServedModel, link: bool) -> None:
    version = repository / model.config.name / str(model.config.version)
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(model.config.to_pbtxt(), encoding="utf-8")
    if model.code is not None:
        (version / "model.py").write_text(model.model_py(), encoding="utf-8")
    for name, content in model.contents.items():
        (version / name).write_bytes(content)
    for name, source in model.files.items():
        if link:
            (version / name).symlink_to(source.resolve())
        else:
            shutil.copyfile(source, version / name)
