"""The card of a measurement: one JSON file that says what was measured, where, how, and the result.

Cards of different machines are compared by ``cliprt bench compare``, so everything that decides
whether they may be is in here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from cliprt._errors import CliprtError
from cliprt._folders import write_whole
from cliprt._json import UnreadableJson, read_json
from cliprt_bench._figures import Figure

SCHEMA = 1
"""Version of the layout. A reader refuses any other."""

Kind: TypeAlias = Literal["latency", "throughput", "load", "stages", "startup"]
Loop: TypeAlias = Literal["closed", "open"]
Tower: TypeAlias = Literal["image", "text"]


class BenchCardError(CliprtError):
    """A card cannot be read, or cards cannot be compared."""


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value object whose JSON form must match exactly."""


class Gpu(_Record, frozen=True):
    """A GPU that the measurement could use.

    Attributes:
        name: as its driver tells it.
        memory_mb: in mebibytes.
        driver: its version.
        clock_mhz: of the multiprocessors while points were measured, the highest average of them;
            None if it was not read.
        power_limit_w: if it was read.
    """

    name: str
    memory_mb: int
    driver: str
    clock_mhz: int | None = None
    power_limit_w: float | None = None


class Machine(_Record, frozen=True):
    """Where it was measured. Nothing in it names the machine or its user.

    Of a target elsewhere (``remote``) this is the machine of the load generator. ``cpu`` then says
    so, and what would be taken for the target's is left out: ``features``, ``clock_mhz``, ``gpus``.

    Attributes:
        cpu: model name.
        cores: that the process may use.
        features: instruction sets that decide the speed of products, of those that are there:
            ``avx2``, ``avx512f``, ``avx512_vnni``, ``avx512_bf16``, ``amx_int8`` and the like.
        clock_mhz: of the cores at the beginning, if the system tells.
        memory_mb: in mebibytes.
        system: operating system and version of its kernel.
        python: version.
        libraries: versions of what computes and carries, by name of the distribution.
        gpus: those that are visible.
        load: runnable processes per core, besides this one, when the measurement began.
    """

    cpu: str
    cores: int
    features: tuple[str, ...]
    clock_mhz: float | None
    memory_mb: int
    system: str
    python: str
    libraries: dict[str, str]
    gpus: tuple[Gpu, ...]
    load: float


class Target(_Record, frozen=True):
    """What was measured.

    Attributes:
        kind: ``local`` (LocalClip in this process), ``served`` (towers over gRPC), ``ensemble``
            (encoded pictures and strings over gRPC), ``openai`` (the HTTP front), or ``rival``.
        name: of the software, with its version where it is not cliprt's.
        runtime: what computes the towers, if it is known.
        precision: of the towers, those that differ with a + between them; None if it is not known.
        settings: of the runtime, in words.
        process: whether it was in the process of the load generator (``own``), in another one on
            the same machine, or elsewhere (``remote``).
        precisions: by tower, where they are known.
        device: what computes the towers; None if it is not known.
    """

    kind: Literal["local", "served", "ensemble", "openai", "rival"]
    name: str
    runtime: str | None
    precision: str | None
    settings: dict[str, str]
    process: Literal["own", "other", "remote"]
    precisions: dict[str, str] = msgspec.field(default_factory=dict)
    device: Literal["cpu", "gpu"] | None = None


class Model(_Record, frozen=True):
    """Which weights.

    Attributes:
        name: of the model.
        space: of its embeddings, hexadecimal: equal spaces, comparable figures.
        dim: length of an embedding.
    """

    name: str
    space: str
    dim: int


class Fidelity(_Record, frozen=True):
    """How far a tower in this precision is from the original weights, as its certificate says.

    Attributes:
        p01_cosine: 99 of 100 items have a greater cosine to the reference.
        mean_cosine: of all items.
        neighbours: share of the ten nearest neighbours that stay, 0 to 1.
        top1_loss: points of zero-shot accuracy that are lost; None where there were no labels.
    """

    p01_cosine: float
    mean_cosine: float
    neighbours: float | None
    top1_loss: float | None


class Inputs(_Record, frozen=True):
    """What was embedded. Cards of other inputs are not compared.

    Attributes:
        described: in words: number, format and size of the pictures, kind of the captions.
        sha256: over all of them, hexadecimal.
    """

    described: str
    sha256: str


class Method(_Record, frozen=True):
    """How it was measured.

    Attributes:
        warmup_s: seconds before the first repeat that were thrown away; of an open loop before
            each one, and more of them at low rates, so that queues fill.
        repeat_s: seconds of a repeat, at least.
        repeats: how often each point was measured. Points take turns, so that what else happens
            on the machine meets all alike.
        seed: of arrival times and of the order of inputs.
        command: that measured it, without paths and addresses.
    """

    warmup_s: float
    repeat_s: float
    repeats: int
    seed: int
    command: str


class Workload(_Record, frozen=True):
    """One point of the matrix: what is asked, and how often.

    Attributes:
        tower: which one.
        batch: items of a request.
        concurrency: callers of a closed loop, each of which asks again when it is answered; the
            most requests under way in an open one.
        loop: ``closed``, or ``open``: requests come when they come (Poisson), answered or not.
        rate: of an open loop, requests per second that come on average; None where a share was
            asked for.
        share: of an open loop, the rate as a part of what a closed loop of 16 callers reached on
            the machine; then the figure ``capacity_s`` tells the items of that in a second.
        text_length: tokens of each text; None for pictures, and for captions as they come.
    """

    tower: Tower
    batch: int
    concurrency: int
    loop: Loop
    rate: float | None = None
    share: float | None = None
    text_length: int | None = None

    def in_words(self) -> str:
        """The point as tables call it."""
        parts = [self.tower, f"batch {self.batch:,}"]
        if self.loop == "closed":
            callers = "caller" if self.concurrency == 1 else "callers"
            parts.append(f"{self.concurrency:,} {callers}")
        else:
            rate = "unknown rate" if self.rate is None else f"{self.rate:g}/s"
            if self.share is not None:
                rate = f"{self.share:g} of capacity"
            parts.append(f"open loop, {rate}, at most {self.concurrency:,} under way")
        if self.text_length is not None:
            parts.append(f"{self.text_length:,} tokens")
        return ", ".join(parts)


class Point(_Record, frozen=True):
    """What was measured at one point.

    Attributes:
        workload: the point.
        figures: by name. Latencies end in ``_ms`` (``p50_ms``, ``p90_ms``, ``p95_ms``, ``p99_ms``,
            ``max_ms``), of requests, from the moment a request was due; ``items_s`` are items
            answered in a second; of an open loop ``offered_s`` are those that came in a second;
            ``lag_p99_ms`` is how late the load generator itself was; cores that were busy are
            ``cpu_cores`` of the machine, ``process_cores`` of the load generator's process,
            ``generator_cores`` of its own code, ``target_cores`` of the target's processes;
            ``sent_bytes`` and ``received_bytes`` of an item; ``rss_mb`` of the target;
            ``gpu_percent`` of the busiest GPU, ``gpu_mb`` and ``gpu_power_w`` of all together.
            Percentiles for which there were too few samples are left out; of a target elsewhere
            (``remote``) everything that is another machine's, too.
        samples: requests that were timed, in all repeats.
        errors: how many requests failed, by the kind of error.
        marks: what is wrong with the point, in sentences: noise, a load generator that was the
            bottleneck, errors. Empty if nothing is.
    """

    workload: Workload
    figures: dict[str, Figure]
    samples: int
    errors: dict[str, int] = msgspec.field(default_factory=dict)
    marks: tuple[str, ...] = ()


class Ceiling(_Record, frozen=True):
    """What this machine can do at most, measured in the same run.

    Attributes:
        name: ``matmul_fp32``, ``matmul_int8``, ``decode``, ``loopback`` and the like.
        figure: in ``unit``.
        unit: ``GFLOP/s``, ``GOP/s``, ``pictures/s``, ``MB/s``, ``GB/s``, ``round trips/s``.
        by: what reached it, in words.
        items_s: what it comes to in items of a tower, by tower, where it bounds one. Texts are
            left out where they were measured with several lengths.
        text_items_s: the same of texts, by their length in tokens, where lengths were asked for.
    """

    name: str
    figure: Figure
    unit: str
    by: str
    items_s: dict[str, float] = msgspec.field(default_factory=dict)
    text_items_s: dict[int, float] = msgspec.field(default_factory=dict)

    def of(self, workload: Workload) -> float | None:
        """Items per second that it allows at a point; None where it bounds nothing."""
        if workload.text_length is not None and self.text_items_s:
            return self.text_items_s.get(workload.text_length)
        return self.items_s.get(workload.tower)


class BenchCard(_Record, frozen=True):
    """A whole measurement; the file has these fields at its top.

    Attributes:
        schema: version of the layout.
        kind: which command measured it.
        cliprt: version of cliprt.
        made: when it was begun, UTC, ISO 8601.
        machine: where.
        target: what.
        model: with which weights.
        fidelity: by tower; empty where no certificate is known.
        inputs: of what.
        method: how.
        points: the results.
        ceilings: what the machine could do.
        stages: of ``stages`` and ``throughput``: milliseconds of an item, by tower and stage.
        complete: whether all that was asked for was measured; false after Ctrl-C.
        price_per_hour: what the machine costs, if it was given, in whatever currency.
    """

    schema: int
    kind: Kind
    cliprt: str
    made: str
    machine: Machine
    target: Target
    model: Model
    fidelity: dict[str, Fidelity]
    inputs: Inputs
    method: Method
    points: tuple[Point, ...]
    ceilings: tuple[Ceiling, ...] = ()
    stages: dict[str, dict[str, Figure]] = msgspec.field(default_factory=dict)
    complete: bool = True
    price_per_hour: float | None = None

    def write(self, path: Path) -> None:
        """Writes the card, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        write_whole(path, msgspec.json.format(msgspec.json.encode(self)) + b"\n")


class _Versioned(msgspec.Struct):
    schema: int


def read_bench_card(path: Path) -> BenchCard:
    """Reads a card.

    Raises:
        BenchCardError: there is none, it is of another schema, or it is damaged.
    """
    try:
        content = path.read_bytes()
        schema = read_json(content, _Versioned).schema
        if schema != SCHEMA:
            raise BenchCardError(
                f"{path} has schema {schema}, this cliprt reads {SCHEMA}; measure it again, or "
                "compare with the cliprt that made it"
            )
        return read_json(content, BenchCard)
    except OSError as cause:
        raise BenchCardError(f"{path} cannot be read: {cause.strerror}") from None
    except UnreadableJson as cause:
        raise BenchCardError(f"{path} is no card of cliprt bench: {cause}") from None
