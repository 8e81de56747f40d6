"""The ceilings of a card: what the machine can do at most, in items of what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cliprt._errors import CliprtError
from cliprt_bench._bench_card import Ceiling, Machine, Point, Target
from cliprt_bench._ceilings import KINDS, Item, Rate, as_ceilings, measure
from cliprt_bench._inputs import InputSet
from cliprt_bench._operations import Operations, count_operations
from cliprt_bench._targets import Subject, precisions_of


def bounds_of(
    subject: Subject,
    inputs: InputSet,
    points: Sequence[Point],
    machine: Machine,
    *,
    tell: Callable[[str], None],
    warn: Callable[[str], None],
) -> tuple[tuple[Ceiling, ...], bool]:
    """Measures the ceilings, in items of the towers where the bundle is at hand.

    There are none of a target elsewhere: this machine's say nothing about it. Matrix products of
    the processor are left out where a GPU computes the towers, or may do so.

    Args:
        subject: what was measured.
        inputs: what was embedded.
        points: what came of it.
        machine: this one.
        tell: is told of what was measured.
        warn: is given a sentence if something is left out that failed.

    Returns:
        The ceilings, and whether they are all: after Ctrl-C those that were measured before.
    """
    if subject.target.process == "remote":
        return (), True
    sizes, request = _sizes(subject, points)
    bundle = subject.bundle
    spec = None if bundle is None else bundle.card.image
    kinds = KINDS if computes_on_cpu(subject.target, machine) else ()
    rates: list[Rate] = []
    complete = True
    try:
        for rate in measure(inputs.pictures, spec, kinds=kinds, request=request):
            rates.append(rate)
            tell(f"ceiling: {rate.name}")
        operations = _operations(subject, inputs, points) if kinds else {}
    except KeyboardInterrupt:
        complete, operations = False, {}
    except (CliprtError, OSError) as error:  # what was measured before is worth keeping
        warn(f"not all ceilings were measured: {error}")
        operations = {}
    return as_ceilings(rates, operations=operations, item_bytes=sizes), complete


def computes_on_cpu(target: Target, machine: Machine) -> bool:
    """Whether the processor computes the towers; where nobody tells, if there is no GPU."""
    return target.device == "cpu" or (target.device is None and not machine.gpus)


def _items_of(subject: Subject, points: Sequence[Point]) -> list[Item]:
    """What was measured; without points, one item of each tower."""
    items: list[Item] = [(point.workload.tower, point.workload.text_length) for point in points]
    return list(dict.fromkeys(items)) or [(tower, None) for tower in subject.towers]


def _sizes(
    subject: Subject, points: Sequence[Point]
) -> tuple[dict[Item, float], tuple[int, int] | None]:
    """Bytes of a request per item, the fewest of all batches; of the largest request and answer."""
    sizes: dict[Item, float] = {}
    largest: tuple[int, int] | None = None
    for point in points:
        if "sent_bytes" in point.figures:
            size = point.figures["sent_bytes"].value
            item = (point.workload.tower, point.workload.text_length)
            sizes[item] = min(size, sizes.get(item, size))
            batch = point.workload.batch
            request = max(1, round(size * batch)), 4 * subject.model.dim * batch
            largest = max(largest or request, request)
    return sizes, largest


def _operations(
    subject: Subject, inputs: InputSet, points: Sequence[Point]
) -> dict[Item, Operations]:
    bundle, precisions = subject.bundle, precisions_of(subject)
    found: dict[Item, Operations] = {}
    for tower, length in _items_of(subject, points):
        if bundle is None or tower not in precisions:
            continue
        graph = bundle.path / f"{tower}.{precisions[tower]}.onnx"
        if graph.exists():
            tokens = (length or _tokens(subject, inputs)) if tower == "text" else None
            found[tower, length] = count_operations(graph, length=tokens)
    return found


def _tokens(subject: Subject, inputs: InputSet) -> int:
    """Of a caption, on average."""
    tokenizer = subject.tokenizer()
    assert tokenizer is not None
    lengths = [len(ids) for ids in tokenizer(list(inputs.captions))]
    return max(2, round(sum(lengths) / len(lengths)))
