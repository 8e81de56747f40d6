"""The main job on the demo model: export, serve on a real Triton, embed over gRPC, check answers.

Exits with a status other than 0 if any answer is wrong.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from cliprt import Client
from cliprt._cache_home import cache_home
from cliprt_bench import measure_latency
from cliprt_export import export_checkpoint, read_certificate
from cliprt_triton import TritonServer, write_repository
from heatmap import draw_heatmap

HERE = Path(__file__).parent
PROMPT = "a picture of a {}"


@dataclass(frozen=True)
class Sample:
    """A sample picture.

    Attributes:
        path: its file.
        label: what it shows, among the labels of all samples.
    """

    path: Path
    label: str


@click.command()
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    help="Where bundle, repository and picture go [default: $CLIPRT_HOME/demo].",
)
def main(folder: Path | None) -> None:
    """Run the whole road on the demo model."""
    started = time.monotonic()
    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    work = folder or cache_home() / "demo"
    bundle = export_checkpoint(str(HERE / "checkpoint"), work / "bundle", overwrite=True)
    _say(console, "1. Export", f"demo/checkpoint -> {bundle.path}")
    for tower, precisions in read_certificate(bundle).towers.items():
        for precision, fidelity in precisions.items():
            console.print(
                f"   {tower} tower, {precision}: at most {fidelity.max_abs_diff:.1e} "
                "from the original weights"
            )
    with (
        TemporaryDirectory() as repository,
        TritonServer(write_repository(bundle, Path(repository) / "models", link=True)) as server,
        Client(server.address) as client,
    ):
        _say(console, "2. Serve", f"Triton {client.server_version()} on {server.address}")
        console.print(f"   model {client.card.name}, {client.card.dim} dimensions")
        console.print(f"   space {client.card.space[:16]}…, metrics on {server.metrics_url}")
        wrong = _embed_and_check(console, client, work)
    _say(console, "Done", f"in {time.monotonic() - started:.0f} s, {wrong} wrong answers")
    sys.exit(1 if wrong else 0)


def _embed_and_check(console: Console, client: Client, work: Path) -> int:
    """Runs every use of embeddings and returns how many answers were wrong."""
    samples = _samples()
    labels = sorted({sample.label for sample in samples})
    pictures = client.encode_image([sample.path for sample in samples])
    texts = client.encode_text([PROMPT.format(label) for label in labels])
    _say(console, "3. Embed", f"pictures {list(pictures.shape)}, captions {list(texts.shape)}")
    console.print(f"   {samples[0].path.name}: {_start(pictures[0])}")
    console.print(f"   “{PROMPT.format(labels[0])}”: {_start(texts[0])}")
    wrong = _classify(console, client, samples, labels)
    wrong += _search(console, client, samples, pictures)
    _time(console, client, samples[0].path)
    picture = draw_heatmap(
        [sample.path for sample in samples],
        labels,
        pictures @ texts.T,
        [labels.index(sample.label) for sample in samples],
        work / "similarity.png",
    )
    _say(console, "7. Look", f"similarity of every picture and caption: {picture}")
    return wrong


def _classify(console: Console, client: Client, samples: list[Sample], labels: list[str]) -> int:
    chances = client.classify(
        [sample.path for sample in samples], [PROMPT.format(label) for label in labels]
    )
    table = Table("picture", "best answer", "probability", "right", title=None)
    wrong = 0
    for sample, row in zip(samples, chances, strict=True):
        best = labels[int(row.argmax())]
        right = best == sample.label
        wrong += not right
        mark = "[green]yes[/]" if right else f"[red]no, {sample.label}[/]"
        table.add_row(sample.path.name, best, f"{row.max():.3f}", mark)
    _say(
        console,
        "4. Zero-shot classification",
        f"{len(samples) - wrong} of {len(samples)} right among {len(labels)} labels",
    )
    console.print(table)
    return wrong


def _search(
    console: Console, client: Client, samples: list[Sample], pictures: NDArray[np.float32]
) -> int:
    queries = json.loads((HERE / "pictures" / "queries.json").read_text(encoding="utf-8"))
    similarity = client.encode_text([entry["query"] for entry in queries]) @ pictures.T
    table = Table("query", "best picture", "similarity", "right")
    wrong = 0
    for entry, row in zip(queries, similarity, strict=True):
        best = samples[int(row.argmax())].path.name
        right = best in entry["expected"]
        wrong += not right
        mark = "[green]yes[/]" if right else f"[red]no, {entry['expected'][0]}[/]"
        table.add_row(entry["query"], best, f"{row.max():.3f}", mark)
    _say(console, "5. Search", f"{len(queries) - wrong} of {len(queries)} queries found theirs")
    console.print(table)
    return wrong


def _time(console: Console, client: Client, picture: Path) -> None:
    data = picture.read_bytes()
    spec = client.card.image
    assert spec is not None, "the demo model has both towers"
    pixels = np.zeros((spec.height, spec.width, 3), dtype=np.uint8)
    calls: dict[str, Callable[[], object]] = {
        "one text": lambda: client.encode_text("a picture of a red circle"),
        "one picture, encoded": lambda: client.encode_image(data),
        "one picture, pixels": lambda: client.encode_image(pixels),
    }
    _say(console, "6. Latency", "one caller, client to server and back")
    for name, call in calls.items():
        latency = measure_latency(call)
        console.print(
            f"   {name:<21} p50 {latency.p50_ms:5.2f} ms   p95 {latency.p95_ms:5.2f} ms   "
            f"({latency.samples} calls)"
        )


def _samples() -> list[Sample]:
    entries = json.loads((HERE / "pictures" / "captions.json").read_text(encoding="utf-8"))
    return [Sample(HERE / "pictures" / entry["file"], entry["class"]) for entry in entries]


def _start(vector: NDArray[np.float32]) -> str:
    """The first numbers of an embedding, and how many there are."""
    return f"[{', '.join(f'{value:+.3f}' for value in vector[:4])}, … {vector.size} in all]"


def _say(console: Console, title: str, text: str) -> None:
    console.print(f"[bold]{title}[/]  {text}")


if __name__ == "__main__":
    main()
