"""Who is compared with cliprt: adapter, environment, settings, and how alike answers must be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

OWN = "cliprt"
REFERENCE = "transformers float32"

POINTS = (("image", 1), ("image", 16), ("text", 1), ("text", 64))
"""What is measured: kind, and items in a request."""

SINGLE = tuple(point for point in POINTS if point[1] == 1)
MANY = tuple(point for point in POINTS if point[1] > 1)

# The least cosine of an item to the reference's answer. An embedding below it is another answer.
EXACT, BFLOAT16, INT8 = 0.999, 0.99, 0.98


@dataclass(frozen=True)
class Entry:
    """One line of the table.

    Attributes:
        name: of the line.
        adapter: a file of ``adapters`` without ``.py``.
        environment: of ``requirements``; ``cliprt`` is the one that this program runs in.
        settings: the adapter's keyword arguments; ``{checkpoint}``, ``{bundle}`` and ``{graphs}``
            in them are replaced by folders.
        bar: least cosine of an item to the reference's answer.
        remark: what a reader has to know.
        points: at which it is measured.
    """

    name: str
    adapter: str
    environment: str
    settings: Mapping[str, str] = field(default_factory=dict)
    bar: float = EXACT
    remark: str = ""
    points: tuple[tuple[str, int], ...] = POINTS

    def filled(self, folders: Mapping[str, Path]) -> dict[str, str]:
        """Settings with the folders in them."""
        return {key: value.format_map(folders) for key, value in self.settings.items()}


_CHECKPOINT = {"checkpoint": "{checkpoint}"}
_GRAPHS = {**_CHECKPOINT, "graphs": "{graphs}"}
_HALF = {"dtype": "bfloat16"}
_LONGEST = {"padding": "longest"}

# Settings of many items at once leave a core idle when a single one is asked for, and the other way
# round: as its documents tell, LocalClip is opened for what it will be asked.
OWN_ENTRIES = tuple(
    Entry(
        f"cliprt {precision}" if goal == "throughput" else f"cliprt {precision}, goal {goal}",
        "cliprt",
        OWN,
        {"bundle": "{bundle}", "precision": precision, "goal": goal},
        bar=bar,
        points=points,
    )
    for precision, bar in (("fp32", EXACT), ("int8-cpu", INT8))
    for goal, points in (("throughput", MANY), ("latency", SINGLE))
)

RIVALS = (
    Entry(REFERENCE, "transformers", "transformers", _CHECKPOINT, remark="texts filled up to 77"),
    Entry(
        "transformers float32, unpadded",
        "transformers",
        "transformers",
        {**_CHECKPOINT, **_LONGEST},
        remark="texts filled up to the longest of the request",
    ),
    Entry(
        "transformers bfloat16",
        "transformers",
        "transformers",
        {**_CHECKPOINT, **_HALF},
        bar=BFLOAT16,
        remark="texts filled up to 77",
    ),
    Entry(
        "transformers bfloat16, unpadded",
        "transformers",
        "transformers",
        {**_CHECKPOINT, **_HALF, **_LONGEST},
        bar=BFLOAT16,
        remark="texts filled up to the longest of the request",
    ),
    Entry(
        "ONNX Runtime, plain",
        "onnxruntime",
        "onnx",
        {**_GRAPHS, **_LONGEST},
        remark="torch's export by tracing, default options, texts filled up to the longest",
    ),
    Entry(
        "OpenVINO, plain",
        "openvino",
        "onnx",
        {**_GRAPHS, **_LONGEST},
        bar=BFLOAT16,
        remark="of the same graphs; computes in bfloat16 where the processor can",
    ),
    Entry("sentence-transformers", "sentence_transformers", "sentence-transformers", _CHECKPOINT),
    Entry(
        "infinity",
        "infinity",
        "infinity",
        _CHECKPOINT,
        remark="its server, torch engine, over HTTP; an older transformers, which it asks for",
    ),
)
"""All that answer single requests. Batch work is in `rivals.batch_work`."""
