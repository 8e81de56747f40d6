"""Injects faults at random under mixed traffic and holds cliprt to its promise: ``make chaos``.

A supervised server of the demo model is asked by many kinds of callers all the time. One fault
after the other is drawn, injected and ended, and it is measured how long it takes until every way
in answers right again. The promise: every request gets the right answer, or an error whose type
says what to do, before its deadline; and the server comes back by itself, with the processes and
the shared memory that it had. Ends with status 1 if it is broken. With ``--once`` every kind of
fault happens once, always in the same order.
"""

from __future__ import annotations

import json
import random
import secrets
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from faulty_proxy import FaultyProxy
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from small_disks import small_disk

from chaos.faults import Failed, Fault, World, faults
from chaos.golden import demo_checkpoint, golden_of
from chaos.tally import BROKEN, Tally
from chaos.traffic import BareCaller, Caller, ClientCaller, Traffic
from cliprt._console import out, print_table
from cliprt_export import export_checkpoint
from cliprt_triton import Policy, Restarts, TritonServer, write_repository

# It comes back in seconds; on a machine that is busy with other things it may take more.
_RECOVERY_S = 120.0

_DISK_KB = 256


@dataclass
class Record:
    """What became of the faults of one kind: seconds until all was right, and what was not."""

    recoveries_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def row(self, kind: str) -> dict[str, Any]:
        """The record as a row of the report."""
        times = self.recoveries_s
        return {
            "fault": kind,
            "injected": len(times) + len(self.failures),
            "survived": len(times),
            "recovery_median_s": round(statistics.median(times), 2) if times else None,
            "recovery_max_s": round(max(times), 2) if times else None,
        }


class Run:
    """Faults one after the other, until the time is over or one is not survived."""

    def __init__(self, world: World, probes: list[Caller], seed: int) -> None:
        self._world, self._probes = world, probes
        self._choose = random.Random(seed)
        self._at_first = self._state()
        self.records: dict[str, Record] = defaultdict(Record)

    def go_on(self, kinds: dict[str, Fault], seconds: float, bar: Progress) -> None:
        """Injects faults for a while; the last one is carried to its end."""
        task = bar.add_task("faults", total=seconds)
        begun = time.monotonic()
        drawn: list[str] = []
        while (passed := time.monotonic() - begun) < seconds:
            # Each kind once, in any order, then again: a short run meets as many as it can.
            if not drawn:
                drawn = self._choose.sample(sorted(kinds), len(kinds))
            kind = drawn.pop()
            bar.update(task, description=kind, completed=passed)
            if not self._inject(kind, kinds[kind]):
                return
            self._pause()
        bar.update(task, completed=seconds)

    def each_once(self, kinds: dict[str, Fault], bar: Progress) -> None:
        """Injects a fault of each kind, in their order."""
        task = bar.add_task("faults", total=len(kinds))
        for kind, fault in kinds.items():
            bar.update(task, description=kind)
            if not self._inject(kind, fault):
                return
            bar.update(task, advance=1)
            self._pause()

    def _pause(self) -> None:
        time.sleep(self._choose.uniform(0.2, 1.5))

    def _inject(self, kind: str, fault: Fault) -> bool:
        """One fault; False if the world did not recover, so that nothing can be said of others."""
        record = self.records[kind]
        failed, after = _done(lambda: fault(self._world, self._choose))
        ended = time.monotonic()
        said = self._recovered(ended + _RECOVERY_S)
        took_s = time.monotonic() - ended
        if after is not None:
            undone, _ = _done(after)
            failed = failed or undone
        said = said or self._leaks()
        if failed or said:
            record.failures.append("; ".join(each for each in (failed, said) if each))
        else:
            record.recoveries_s.append(took_s)
        return not said

    def _recovered(self, deadline: float) -> str | None:
        """Waits until every way in answers right; says what does not."""
        while True:
            try:
                for probe in self._probes:
                    probe.ask_all(self._choose)
                return None
            except Exception as error:  # noqa: BLE001 - whatever it is, it is not right yet
                if time.monotonic() > deadline:
                    return f"not right after {_RECOVERY_S:g} s: {type(error).__name__}: {error}"
            time.sleep(0.02)

    def _leaks(self) -> str | None:
        """Waits until the server has what it had at first; says what differs."""
        ends = time.monotonic() + 30
        while (state := self._state()) != self._at_first:
            if time.monotonic() > ends:
                return f"models and shared memory were {self._at_first} and are {state}"
            time.sleep(0.05)
        return None

    def _state(self) -> tuple[list[str], int]:
        """The models that have a process, and the number of regions of shared memory."""
        regions = Path("/dev/shm").glob(f"{self._world.server._regions}*")
        return sorted(self._world.models.values()), sum(1 for _ in regions)


def _done(act: Callable[[], Any]) -> tuple[str | None, Any]:
    """Does something to the world; says why it failed if it did, and gives what it returns.

    It may fail in any way: a server that has crashed by itself has no process to be killed.
    """
    try:
        return None, act()
    except Failed as error:
        return str(error), None
    except Exception as error:  # noqa: BLE001 - it is told, and everything else as well
        return f"{type(error).__name__}: {error}", None


def report(tally: Tally, records: dict[str, Record], restarts: int, seed: int) -> dict[str, Any]:
    """All that was seen."""
    failures = [f"{kind}: {each}" for kind in sorted(records) for each in records[kind].failures]
    return {
        "seed": seed,
        "kept": tally.kept and not failures,
        "faults": [records[kind].row(kind) for kind in sorted(records)],
        "requests": tally.rows(),
        "refusals": tally.refusals(),
        "restarts": restarts,
        "broken": [*failures, *tally.examples],
    }


def tell(found: dict[str, Any]) -> None:
    """Prints a report as tables."""
    columns = ["fault", "injected", "survived", "recovery, median s", "most s"]
    print_table(
        columns, [["" if v is None else str(v) for v in row.values()] for row in found["faults"]]
    )
    ends = ["right", "refused", *BROKEN]
    sums = {key: sum(row[key] for row in found["requests"]) for key in ("asked", *ends)}
    asked = [*found["requests"], {"kind": "all", **sums}]
    print_table(["request", "asked", *ends], [[str(v) for v in row.values()] for row in asked])
    refusals = ", ".join(f"{count} {kind}" for kind, count in found["refusals"].items())
    console = out()
    console.print(f"Refused: {refusals or 'none'}")
    console.print(f"The server was started again {found['restarts']} times.")
    for line in found["broken"]:
        console.print(f"BROKEN: {line}")
    console.print(
        f"The promise {'was kept' if found['kept'] else 'is broken'}; "
        f"--seed {found['seed']} draws the same faults."
    )


@click.command()
@click.option("--minutes", default=30.0, show_default=True, help="How long faults are injected.")
@click.option("--once", is_flag=True, help="Each kind once, in a fixed order, instead of a time.")
@click.option("--callers", default=6, show_default=True, type=click.IntRange(3))
@click.option("--seed", type=int, help="Of faults and requests; drawn and printed if not given.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def main(minutes: float, once: bool, callers: int, seed: int | None, as_json: bool) -> None:
    """Inject faults under traffic, and fail if a request or the server is lost."""
    seed = secrets.randbelow(10**6) if seed is None else seed
    console = Console(stderr=True, highlight=False)
    console.print(f"seed {seed}")
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bundle = export_checkpoint(str(demo_checkpoint()), work / "bundle")
        texts, pictures = golden_of(bundle)
        # Short queues, so that a flood fills them.
        policy = Policy(max_queue_size=64)
        repository = write_repository(bundle, work / "models", policy=policy)
        disk = stack.enter_context(small_disk(work / "disk", _DISK_KB))
        if disk is None:
            console.print("no small disk can be mounted here: the log's disk is not filled")
        told: list[str] = []
        secret = secrets.token_hex(16)
        server = stack.enter_context(
            TritonServer(
                repository,
                admin_secret=secret,
                log=disk / "log" if disk else None,
                # As many as there are: that too many end it is tested elsewhere.
                restarts=Restarts(10**6, tell=told.append),
            )
        )
        proxy = stack.enter_context(FaultyProxy(server.address))
        ways = [proxy.address, proxy.address, server.address]
        traffic = Traffic(texts, pictures, ways, callers=callers, seed=seed)
        world = World(server, secret, repository, proxy, texts, traffic.tally, disk)
        probes: list[Caller] = [
            ClientCaller(proxy.address, texts, pictures, 0),
            ClientCaller(server.address, texts, pictures, 0),
            BareCaller(server.address, texts, pictures, deadline_s=5),
        ]
        run = Run(world, probes, seed)
        columns = (TextColumn("{task.description:<20}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            traffic.start()
            kinds = faults(disk=disk is not None)
            if once:
                run.each_once(kinds, bar)
            else:
                run.go_on(kinds, minutes * 60, bar)
        traffic.stop()
        for probe in probes:
            probe.close()
    found = report(traffic.tally, run.records, len(told), seed)
    if as_json:
        click.echo(json.dumps(found))
    else:
        tell(found)
    sys.exit(0 if found["kept"] else 1)


if __name__ == "__main__":
    main()
