"""Checks a model repository in the real Triton core, as far as this machine can go.

Every model is loaded with its configuration as it is. Where this machine lacks a backend, or the
GPU that it needs, a stand-in of that name runs on the processor (see ``_stand_ins.py``), and the
report says what has not been checked for that. The repository is only read: a folder of links to
its files is what Triton sees, so that nothing is written beside them.
"""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from cliprt._bundle import Bundle
from cliprt._card import Card
from cliprt._errors import DeploymentError
from cliprt._names import CARD_PARAMETER, PRECISION_PARAMETER, TOKENS, ModelNames
from cliprt_triton._check_towers import check_tower, compare_answers, is_tower, read_card
from cliprt_triton._install import find_tritonserver
from cliprt_triton._server import TritonServer
from cliprt_triton._server_flags import ADMIN_HEADER
from cliprt_triton._stand_ins import BUILT_IN, missing_backends, stand_ins

CONFIG = "config.pbtxt"

State: TypeAlias = Literal["ok", "failed", "not checked"]

# Of Triton's own formats, what runs them if the configuration names no backend.
_BACKENDS = {
    "ensemble": "ensemble",
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
    "tensorrt_plan": "tensorrt",
}
# Backends that do nothing without a GPU, even where their libraries are.
_GPU_BACKENDS = ("tensorrt",)
_LOAD_TIMEOUT_S = 600.0
# load failed for model 'x': version 1 is at UNAVAILABLE state: Internal: why At: file.py(1): f ;
_REASON = re.compile(r"load failed for .*?: (?:.* UNAVAILABLE state: )?(.*?)(?: At: .*)?[ ;]*")
_NOT_IMPORTED = re.compile(r"(?:ModuleNotFoundError|ImportError): (.+)")


@dataclass(frozen=True)
class CheckedModel:
    """What was found out about a model.

    Attributes:
        name: its name.
        runs_on: the backend that ran it here, ``stand-in for NAME``, ``ensemble``, or ``-``.
        state: whether it is right, wrong, or could not be loaded here.
        checked: what was, and held.
        unchecked: what this machine could not check.
        problems: what is wrong.
    """

    name: str
    runs_on: str
    state: State
    checked: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckReport:
    """The check of a repository.

    Attributes:
        repository: the folder.
        triton: version of the core that loaded it.
        models: in the order of their names.
    """

    repository: str
    triton: str
    models: tuple[CheckedModel, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is known to be wrong."""
        return not any(model.problems for model in self.models)

    def to_json(self) -> str:
        """The report as JSON."""
        content = {"ok": self.ok, **msgspec.to_builtins(self)}
        return msgspec.json.format(msgspec.json.encode(content), indent=2).decode()


@dataclass(frozen=True)
class _Model:
    """A model of the repository before it is loaded."""

    folder: Path
    config: Any
    backend: str
    stood_in: bool
    moved: str | None

    @property
    def name(self) -> str:
        return self.folder.name


def check_repository(
    folder: str | Path,
    *,
    bundle: Bundle | None = None,
    tritonserver: str | Path | None = None,
) -> CheckReport:
    """Loads every model of a repository into the real Triton core, and says what it saw.

    Args:
        folder: the repository, of whomever; it is only read.
        bundle: that the towers are to be from: their answers to its golden inputs are compared. A
            stand-in for TensorRT then computes the bundle's tower in float32, and zeros without.
        tritonserver: executable to use; None finds one.

    Raises:
        DeploymentError: there is no repository there.
        ServerStartError: no tritonserver was found, or it did not come up.
    """
    path = Path(folder)
    try:
        inside = sorted(each for each in path.iterdir() if not each.name.startswith("."))
    except OSError as error:
        raise DeploymentError(f"{path} cannot be read: {error.strerror or error}") from None
    folders = [each for each in inside if each.is_dir()]
    if not folders:
        raise DeploymentError(f"{path} holds no models; a repository has a folder for each")
    found, reports = _read_models(folders, tritonserver)
    cards = {model.name: card for model in found if (card := read_card(model.config)) is not None}
    towers = {model.name: tower for model in found if (tower := _tower_of(model, cards, bundle))}
    stood_in = sorted({model.backend for model in found if model.stood_in})

    # Loading models is for who administrates, which is this check alone.
    secret = secrets.token_hex(16)
    with (
        _linked(found) as links,
        TritonServer(
            links,
            tritonserver=tritonserver,
            prepare=stand_ins(stood_in, towers) if stood_in else None,
            admin_secret=secret,
            load_at_start=False,
        ) as server,
        _connected(server) as triton,
    ):
        failures = _load(triton, found, secret)
        for model in found:
            if model.name in failures:
                reports.append(_refused(model, failures))
            else:
                computes = not model.stood_in or model.name in towers
                reports.append(_loaded(triton, model, cards, bundle if computes else None))
        version = str(triton.get_server_metadata().version)
    ordered = sorted(reports, key=lambda report: report.name)
    return CheckReport(str(path), version, tuple(ordered))


def _read_models(
    folders: Sequence[Path], tritonserver: str | Path | None
) -> tuple[list[_Model], list[CheckedModel]]:
    """The models that can be loaded, and reports of those whose configuration cannot be read."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    from cliprt_engines import device_at_hand

    configs: dict[Path, Any] = {}
    reports: list[CheckedModel] = []
    for folder in folders:
        try:
            text = (folder / CONFIG).read_text(encoding="utf-8")
            configs[folder] = text_format.Parse(text, model_config_pb2.ModelConfig())
        except FileNotFoundError:
            why = f"it has no {CONFIG}; what Triton would guess of it is not checked"
            reports.append(CheckedModel(folder.name, "-", "not checked", unchecked=(why,)))
        except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
            why = f"its {CONFIG} cannot be read: {error}"
            reports.append(CheckedModel(folder.name, "-", "failed", problems=(why,)))
    backends = {folder: _backend(config) for folder, config in configs.items()}
    has_gpu = device_at_hand() is not None
    with tempfile.TemporaryDirectory(prefix="cliprt-check-") as work:
        install = find_tritonserver(tritonserver, Path(work))
        missing = set(missing_backends(install, backends.values()))
    if not has_gpu:
        missing |= {*_GPU_BACKENDS}
    models = [
        _Model(
            folder,
            config,
            backends[folder],
            backends[folder] in missing,
            None if has_gpu else _moved_to_processor(config),
        )
        for folder, config in configs.items()
    ]
    return models, reports


def _backend(config: Any) -> str:
    named = config.backend or _BACKENDS.get(config.platform, "")
    return str("ensemble" if config.HasField("ensemble_scheduling") else named or "python")


def _moved_to_processor(config: Any) -> str | None:
    """Moves instances that demand GPUs to the processor; what has not been checked for that."""
    from tritonclient.grpc import model_config_pb2 as pb

    gpus = pb.ModelInstanceGroup.KIND_GPU
    moved = [group for group in config.instance_group if group.kind == gpus or group.gpus]
    if not moved:
        return None
    numbers = sorted({number for group in moved for number in group.gpus})
    for group in moved:
        group.kind = pb.ModelInstanceGroup.KIND_CPU
        group.ClearField("gpus")
    which = f"GPUs {', '.join(map(str, numbers))}" if numbers else "GPUs"
    return f"instances on {which}: here they ran on the processor"


def _tower_of(model: _Model, cards: dict[str, Card], bundle: Bundle | None) -> Path | None:
    """The ONNX file with which a stand-in computes a model; None where there is none."""
    if not model.stood_in:
        return None
    if model.backend == "onnxruntime":
        name = model.config.default_model_filename or "model.onnx"
        versions = [each for each in model.folder.iterdir() if each.name.isdecimal()]
        graphs = [each / name for each in versions if (each / name).is_file()]
        return max(graphs, key=lambda graph: int(graph.parent.name), default=None)
    card = cards.get(model.name)
    if card is None or bundle is None or card.space != bundle.card.space:
        return None
    tower = "text" if model.config.input[0].name == TOKENS else "image"
    return bundle.file(f"{tower}.fp32.onnx").resolve()


@contextmanager
def _linked(models: Sequence[_Model]) -> Iterator[Path]:
    """A repository of links: what Triton and Python write beside models goes with it."""
    from google.protobuf import text_format

    with tempfile.TemporaryDirectory(prefix="cliprt-check-") as work:
        for model in models:
            copy = Path(work) / model.name
            try:
                # Folders that are links are followed: Python writes its caches beside its code.
                shutil.copytree(
                    model.folder,
                    copy,
                    copy_function=_link,
                    ignore=shutil.ignore_patterns("__pycache__"),
                )
            except OSError as error:
                raise DeploymentError(f"{model.folder} cannot be read: {error}") from None
            if model.moved is not None:
                (copy / CONFIG).unlink()
                (copy / CONFIG).write_text(text_format.MessageToString(model.config), "utf-8")
        yield Path(work)


def _link(source: str, target: str) -> None:
    Path(target).symlink_to(Path(source).resolve())


@contextmanager
def _connected(server: TritonServer) -> Iterator[Any]:
    from tritonclient.grpc import InferenceServerClient

    with InferenceServerClient(server.address) as triton:
        yield triton


def _load(triton: Any, models: Sequence[_Model], secret: str) -> dict[str, str]:
    """Loads all models; by name, why one was refused."""
    from tritonclient.utils import InferenceServerException

    admin = {ADMIN_HEADER: secret}

    # What is made of others comes last. A model whose warm-up calls another is tried again.
    waiting = sorted(models, key=lambda model: model.backend in BUILT_IN)
    while waiting:
        failures: dict[str, str] = {}
        for model in waiting:
            try:
                triton.load_model(model.name, headers=admin, client_timeout=_LOAD_TIMEOUT_S)
            except InferenceServerException as error:
                failures[model.name] = str(error.message())
        again = [model for model in waiting if model.name in failures]
        if len(again) == len(waiting):
            return failures
        waiting = again
    return {}


def _refused(model: _Model, failures: dict[str, str]) -> CheckedModel:
    """The report of a model that the core did not load."""
    reason = " ".join(failures[model.name].split())
    if said := _REASON.fullmatch(reason):
        reason = said[1]
    runs_on = _runs_on(model)
    if found := _NOT_IMPORTED.search(reason):
        why = f"its code cannot be imported here: {found[1]}"
        return CheckedModel(model.name, runs_on, "not checked", unchecked=(why,))
    steps = {step.model_name for step in model.config.ensemble_scheduling.step}
    if broken := sorted(steps & failures.keys()):
        why = f"it needs {', '.join(broken)}, which did not load"
        return CheckedModel(model.name, runs_on, "not checked", unchecked=(why,))
    return CheckedModel(model.name, runs_on, "failed", problems=(reason,))


def _loaded(
    triton: Any, model: _Model, cards: dict[str, Card], bundle: Bundle | None
) -> CheckedModel:
    """The report of a model that is ready."""
    checked = ["loaded"]
    if model.config.model_warmup:
        checked.append("warmed up")
    unchecked = list(_not_seen(model))
    problems: list[str] = []
    card = cards.get(model.name)
    if card is None and CARD_PARAMETER in model.config.parameters:
        problems.append("the card that it carries cannot be read")
    if card is not None and is_tower(model.config):
        problems += check_tower(model.config, card)
        if others := _others(model.name, card, cards):
            problems.append(f"its card is not that of {others[0]}, which a client uses with it")
        if not problems:
            checked.append("card, tensors and version agree")
        if bundle is not None and card.space != bundle.card.space:
            problems.append(f"it is of the space {card.space}, BUNDLE of {bundle.card.space}")
        if bundle is None or problems:
            unchecked.append("answers")
        else:
            said, wrong = compare_answers(triton, model.config, bundle, _computed_in(model))
            checked += said
            problems += wrong
    state: State = "failed" if problems else "ok"
    return CheckedModel(
        model.name, _runs_on(model), state, tuple(checked), tuple(unchecked), tuple(problems)
    )


def _computed_in(model: _Model) -> str:
    """The precision in which a tower is computed here."""
    # A stand-in for TensorRT computes the bundle's tower, one for ONNX Runtime the repository's.
    if model.stood_in and model.backend != "onnxruntime":
        return "fp32"
    return str(model.config.parameters[PRECISION_PARAMETER].string_value)


def _others(name: str, card: Card, cards: dict[str, Card]) -> list[str]:
    """Towers of the same name, but for its end, that are from another bundle."""
    prefix = name.rpartition("_")[0]
    names = ModelNames(prefix) if prefix else None
    pair = (names.image, names.text) if names else ()
    return [each for each in pair if name in pair and cards.get(each, card) != card]


def _runs_on(model: _Model) -> str:
    return f"stand-in for {model.backend}" if model.stood_in else model.backend


def _not_seen(model: _Model) -> Iterator[str]:
    """What a stand-in, or a machine without a GPU, leaves open."""
    config = model.config
    if model.moved is not None:
        yield model.moved
    if model.stood_in:
        plans = sorted({*config.cc_model_filenames.values()})
        yield f"the backend {model.backend} itself" + (f" and {', '.join(plans)}" if plans else "")
        accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
        if names := [each.name for each in accelerators]:
            yield f"providers {', '.join(names)}"
        profiles = [number for group in config.instance_group for number in group.profile]
        if profiles:
            yield f"profiles {', '.join(profiles)}"
    if config.response_cache.enable:
        yield "the response cache, which this server does not have"
