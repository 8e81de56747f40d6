"""The two towers as models of any runtime: same names, tensors and keys of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cliprt._bundle import Bundle
from cliprt._card import ImageSpec, TextSpec, encode_card
from cliprt._names import (
    CARD_PARAMETER,
    EMBEDDING,
    LENGTHS_PARAMETER,
    PIXELS,
    PRECISION_PARAMETER,
    TOKENS,
    ModelNames,
    served_version,
)
from cliprt_triton._config import Accelerator, Backend, Kind, ModelConfig, Tensor, Warmup
from cliprt_triton._plans import TowerPlans, find_plans
from cliprt_triton._policy import Policy
from cliprt_triton._python_tower import SETTINGS_PARAMETER, encode_settings, known_answers
from cliprt_triton._runtime import Runtime
from cliprt_triton._served import ServedModel

# To these lengths texts are filled up where requests meet only if they are equally long: captions
# of ten words and of twenty. Engines bring lengths of their own.
_LENGTHS = (16, 32)

_LEAST_LENGTH = 2

# As LocalClip tells ONNX Runtime: float32 stays float32, and the search for the fastest convolution
# is not made again for every size of batch.
_CUDA = Accelerator("cuda", {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})


@dataclass(frozen=True)
class _Computed:
    """What a runtime brings to a tower's model.

    Attributes:
        backend: which of Triton's.
        kind: where instances run.
        most: items that it takes at once; None takes any number.
        lengths: to which texts are filled up; empty where any length is welcome.
        profiles: numbers of an engine's profiles.
        plans: by compute capability, the file that runs there.
        accelerators: of ONNX Runtime.
        code: of the Python backend.
        files: of the model's folder.
        settings: how the Python runtime computes it, as JSON; empty where that was not said.
    """

    backend: Backend
    kind: Kind
    most: int | None = None
    lengths: tuple[int, ...] = ()
    profiles: tuple[int, ...] = ()
    plans: Mapping[str, str] = field(default_factory=dict)
    accelerators: tuple[Accelerator, ...] = ()
    code: str | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    settings: str = ""


def tower_models(
    bundle: Bundle, names: ModelNames, runtime: Runtime, policy: Policy
) -> list[ServedModel]:
    """The models of the towers that a bundle has, image before text.

    Args:
        bundle: what to serve.
        names: of the models.
        runtime: what computes them.
        policy: of their queues.

    Raises:
        BundleError: the bundle has no tower of that precision.
        EngineError: an engine is missing, cannot be told from another, or must not be loaded.
    """
    card = bundle.card
    precision = runtime.precision or runtime.precisions[0]
    plans: Mapping[str, TowerPlans] = {}
    if runtime.engines is not None:
        precision, plans = find_plans(bundle, runtime.engines, runtime.precision)
    models = []
    for tower, spec in (("image", card.image), ("text", card.text)):
        if spec is None:
            continue
        name = names.image if tower == "image" else names.text
        bounded = _bounded(policy, runtime, tower)
        if runtime.engines is not None:
            computed = _by_tensorrt(plans[tower], runtime)
        else:
            graph = f"{tower}.{precision}.onnx"
            computed = _by_onnx(runtime, bundle, graph, spec, bounded)
        models.append(_model(bundle, name, spec, runtime, bounded, precision, computed))
    return models


def _bounded(policy: Policy, runtime: Runtime, tower: str) -> Policy:
    """The policy of a tower: bounded in time where its speed is known."""
    if (speed := runtime.speeds.get(tower)) is None:
        return policy
    settings = runtime.settings.get(tower)
    return policy.at_speed(speed, workers=1 if settings is None else settings.workers)


def _model(
    bundle: Bundle,
    name: str,
    spec: ImageSpec | TextSpec,
    runtime: Runtime,
    policy: Policy,
    precision: str,
    computed: _Computed,
) -> ServedModel:
    card = bundle.card
    parameters = {
        CARD_PARAMETER: encode_card(card).decode(),
        PRECISION_PARAMETER: precision,
        SETTINGS_PARAMETER: computed.settings,
    }
    shape: tuple[int, ...]
    if isinstance(spec, ImageSpec):
        shape = (spec.height, spec.width, 3)
        taken = Tensor(PIXELS, "TYPE_UINT8", shape)
    else:
        shape = (spec.context_length,)
        # Of a fixed length Triton refuses others by itself, naming the right one. Elsewhere texts
        # of unequal length share a batch in the Python runtime, which fills them up.
        taken = Tensor(TOKENS, "TYPE_INT32", shape)
        lengths = shape if policy.cache_texts else computed.lengths
        if not has_one_length(spec, policy):
            taken = Tensor(TOKENS, "TYPE_INT32", (-1,), ragged=computed.code is not None)
        parameters |= {
            LENGTHS_PARAMETER: ",".join(map(str, lengths)),
            "vocabulary": str(spec.vocabulary),
            "pad_id": str(spec.pad_id),
            "max_length": str(spec.context_length),
        }
    if computed.code is not None:
        # Triton 24.10 takes a batch of 2^32 for one of none and drops that dimension. The Python
        # backend counts the next one as items, and fails all requests of a batch that has more
        # than allowed; of this one it counts no more than the batcher did.
        taken = replace(taken, reshape=(1, *taken.dims))
    batch = policy.batch_size(computed.most)
    warmup = [Warmup("one", 1, shape)]
    if runtime.on_gpu and batch > 1:
        # What the greatest batch needs is allocated before the first caller comes.
        warmup.append(Warmup("most", batch, shape))
    config = ModelConfig(
        name=name,
        version=served_version(card.space),
        inputs=(taken,),
        outputs=(Tensor(EMBEDDING, "TYPE_FP32", (card.dim,)),),
        backend=computed.backend,
        instances=policy.instances,
        kind=computed.kind,
        gpus=() if runtime.gpus is None else tuple(range(runtime.gpus)),
        profiles=computed.profiles,
        max_batch_size=batch,
        batching=policy,
        cache=policy.cache_texts and isinstance(spec, TextSpec),
        warmup=tuple(warmup),
        accelerators=computed.accelerators,
        plans=computed.plans,
        parameters=parameters,
    )
    return ServedModel(config, computed.code, computed.files)


def has_one_length(spec: TextSpec, policy: Policy) -> bool:
    """Whether a text tower takes texts of its context length alone.

    Triton's cache hashes what tensors hold, and not their shapes: one row of eight tokens would get
    what two rows of four got before.
    """
    return spec.fixed_length or policy.cache_texts


def _by_tensorrt(plans: TowerPlans, runtime: Runtime) -> _Computed:
    return _Computed(
        "tensorrt",
        runtime.kind,
        most=plans.max_batch_size,
        lengths=plans.lengths,
        profiles=tuple(range(plans.profiles)),
        plans=plans.by_capability,
        files=plans.files,
    )


def _by_onnx(
    runtime: Runtime, bundle: Bundle, graph: str, spec: ImageSpec | TextSpec, policy: Policy
) -> _Computed:
    """ONNX Runtime, in Triton's Python backend or in the one of its own."""
    # The graph, and its weights under the names by which it refers to them.
    weights = {name: bundle.file(name) for name in bundle.weights_of(graph)}
    files = {"model.onnx": bundle.file(graph), **weights}
    if runtime.name == "python":
        known = known_answers(bundle)
        settings = encode_settings(
            runtime.settings, "image" if isinstance(spec, ImageSpec) else "text"
        )
        return _Computed("python", "KIND_CPU", code="tower", files=files | known, settings=settings)
    lengths: tuple[int, ...] = ()
    if isinstance(spec, TextSpec) and not spec.fixed_length:
        context = spec.context_length
        lengths = (*(length for length in _LENGTHS if length < context), context)
    return _Computed(
        "onnxruntime",
        runtime.kind,
        lengths=lengths,
        accelerators=_accelerators(runtime, bundle, graph, spec, policy.batch_size()),
        files=files,
    )


def _accelerators(
    runtime: Runtime, bundle: Bundle, graph: str, spec: ImageSpec | TextSpec, batch: int
) -> tuple[Accelerator, ...]:
    if runtime.provider == "cpu":
        return ()
    if runtime.provider == "cuda":
        return (_CUDA,)
    # Without shapes it would build again whenever one exceeds those that came before. No option
    # names a precision: that is in the graph.
    options = _shapes(spec, batch)
    if runtime.engine_cache is not None:
        options |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": runtime.engine_cache,
            "trt_engine_cache_prefix": f"{bundle.card.space[:16]}.{graph.removesuffix('.onnx')}",
        }
    return (Accelerator("tensorrt", options), _CUDA)


def _shapes(spec: ImageSpec | TextSpec, batch: int) -> dict[str, str]:
    """From which to which shape ONNX Runtime builds an engine, and for which it tunes it."""
    if isinstance(spec, ImageSpec):
        name, item = PIXELS, f"{spec.height}x{spec.width}x3"
        least = best = most = item
    else:
        name, best, most = TOKENS, f"{spec.context_length}", f"{spec.context_length}"
        least = most if spec.fixed_length else f"{_LEAST_LENGTH}"
    return {
        "trt_profile_min_shapes": f"{name}:1x{least}",
        "trt_profile_opt_shapes": f"{name}:{max(batch // 2, 1)}x{best}",
        "trt_profile_max_shapes": f"{name}:{batch}x{most}",
    }
