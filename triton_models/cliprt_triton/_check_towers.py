"""What a tower that cliprt wrote must be like, and whether it answers as its bundle says."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliprt._bundle import GOLDEN, Bundle
from cliprt._card import Card, decode_card
from cliprt._errors import BundleError
from cliprt._names import (
    CARD_PARAMETER,
    EMBEDDING,
    LENGTHS_PARAMETER,
    PIXELS,
    PRECISION_PARAMETER,
    TOKENS,
    served_version,
)

# Below this an answer is another model's, not the same one's in another precision: the worst int8
# tower that export lets pass is above it.
_LEAST_COSINE = 0.98


def read_card(config: Any) -> Card | None:
    """The card that a configuration carries; None where there is none that can be read.

    Args:
        config: Triton's ``ModelConfig`` message.
    """
    if CARD_PARAMETER not in config.parameters:
        return None
    try:
        text = config.parameters[CARD_PARAMETER].string_value
        return decode_card(text, origin=config.name)
    except BundleError:
        return None


def is_tower(config: Any) -> bool:
    """Whether a model computes embeddings itself. Those around towers carry the card as well.

    Args:
        config: Triton's ``ModelConfig`` message.
    """
    return PRECISION_PARAMETER in config.parameters


def check_tower(config: Any, card: Card) -> list[str]:
    """In what a tower's configuration contradicts its card, or what clients rely on.

    Args:
        config: Triton's ``ModelConfig`` message.
        card: that it carries.
    """
    from tritonclient.grpc import model_config_pb2 as pb

    problems = []
    version, served = served_version(card.space), list(config.version_policy.specific.versions)
    if served != [version]:
        problems.append(f"it serves the versions {served}, those of its space are [{version}]")
    tensors = [
        [(each.name, pb.DataType.Name(each.data_type), list(each.dims)) for each in side]
        for side in (config.input, config.output)
    ]
    expected: list[Any] = []
    if card.image is not None:
        expected.append([(PIXELS, "TYPE_UINT8", [card.image.height, card.image.width, 3])])
    if card.text is not None:
        length = card.text.context_length if card.text.fixed_length else -1
        expected.append([(TOKENS, "TYPE_INT32", [length])])
    if tensors[0] not in expected:
        problems.append(f"its input {tensors[0]} is none of the card's: {expected}")
    if tensors[1] != [(EMBEDDING, "TYPE_FP32", [card.dim])]:
        problems.append(f"its output {tensors[1]} is not an embedding of {card.dim} dimensions")
    if config.max_batch_size < 1:
        problems.append("it takes no batches; max_batch_size must be at least 1")
    batching = config.dynamic_batching
    queues = [batching.default_queue_policy, *batching.priority_queue_policy.values()]
    if not all(queue.max_queue_size for queue in queues):
        problems.append("a queue is not bounded: overload would make every answer late")
    if tensors[0] and tensors[0][0][0] == TOKENS and card.text is not None:
        problems += _check_lengths(config, card.text.context_length)
    return problems


def _check_lengths(config: Any, context: int) -> list[str]:
    text = config.parameters[LENGTHS_PARAMETER].string_value
    parts = text.split(",") if text else []
    if not all(part.isdecimal() for part in parts):
        return [f"{LENGTHS_PARAMETER} is {text!r}, not numbers with commas between them"]
    lengths = [int(part) for part in parts]
    if lengths and (lengths != sorted({*lengths}) or lengths[-1] != context):
        return [f"{LENGTHS_PARAMETER} is {text!r}; it must ascend to the context length {context}"]
    return []


def compare_answers(triton: Any, config: Any, bundle: Bundle) -> tuple[list[str], list[str]]:
    """Sends a bundle's golden inputs, one by one and as a batch.

    Args:
        triton: a connected ``InferenceServerClient``.
        config: Triton's ``ModelConfig`` message of a tower.
        bundle: that the tower is from.

    Returns:
        What was seen, and what was wrong.
    """
    from tritonclient.utils import InferenceServerException

    given = config.input[0].name
    with np.load(bundle.file(GOLDEN)) as golden:
        inputs = golden[given][: config.max_batch_size]
        expected = golden["image_embedding" if given == PIXELS else "text_embedding"]
    expected = expected[: len(inputs)]
    batches = [inputs[index : index + 1] for index in range(len(inputs))]
    try:
        alone = np.concatenate([_infer(triton, config.name, given, batch) for batch in batches])
        together = _infer(triton, config.name, given, inputs)
    except InferenceServerException as error:
        return [], [f"it does not answer the bundle's golden inputs: {error.message()}"]
    worst = float(min(_cosines(alone, expected).min(), _cosines(together, expected).min()))
    said = f"worst cosine {worst:.6f} to {2 * len(inputs)} golden answers"
    # Written so that what is no number is wrong, too.
    if not worst >= _LEAST_COSINE:
        return [], [f"{said}, at least {_LEAST_COSINE} is expected"]
    return [said], []


def _cosines(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    one, other = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines: NDArray[np.float64] = (one * other).sum(axis=1) / lengths
    return cosines


def _infer(triton: Any, model: str, name: str, array: NDArray[Any]) -> NDArray[Any]:
    from tritonclient.grpc import InferInput
    from tritonclient.utils import np_to_triton_dtype

    tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    answer: NDArray[Any] = triton.infer(model, [tensor]).as_numpy(EMBEDDING)
    return answer
