"""Triton model configurations as typed values, written through Triton's own protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

DataType: TypeAlias = Literal["TYPE_UINT8", "TYPE_INT32", "TYPE_FP32", "TYPE_STRING"]


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    Attributes:
        name: its name.
        data_type: Triton's name of the element type.
        dims: shape without the batch dimension; -1 is dynamic.
        ragged: requests may be batched although their shapes differ (inputs only).
    """

    name: str
    data_type: DataType
    dims: tuple[int, ...]
    ragged: bool = False


@dataclass(frozen=True)
class Batching:
    """Dynamic batching and its queue.

    Attributes:
        max_batch_size: items of one execution.
        max_queue_delay_us: how long a request may wait for company, in microseconds. Requests
            that arrive while an instance is busy are batched without any delay.
        max_queue_size: requests that may wait; one more is refused at once.
        queue_timeout_us: a request that waited longer is refused instead of computed.
    """

    max_batch_size: int = 64
    max_queue_delay_us: int = 500
    max_queue_size: int = 512
    queue_timeout_us: int = 60_000_000

    def __post_init__(self) -> None:
        if self.max_batch_size < 1 or self.max_queue_size < 1 or self.queue_timeout_us < 1:
            raise ValueError(f"batch size, queue size and queue timeout must be positive: {self}")
        if self.max_queue_delay_us < 0:
            raise ValueError(f"max_queue_delay_us must not be negative: {self}")


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
class ModelConfig:
    """A model of Triton's Python backend, or an ensemble.

    Attributes:
        name: the model's name, also that of its folder.
        version: its version, also the name of the folder in its folder.
        inputs: its inputs.
        outputs: its outputs.
        steps: of an ensemble, whose models must have the same version; empty for other models.
        instances: how many of it run at once; ensembles have none.
        max_batch_size: items of a request of an ensemble; other models take it from batching.
        batching: None for a model that takes one request at a time.
        warmup: requests answered before the model is ready.
        parameters: strings that clients and ``model.py`` read.
    """

    name: str
    version: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    steps: tuple[Step, ...] = ()
    instances: int = 1
    max_batch_size: int = 0
    batching: Batching | None = None
    warmup: tuple[Warmup, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)

    def to_proto(self) -> Any:
        """The configuration as Triton's ``ModelConfig`` message."""
        from tritonclient.grpc import model_config_pb2 as pb

        config = pb.ModelConfig(name=self.name, max_batch_size=self.max_batch_size)
        # Other versions may lie beside this one while a server is moved to another bundle.
        config.version_policy.specific.versions.append(self.version)
        for tensor in self.inputs:
            config.input.add(
                name=tensor.name,
                data_type=pb.DataType.Value(tensor.data_type),
                dims=tensor.dims,
                allow_ragged_batch=tensor.ragged,
            )
        for tensor in self.outputs:
            config.output.add(
                name=tensor.name, data_type=pb.DataType.Value(tensor.data_type), dims=tensor.dims
            )
        if self.steps:
            config.platform = "ensemble"
        else:
            config.backend = "python"
            config.instance_group.add(count=self.instances, kind=pb.ModelInstanceGroup.KIND_CPU)
        for step in self.steps:
            added = config.ensemble_scheduling.step.add(
                model_name=step.model, model_version=self.version
            )
            added.input_map.update(step.inputs)
            added.output_map.update(step.outputs)
        if self.batching is not None:
            config.max_batch_size = self.batching.max_batch_size
            batcher = config.dynamic_batching
            batcher.max_queue_delay_microseconds = self.batching.max_queue_delay_us
            policy = batcher.default_queue_policy
            policy.timeout_action = pb.ModelQueuePolicy.REJECT
            policy.default_timeout_microseconds = self.batching.queue_timeout_us
            policy.allow_timeout_override = True
            policy.max_queue_size = self.batching.max_queue_size
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

    def to_pbtxt(self) -> str:
        """The text of ``config.pbtxt``."""
        from google.protobuf import text_format

        return str(text_format.MessageToString(self.to_proto()))
