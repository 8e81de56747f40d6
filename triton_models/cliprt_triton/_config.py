"""Triton model configurations as typed values, written through Triton's own protobuf."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from cliprt_triton._policy import BULK, INTERACTIVE, Policy

DataType: TypeAlias = Literal["TYPE_UINT8", "TYPE_INT32", "TYPE_FP32", "TYPE_STRING"]
Backend: TypeAlias = Literal["python", "onnxruntime", "tensorrt"]
Kind: TypeAlias = Literal["KIND_CPU", "KIND_AUTO", "KIND_GPU"]

# What models of Triton's own formats are called besides the backend that runs them.
_PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}

# What equals protobuf's default is left out of its text. These are decisions, which a reader of
# config.pbtxt must see.
_DECISIONS = (
    (r"(instance_group \{\n  count: \d+\n)(?!  kind)", r"\1  kind: KIND_AUTO\n"),
    (r"\n( +)(?=default_timeout_microseconds)", r"\n\1timeout_action: REJECT\n\1"),
    (
        r"  cuda \{\n  \}",
        "  cuda {\n"
        "    # They may answer with what an earlier request asked: Triton server, issue 8550.\n"
        "    graphs: false\n"
        "  }",
    ),
)


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    Attributes:
        name: its name.
        data_type: Triton's name of the element type.
        dims: shape without the batch dimension; -1 is dynamic.
        ragged: requests may be batched although their shapes differ (inputs only).
        optional: requests may come without it (inputs only).
        reshape: as what the model gets it, without the batch dimension (inputs only); empty where
            that is as it comes.
    """

    name: str
    data_type: DataType
    dims: tuple[int, ...]
    ragged: bool = False
    optional: bool = False
    reshape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Warmup:
    """A request of zeros that the model answers before it is ready.

    Attributes:
        name: name of the sample.
        batch_size: items of the request.
        shape: shape of the input without the batch dimension.
    """

    name: str
    batch_size: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """A step of an ensemble.

    Attributes:
        model: name of the model that computes it.
        inputs: by the model's inputs, the ensemble's tensor that goes in.
        outputs: by the model's outputs, the ensemble's tensor that comes out.
    """

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Accelerator:
    """What ONNX Runtime computes with on a GPU.

    Attributes:
        name: ``cuda`` or ``tensorrt``.
        options: of that provider, by ONNX Runtime's or the backend's names.
    """

    name: Literal["cuda", "tensorrt"]
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelConfig:
    """A model of one of Triton's backends, or an ensemble.

    Attributes:
        name: the model's name, also that of its folder.
        version: its version, also the name of the folder in its folder.
        inputs: its inputs.
        outputs: its outputs.
        backend: what runs it; of no meaning for ensembles.
        steps: of an ensemble, whose models must have the same version; empty for other models.
        instances: how many of it run at once, on each of its GPUs; ensembles have none.
        kind: where instances run. KIND_AUTO is on every GPU that Triton supports, and on the
            processor where there is none.
        gpus: numbers of the GPUs; empty for all of them. Others than KIND_GPU name none.
        profiles: numbers of the optimisation profiles that instances use; TensorRT only.
        max_batch_size: items of a request; 0 takes them from batching.
        batching: None for a model that takes one request at a time.
        cache: answers are kept in the response cache, if the server has one.
        warmup: requests answered before the model is ready.
        accelerators: for ONNX Runtime, in the order of preference.
        plans: by compute capability (``8.9``), the file that runs there; TensorRT only.
        parameters: strings that clients and ``model.py`` read.
    """

    name: str
    version: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    backend: Backend = "python"
    steps: tuple[Step, ...] = ()
    instances: int = 1
    kind: Kind = "KIND_CPU"
    gpus: tuple[int, ...] = ()
    profiles: tuple[int, ...] = ()
    max_batch_size: int = 0
    batching: Policy | None = None
    cache: bool = False
    warmup: tuple[Warmup, ...] = ()
    accelerators: tuple[Accelerator, ...] = ()
    plans: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.gpus and self.kind != "KIND_GPU":
            raise ValueError(f"{self.name}: only instances of KIND_GPU name their GPUs")
        if (self.plans or self.profiles) and self.backend != "tensorrt":
            raise ValueError(f"{self.name}: plans and profiles belong to TensorRT")
        if self.accelerators and self.backend != "onnxruntime":
            raise ValueError(f"{self.name}: accelerators belong to ONNX Runtime")
        if self.steps and (self.batching or self.warmup):
            raise ValueError(f"{self.name}: an ensemble neither batches nor warms up")

    def to_proto(self) -> Any:
        """The configuration as Triton's ``ModelConfig`` message."""
        from tritonclient.grpc import model_config_pb2 as pb

        config = pb.ModelConfig(name=self.name, max_batch_size=self.max_batch_size)
        # Other versions may lie beside this one while a server is moved to another bundle.
        config.version_policy.specific.versions.append(self.version)
        for tensor in self.inputs:
            taken = config.input.add(
                name=tensor.name,
                data_type=pb.DataType.Value(tensor.data_type),
                dims=tensor.dims,
                allow_ragged_batch=tensor.ragged,
                optional=tensor.optional,
            )
            if tensor.reshape:
                taken.reshape.shape.extend(tensor.reshape)
        for tensor in self.outputs:
            config.output.add(
                name=tensor.name, data_type=pb.DataType.Value(tensor.data_type), dims=tensor.dims
            )
        if self.steps:
            config.platform = "ensemble"
        else:
            self._add_runtime(config)
        for step in self.steps:
            added = config.ensemble_scheduling.step.add(
                model_name=step.model, model_version=self.version
            )
            added.input_map.update(step.inputs)
            added.output_map.update(step.outputs)
        if self.batching is not None:
            config.max_batch_size = self.max_batch_size or self.batching.batch_size()
            _add_batching(config.dynamic_batching, self.batching)
        if self.cache:
            config.response_cache.enable = True
        for sample in self.warmup:
            request = config.model_warmup.add(name=sample.name, batch_size=sample.batch_size)
            for tensor in self.inputs:
                entry = request.inputs[tensor.name]
                entry.data_type = pb.DataType.Value(tensor.data_type)
                entry.dims.extend(sample.shape)
                entry.zero_data = True
        for key, value in self.parameters.items():
            config.parameters[key].string_value = value
        return config

    def _add_runtime(self, config: Any) -> None:
        """Which backend runs it, where, and with which settings."""
        from tritonclient.grpc import model_config_pb2 as pb

        config.backend = self.backend
        config.platform = _PLATFORMS.get(self.backend, "")
        config.instance_group.add(
            count=self.instances,
            kind=pb.ModelInstanceGroup.Kind.Value(self.kind),
            gpus=self.gpus,
            profile=map(str, self.profiles),
        )
        for accelerator in self.accelerators:
            accelerators = config.optimization.execution_accelerators
            added = accelerators.gpu_execution_accelerator.add(name=accelerator.name)
            added.parameters.update(accelerator.options)
        if self.backend == "tensorrt":
            config.optimization.cuda.graphs = False
        config.cc_model_filenames.update(self.plans)

    def to_pbtxt(self) -> str:
        """The text of ``config.pbtxt``."""
        from google.protobuf import text_format

        text = str(text_format.MessageToString(self.to_proto()))
        for pattern, said in _DECISIONS:
            text = re.sub(pattern, said, text)
        return text


def _add_batching(batcher: Any, policy: Policy) -> None:
    batcher.max_queue_delay_microseconds = policy.max_queue_delay_us
    batcher.priority_levels = BULK
    batcher.default_priority_level = INTERACTIVE
    bulk = batcher.priority_queue_policy[BULK]
    _add_queue(batcher.default_queue_policy, policy.max_queue_size, policy.queue_timeout_us)
    _add_queue(bulk, policy.max_bulk_queue_size, policy.bulk_queue_timeout_us)


def _add_queue(queue: Any, size: int, timeout_us: int) -> None:
    from tritonclient.grpc import model_config_pb2 as pb

    queue.timeout_action = pb.ModelQueuePolicy.REJECT
    queue.default_timeout_microseconds = timeout_us
    queue.allow_timeout_override = True
    queue.max_queue_size = size
