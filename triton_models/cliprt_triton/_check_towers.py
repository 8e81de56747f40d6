"""What a tower that cliprt wrote must be like, and whether it answers as its bundle says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from cliprt._bundle import Bundle
from cliprt._card import Card
from cliprt._errors import BundleError, CliprtError, ServerError
from cliprt._health import LiveTower, Question, check_towers, in_words
from cliprt._known import Known, bar_of_folder
from cliprt._names import (
    EMBEDDING,
    LENGTHS_PARAMETER,
    PIXELS,
    PRECISION_PARAMETER,
    TOKENS,
    served_version,
)
from cliprt._served_bundle import carried_card
from cliprt._texts import parse_lengths

# Of what is looked at, what is told where all is well.
_SAID = "known answers"


def read_card(config: Any) -> Card | None:
    """The card that a configuration carries; None where there is none that can be read.

    Args:
        config: Triton's ``ModelConfig`` message.
    """
    try:
        return carried_card(config, config.name)
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
        # Triton's cache hashes what tensors hold, and not their shapes, which must be one.
        one = card.text.fixed_length or config.response_cache.enable
        length = card.text.context_length if one else -1
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
    try:
        lengths = parse_lengths(text)
    except ValueError:
        lengths = (0,)
    if lengths and lengths[-1] != context:
        return [f"{LENGTHS_PARAMETER} is {text!r}; it must ascend to the context length {context}"]
    return []


def compare_answers(
    triton: Any, config: Any, bundle: Bundle, precision: str
) -> tuple[list[str], list[str]]:
    """Asks a tower for a bundle's known answers, as its health would be.

    Args:
        triton: a connected ``InferenceServerClient``.
        config: Triton's ``ModelConfig`` message of a tower in which ``check_tower`` found nothing.
        bundle: that the tower is from.
        precision: in which it is computed here.

    Returns:
        What was seen, and what was wrong.
    """
    given = config.input[0].name
    tower = "image" if given == PIXELS else "text"
    text = bundle.card.text if tower == "text" else None
    lengths = config.parameters[LENGTHS_PARAMETER].string_value if text else ""
    try:
        live = LiveTower(
            name=tower,
            known=Known.of(bundle.path, tower),
            bar=bar_of_folder(bundle.path, tower, precision),
            max_batch=config.max_batch_size,
            text=text,
            lengths=parse_lengths(lengths),
        )
    except BundleError as error:
        return [], [str(error)]

    def ask(questions: Sequence[Question]) -> list[NDArray[Any] | CliprtError]:
        return [_infer(triton, config.name, given, each.batch) for each in questions]

    checks = check_towers([live], ask, thorough=True)
    if wrong := [in_words(check) for check in checks if check.verdict != "good"]:
        return [], wrong
    return [f"{check.what}: {check.found}" for check in checks if check.what == _SAID], []


def _infer(triton: Any, model: str, name: str, array: NDArray[Any]) -> NDArray[Any] | CliprtError:
    from tritonclient.grpc import InferInput
    from tritonclient.utils import InferenceServerException, np_to_triton_dtype

    tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    try:
        answer: NDArray[Any] = triton.infer(model, [tensor]).as_numpy(EMBEDDING)
    except InferenceServerException as error:
        return ServerError(str(error.message()))
    return answer
