"""How much of LocalClip's speed a served model keeps on the CPU: `make serve-check`.

One run on one machine with ViT-B/32 of drawn weights, in the same precision and with the same
measured settings on both sides. The client has a process of its own and shares the cores with the
server, as it would not in production. Rounds are interleaved, so that what else happens on the
machine meets all ways of asking; a figure is the median of its rounds, a ratio that of the ratios
to LocalClip in the same round.

Where the rest goes is told twice: what Triton counted for a request, and processor time for an item
by whom it was spent. The latter hardly depends on what else runs on the machine: LocalClip's own
divided by the sum of the server's and the client's is the ratio where all cores are busy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import InferenceServerClient

from cliprt import Bundle, Client, open_bundle
from cliprt_bench._inputs import long_captions
from cliprt_engines import LocalClip, chosen_settings
from cliprt_export import export_random
from cliprt_triton import TritonServer, write_repository

ARCHITECTURE = "ViT-B-32"
PRECISIONS = ("fp32", "int8-cpu")
# Items of the calls by which LocalClip is measured: what it is quickest with.
LOCAL = {"image": 64, "text": 512}
PAUSE_S = 0.2


@dataclass(frozen=True)
class Way:
    """A way of asking the server.

    Attributes:
        name: for people.
        tower: ``image`` or ``text``.
        items: of a call.
        callers: threads that call one after the other.
        goal: the least part of LocalClip's speed that is promised.
    """

    name: str
    tower: str
    items: int
    callers: int
    goal: float


# Batches come three at once: so many requests one call of the client keeps under way.
WAYS = (
    Way("batches of 16 pictures", "image", 16, 3, 0.9),
    Way("single pictures", "image", 1, 32, 0.8),
    Way("batches of 16 captions", "text", 16, 3, 0.75),
    Way("single captions", "text", 1, 32, 0.5),
)


@dataclass(frozen=True)
class Counted:
    """What Triton counted of a tower, per request, in milliseconds.

    Attributes:
        requests: how many it answered.
        batch: items of an execution.
        queue: in the queue.
        input: until the model had the input.
        infer: in the model.
        output: until the answer was out.
    """

    requests: int
    batch: float
    queue: float
    input: float
    infer: float
    output: float


def pictures(kind: str) -> list[Any]:
    """Pictures as callers have them.

    Args:
        kind: ``jpeg`` for encoded ones of 640 x 480, ``pixels`` for arrays of the tower's size.
    """
    random = np.random.Generator(np.random.PCG64(2))
    if kind == "pixels":
        return [random.integers(0, 256, (224, 224, 3), dtype=np.uint8) for _ in range(64)]
    found = []
    for _ in range(64):
        coarse = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        file = BytesIO()
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found


def rate(call: Callable[[list[Any]], Any], way: Way, items: list[Any], seconds: float) -> float:
    """Items in a second, by several callers for about some seconds."""
    ends = time.monotonic() + seconds

    def caller(number: int) -> int:
        done, first = 0, number * way.items
        while time.monotonic() < ends:
            call([items[(first + index) % len(items)] for index in range(way.items)])
            done += way.items
            first += way.items * way.callers
        return done

    begun = time.monotonic()
    with ThreadPoolExecutor(way.callers) as pool:
        done = sum(pool.map(caller, range(way.callers)))
    return done / (time.monotonic() - begun)


def serve_orders(pipe: Connection, address: str, kind: str) -> None:
    """The client's process: asks as it is told until it is told nothing."""
    items = {"image": pictures(kind), "text": long_captions(512)}
    with Client(address) as client:
        calls = {"image": client.encode_image, "text": client.encode_text}
        while order := pipe.recv():
            way, seconds = order
            pipe.send(rate(calls[way.tower], way, items[way.tower], seconds))


@contextmanager
def client_process(address: str, kind: str) -> Iterator[tuple[Connection, int]]:
    """A client in a process of its own: where it takes orders, and its number."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve_orders, args=(theirs, address, kind), daemon=True)
    process.start()
    try:
        assert process.pid is not None
        yield ours, process.pid
        ours.send(None)
        process.join(10)
    finally:
        process.kill()


def serving_processes(address: str) -> dict[str, int]:
    """The numbers of the server's processes: Triton itself and each of its models."""
    port, found = f"--grpc-port={address.rpartition(':')[2]}", {}
    commands = {}
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit():
                commands[int(folder.name)] = (folder / "cmdline").read_text().split("\0")
    (triton,) = (number for number, command in commands.items() if port in command)
    found["Triton"] = triton
    for line in Path(f"/proc/{triton}/task").glob("*/children"):
        for number in map(int, line.read_text().split()):
            model = next(part for part in commands.get(number, ["?"]) if "/model.py" in part)
            found.setdefault(Path(model).parent.parent.name, number)
    return found


def processor_s(number: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def totals(raw: InferenceServerClient, model: str) -> dict[str, int]:
    """What Triton has counted of a model since it started."""
    found = raw.get_inference_statistics(model, as_json=True)["model_stats"][0]
    times = {
        name: int(found["inference_stats"][key].get("ns", 0))
        for name, key in (
            ("queue", "queue"),
            ("input", "compute_input"),
            ("infer", "compute_infer"),
            ("output", "compute_output"),
        )
    }
    return {
        **times,
        "requests": int(found["inference_stats"]["success"].get("count", 0)),
        "items": int(found.get("inference_count", 0)),
        "executions": int(found.get("execution_count", 0)),
    }


def counted(before: dict[str, int], after: dict[str, int]) -> Counted:
    """What happened between two looks at the statistics."""
    more = {key: after[key] - before[key] for key in after}
    requests = max(more["requests"], 1)
    each = {key: more[key] / requests / 1e6 for key in ("queue", "input", "infer", "output")}
    return Counted(
        requests=more["requests"], batch=more["items"] / max(more["executions"], 1), **each
    )


class Seen:
    """What was seen of LocalClip or of a way of asking, round by round."""

    def __init__(self) -> None:
        self.per_s: list[float] = []
        self.ratios: list[float] = []
        self.processor_ms: list[dict[str, float]] = []
        self.triton: list[Counted] = []

    def used_ms(self) -> dict[str, float]:
        """Processor time of an item by whom it was spent, in milliseconds."""
        return {
            name: statistics.median(each[name] for each in self.processor_ms)
            for name in self.processor_ms[0]
        }


@contextmanager
def watched(processes: dict[str, int], found: dict[str, float]) -> Iterator[None]:
    """Puts down how much processor time processes use meanwhile, in seconds."""
    before = {name: processor_s(number) for name, number in processes.items()}
    yield
    found.update({name: processor_s(processes[name]) - begun for name, begun in before.items()})


def compare(
    bundle: Bundle, precision: str, kind: str, rounds: int, seconds: float
) -> dict[str, Any]:
    """Measures one precision, in rounds in which everybody has a turn."""
    settings = {tower: chosen_settings(bundle, tower, precision) for tower in LOCAL}
    items = {"image": pictures(kind), "text": long_captions(LOCAL["text"])}
    seen = {name: Seen() for name in (*LOCAL, *(way.name for way in WAYS))}
    with tempfile.TemporaryDirectory() as work:
        repository = write_repository(
            bundle, Path(work) / "models", precision=precision, settings=settings, link=True
        )
        with (
            TritonServer(repository) as server,
            InferenceServerClient(server.address) as raw,
            client_process(server.address, kind) as (client, number),
            LocalClip(bundle, precision=precision) as local,  # type: ignore[arg-type]
        ):
            calls = {"image": local.encode_image, "text": local.encode_text}
            served = {"client": number, **serving_processes(server.address)}

            def turn(way: Way, processes: dict[str, int], ask: Callable[[], float]) -> float:
                used: dict[str, float] = {}
                time.sleep(PAUSE_S)
                begun = time.monotonic()
                with watched(processes, used):
                    found = ask()
                done = found * (time.monotonic() - begun)
                seen[way.name].per_s.append(found)
                each = {name: spent / done * 1e3 for name, spent in used.items()}
                seen[way.name].processor_ms.append(each)
                return found

            for tower in LOCAL:
                alone = Way(tower, tower, LOCAL[tower], 1, 1)
                ways = [way for way in WAYS if way.tower == tower]
                model = f"clip_{tower}"
                towers = {"client": number, "Triton": served["Triton"], "tower": served[model]}

                def ask(way: Way) -> float:
                    client.send((way, seconds))
                    return float(client.recv())

                rate(calls[tower], alone, items[tower], seconds / 2)
                for way in ways:  # first calls warm up
                    ask(way)
                for _ in range(rounds):
                    run = partial(rate, calls[tower], alone, items[tower], seconds)
                    base = turn(alone, {"LocalClip": os.getpid()}, run)
                    for way in ways:
                        before = totals(raw, model)
                        found = turn(way, towers, partial(ask, way))
                        seen[way.name].ratios.append(found / base)
                        seen[way.name].triton.append(counted(before, totals(raw, model)))
    return {
        "precision": precision,
        "pictures": kind,
        "settings": {tower: repr(settings[tower]) for tower in LOCAL},
        "local": {
            tower: {"per_s": seen[tower].per_s, "processor_ms": seen[tower].used_ms()}
            for tower in LOCAL
        },
        "ways": [row(way, seen[way.name], seen[way.tower]) for way in WAYS],
    }


def row(way: Way, seen: Seen, local: Seen) -> dict[str, Any]:
    """What was seen of a way of asking, beside LocalClip."""
    used = seen.used_ms()
    columns = asdict(seen.triton[0])
    return {
        **asdict(way),
        "per_s": seen.per_s,
        "ratios": seen.ratios,
        "ratio": statistics.median(seen.ratios),
        "processor_ms": used,
        "processor_ratio": local.used_ms()["LocalClip"] / sum(used.values()),
        "triton": {
            name: statistics.median(getattr(each, name) for each in seen.triton) for name in columns
        },
    }


def show(found: dict[str, Any]) -> None:
    """Prints what was seen of a precision."""
    console = Console(width=150)
    local = found["local"]
    rates = {tower: statistics.median(each["per_s"]) for tower, each in local.items()}
    used = {tower: each["processor_ms"]["LocalClip"] for tower, each in local.items()}
    console.print(
        f"\n{found['precision']}, {found['pictures']}: LocalClip {rates['image']:.1f} pictures/s "
        f"({used['image']:.1f} ms of processor time each), {rates['text']:.0f} captions/s "
        f"({used['text']:.2f} ms each)",
        highlight=False,
    )
    table = Table()
    for column in ("", "items/s", "of LocalClip", "rounds", "goal", "by processor time"):
        table.add_column(column, justify="left" if not column else "right")
    for column in ("client", "Triton", "tower"):
        table.add_column(f"{column}, ms/item", justify="right")
    for column in ("batch", "queue", "input", "infer", "output"):
        table.add_column(column, justify="right")
    for way in found["ways"]:
        triton, spent = way["triton"], way["processor_ms"]
        table.add_row(
            way["name"],
            f"{statistics.median(way['per_s']):.1f}",
            f"{way['ratio']:.2f}",
            f"{min(way['ratios']):.2f} to {max(way['ratios']):.2f}",
            f"{way['goal']}",
            f"{way['processor_ratio']:.2f}",
            *(f"{spent[name]:.2f}" for name in ("client", "Triton", "tower")),
            f"{triton['batch']:.1f}",
            *(f"{triton[key]:.1f}" for key in ("queue", "input", "infer", "output")),
        )
    console.print(table)
    console.print("queue to output: ms of a request in Triton\n", highlight=False)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description="A served model beside LocalClip on this CPU.")
    parser.add_argument("--bundle", type=Path, help="of ViT-B/32; made if it is not there")
    parser.add_argument("--precision", choices=PRECISIONS, action="append")
    parser.add_argument("--pictures", choices=("jpeg", "pixels"), default="jpeg")
    parser.add_argument("--rounds", type=int, default=5, help="how often all have a turn")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn")
    parser.add_argument("--json", action="store_true", help="for machines")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.bundle or Path(temporary) / "bundle"
        if folder.exists():
            bundle = open_bundle(folder)
        else:
            bundle = export_random(ARCHITECTURE, folder, precisions=PRECISIONS)
        found = [
            compare(bundle, precision, arguments.pictures, arguments.rounds, arguments.seconds)
            for precision in arguments.precision or PRECISIONS
        ]
    if arguments.json:
        print(json.dumps({"cores": len(os.sched_getaffinity(0)), "found": found}, indent=2))
    else:
        for each in found:
            show(each)


if __name__ == "__main__":
    main()
