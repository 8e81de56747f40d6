"""What a served model does with more requests than it can answer: `make overload-check`.

`cliprt serve --http` serves ViT-B/32 of drawn weights, with a wait of two seconds. Each way in is
asked at 0.5, 1, 2 and 5 times what it can answer, at random moments (Poisson), whether what was
asked before is answered or not. What it can answer is measured right before and after each point by
callers that wait for their answers, so that what else happens on the machine meets both; figures
are parts of it.

An answer is good if it is right and comes within the deadline, one and a half times the wait, from
the moment its request was due. Right is what LocalClip answers, and no other input's answer.

Pictures and captions mixed are asked at twice the capacity alone.

Ends with status 1 if a promise is broken: at twice the capacity nine tenths as many good answers as
at best; 99 of 100 answers within the deadline; the rest refused as retryable, and at once (99 of
100 within a quarter of a second); nothing wrong and no other failure; ready throughout; after a
storm as quick as before within 2 s, and from then on with three quarters of the capacity at least.
A point that the load generator could not measure counts as broken.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cards import drawn_bundle
from cliprt import Bundle, Client, DeadlineExceeded, Limits, Overloaded, open_bundle
from cliprt._connection import Connection
from cliprt._console import out, print_table
from cliprt._images import preprocess
from cliprt._server_health import check_server
from cliprt_bench._front import OpenAiFront
from cliprt_bench._inputs import drawn_inputs
from cliprt_bench._targets import Ensembles
from cliprt_engines import LocalClip
from storms import Ask, Storm, Way, measured

PICTURES, CAPTIONS = 24, 96
MIXED = "Client, pixels and captions"
LEAST_GOODPUT, JUDGED_AT = 0.9, 2.0
AT_ONCE_S, NEARLY_ALL_AT_ONCE_S = 0.1, 0.25
RECOVERED_S, LEAST_AGAIN = 2.0, 0.75
DEADLINE_IN_WAITS = 1.5

# Whether too many were late is told by the p99.
_EXPECTED = {"good", "late", Overloaded.__name__, DeadlineExceeded.__name__}

# A probe costs what six pictures and seven captions cost.
_FRONT_EVERY_S, _COMMAND_EVERY_S = 4.0, 15.0


@dataclass
class Readiness:
    """What probes said, from one thread each, until it is stopped."""

    said: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0

    @contextmanager
    def watched(self, front: str, address: str) -> Iterator[None]:
        """Asks the front, and the live towers from outside, as long as the block lasts."""
        stop = threading.Event()
        # What is here is asked directly, whatever proxies the environment names.
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def front_says() -> str:
            try:
                with direct.open(f"{front}/health/ready", timeout=30) as answer:
                    return f"front {answer.status}"
            except urllib.error.HTTPError as error:
                return f"front {error.code}"
            except OSError as error:
                return f"front {type(error).__name__}"

        def command_says() -> str:
            return f"health {check_server(address).status}"

        def watch(probe: Callable[[], str], every_s: float) -> None:
            while not stop.wait(every_s):
                begun = time.monotonic()
                self.said[probe()] += 1
                self.slowest_s = max(self.slowest_s, time.monotonic() - begun)

        threads = [
            threading.Thread(target=watch, args=each, daemon=True)
            for each in ((front_says, _FRONT_EVERY_S), (command_says, _COMMAND_EVERY_S))
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)

    @property
    def red(self) -> list[str]:
        """What a sound model should not have said."""
        return sorted(self.said.keys() - {"front 200", "health good", "health busy"})


def broken(way: str, storms: Sequence[Storm], wait_s: float) -> list[str]:
    """The promises that a way does not keep, in words."""
    told = []
    # The best that was seen: the capacity itself is one of them.
    peak = max([1.0, *(each.good for each in storms)])
    for each in storms:
        where = f"{way} at {each.share:g} x"
        if others := each.outcomes.keys() - _EXPECTED:
            told.append(f"{where}: {', '.join(f'{each.outcomes[o]} {o}' for o in sorted(others))}")
        if each.bottleneck:
            # Its figures are those of the load generator.
            told.append(f"{where}: not measured, {each.bottleneck}")
            continue
        if each.share == JUDGED_AT and each.good < LEAST_GOODPUT * peak:
            told.append(f"{where}: goodput {each.good / peak:.2f} of the best, {LEAST_GOODPUT}")
        if each.p99_ms is None or each.p99_ms > DEADLINE_IN_WAITS * wait_s * 1e3:
            p99 = _ms(each.p99_ms)
            told.append(f"{where}: p99 {p99}, {DEADLINE_IN_WAITS * wait_s:g} s")
        for took_ms, percentile, limit_s in (
            (each.refused_p95_ms, "p95", AT_ONCE_S),
            (each.refused_p99_ms, "p99", NEARLY_ALL_AT_ONCE_S),
        ):
            if took_ms is not None and took_ms > limit_s * 1e3:
                told.append(f"{where}: refused after {took_ms:.0f} ms ({percentile}), {limit_s} s")
        if each.share > 1 and each.recovered_s > RECOVERED_S:
            told.append(f"{where}: quick again after {each.recovered_s:.1f} s, {RECOVERED_S} s")
        if each.share > 1 and each.again < LEAST_AGAIN:
            told.append(f"{where}: then {each.again:.2f} of the capacity before, {LEAST_AGAIN}")
    return told


@dataclass(frozen=True)
class Served:
    """A running `cliprt serve --http`."""

    address: str
    front: str


@contextmanager
def served(bundle: Bundle, precision: str, wait_s: float) -> Iterator[Served]:
    """Serves a bundle until the block ends."""
    command = [
        sys.executable, "-m", "cliprt", "serve", str(bundle.path), "--http", "--precision",
        precision, "--max-wait", str(wait_s), "--grpc-port", "0", "--metrics-port", "0",
        "--openai-port", "0",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline().split() for _ in range(5)]
            told = {line[0]: line[1] for line in lines[1:] if len(line) == 2}
            if not {"grpc", "openai"} <= told.keys():
                raise SystemExit("cliprt serve did not start; it said why above")
            yield Served(told["grpc"], told["openai"])
        finally:
            process.terminate()


def ways(
    bundle: Bundle, precision: str, found: Served, deadline_s: float, stack: ExitStack
) -> list[Way]:
    """Every way in, with what it has to answer."""
    inputs = drawn_inputs(PICTURES, CAPTIONS)
    spec = bundle.card.image
    assert spec is not None
    pixels = [preprocess(file, spec, Limits()) for file in inputs.pictures]
    with LocalClip(bundle, precision=precision) as local:  # type: ignore[arg-type]
        images, texts = local.encode_image(inputs.pictures), local.encode_text(inputs.captions)
    connection = Connection(found.address, retry=None)
    client = stack.enter_context(Client(connection, timeout_s=deadline_s))
    ensembles, front = Ensembles(connection), OpenAiFront(found.front)
    stack.callback(ensembles.close)
    stack.callback(front.close)

    def either(items: Sequence[Any]) -> NDArray[np.float32]:
        caption = isinstance(items[0], str)
        return client.encode_text(items) if caption else client.encode_image(items)

    made: list[tuple[str, Ask, Sequence[Any], NDArray[np.float32]]] = [
        ("Client, pixels", client.encode_image, pixels, images),
        ("Client, captions", client.encode_text, inputs.captions, texts),
        ("Triton, files", ensembles.images, inputs.pictures, images),
        ("Triton, captions", ensembles.texts, inputs.captions, texts),
        ("OpenAI, files", front.images, inputs.pictures, images),
        ("OpenAI, captions", front.texts, inputs.captions, texts),
        (MIXED, either, *_dealt(pixels, images, inputs.captions, texts)),
    ]

    def of(name: str, ask: Ask, items: Sequence[Any], expected: NDArray[np.float32]) -> Way:
        # Halfway to the most similar other item: below it an answer may be another item's.
        similar = expected @ expected.T
        np.fill_diagonal(similar, -1.0)
        return Way(name, lambda item: ask([item]), items, expected, (1 + float(similar.max())) / 2)

    return [of(*each) for each in made]


def _dealt(
    pixels: Sequence[Any],
    images: NDArray[np.float32],
    captions: Sequence[str],
    texts: NDArray[np.float32],
) -> tuple[list[Any], NDArray[np.float32]]:
    """Each picture followed by as many captions as there are for it, with all their answers."""
    each = len(captions) // len(pixels)
    items: list[Any] = []
    rows: list[NDArray[np.float32]] = []
    for number, picture in enumerate(pixels):
        its = slice(each * number, each * (number + 1))
        items += [picture, *captions[its]]
        rows += [images[number], *texts[its]]
    return items, np.stack(rows)


def _ms(value: float | None) -> str:
    return "never" if value is None else f"{value:.0f} ms"


def show(name: str, storms: Sequence[Storm]) -> None:
    """Prints what was seen of a way."""
    peak = max([1.0, *(each.good for each in storms)])
    out().print(f"\n{name}", highlight=False)
    columns = (
        "x", "capacity/s", "came/s", "good/s", "of best", "p50", "p99", "refused p50, ms",
        "p95, ms", "p99, ms", "quick after", "capacity then", "outcomes",
    )  # fmt: skip
    rows = []
    for each in storms:
        refused = [each.refused_p50_ms, each.refused_p95_ms, each.refused_p99_ms]
        rows.append(
            [
                f"{each.share:g}",
                *(f"{value:.1f}" for value in (each.capacity_s, each.offered_s, each.good_s)),
                f"{each.good / peak:.2f}",
                _ms(each.p50_ms),
                _ms(each.p99_ms),
                *("" if value is None else f"{value:.1f}" for value in refused),
                f"{each.recovered_s:.2f} s",
                f"{each.again:.2f}",
                ", ".join(f"{number} {name}" for name, number in each.outcomes.items()),
            ]
        )
    print_table(columns, rows)
    for each in storms:
        if each.bottleneck:
            out().print(f"at {each.share:g} x: {each.bottleneck}", highlight=False)


def main() -> None:
    """Measures all ways, prints tables, and says which promises are broken."""
    parser = argparse.ArgumentParser(description="A served model under more than it can answer.")
    parser.add_argument("--bundle", type=Path, help="serve this one [default: a drawn ViT-B/32]")
    parser.add_argument("--precision", choices=("fp32", "int8-cpu"), default="fp32")
    parser.add_argument("--max-wait", type=float, default=2.0, help="that the server is given, s")
    parser.add_argument("--shares", default="0.5,1,2,5", help="of the capacity")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a point")
    parser.add_argument("--ways", default="", help="only those whose name holds this")
    parser.add_argument("--json", type=Path, help="keep everything here as well")
    arguments = parser.parse_args()
    shares = [float(share) for share in arguments.shares.split(",")]
    bundle = drawn_bundle() if arguments.bundle is None else open_bundle(arguments.bundle)
    wait_s = arguments.max_wait
    told: list[str] = []
    kept: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "max_wait_s": wait_s}
    kept |= {"precision": arguments.precision, "model": bundle.card.name, "ways": {}}
    readiness = Readiness()
    with ExitStack() as stack:
        found = stack.enter_context(served(bundle, arguments.precision, wait_s))
        everyone = ways(bundle, arguments.precision, found, DEADLINE_IN_WAITS * wait_s, stack)
        with readiness.watched(found.front, found.address):
            for way in everyone:
                if arguments.ways in way.name:
                    storms = measured(
                        way,
                        [JUDGED_AT] if way.name == MIXED else shares,
                        arguments.seconds,
                        deadline_s=DEADLINE_IN_WAITS * wait_s,
                    )
                    kept["ways"][way.name] = [asdict(each) for each in storms]
                    told += broken(way.name, storms, wait_s)
                    show(way.name, storms)
    told += [f"readiness: {readiness.said[said]} x {said}" for said in readiness.red]
    said = ", ".join(f"{number} x {name}" for name, number in sorted(readiness.said.items()))
    out().print(
        f"\nprobes meanwhile: {said}; the slowest took {readiness.slowest_s:.1f} s", highlight=False
    )
    kept |= {"probes": dict(readiness.said), "broken": told}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    for line in told:
        out().print(f"BROKEN {line}", highlight=False)
    sys.exit(1 if told else 0)


if __name__ == "__main__":
    main()
