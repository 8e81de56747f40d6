"""Whether the load generator of `cliprt bench` measures what theory says: `make load-check`.

A server in another process answers after times that are drawn beforehand. What its callers must see
follows, event by event, from those times and from the moments at which requests are due, so that
theory has no statistical error; that this theory is right is shown first, against the closed form
of M/M/1 in a very long run. The time of the wire is measured without the generator and added. The
last rows are a server that stands still once: what the generator says, and what it would say if it
counted from when a request was sent.

A load that was off is run again, three times at most; each line says which run the figures are of.

Ends with status 1 if a percentile is further than 5 % from theory in an undisturbed run, with 2 if
the machine was too busy to say.
"""

from __future__ import annotations

import argparse
import math
import sys

import numpy as np
from load_cases import (
    TOLERANCE,
    Case,
    Outcome,
    constant,
    exponential,
    run_until_right,
    two_kinds,
    uniform,
)
from queueing import open_latencies
from timed_server import timed_server

from cliprt._console import out, print_table
from cliprt_bench._load import arrivals
from cliprt_bench._trace import PERCENTILES, Trace

LONG = 2_000_000
STALL = "open, stands still for 1 s"


def cases(scale: float) -> list[Case]:
    """The loads; windows are lengthened by a factor."""
    stall = (1.5 * scale, 1.5 * scale + 1)
    return [
        Case("M/D/1, 40 %", constant(0.05), 1, 14 * scale, rate=0.4 / 0.05),
        Case("M/D/1, 80 %", constant(0.03), 1, 8 * scale, rate=0.8 / 0.03),
        Case("M/M/1, 60 %", exponential(0.04), 1, 12 * scale, rate=0.6 / 0.04),
        Case("M/M/16, 50 %", exponential(0.08), 16, 11 * scale, rate=0.5 * 16 / 0.08),
        Case("M/M/16, 90 %", exponential(0.08), 16, 8 * scale, rate=0.9 * 16 / 0.08),
        Case("M/U/8, 70 %", uniform(0.02, 0.1), 8, 11 * scale, rate=0.7 * 8 / 0.06),
        Case("two kinds, 8 workers", two_kinds(0.04, 0.4, 0.03), 8, 11 * scale, rate=90),
        Case("closed, 1 of 4 served", constant(0.03), 1, 6 * scale, callers=4),
        Case("closed, 3 of 6 served", exponential(0.04), 3, 8 * scale, callers=6),
        Case("closed, all served", uniform(0.02, 0.1), 16, 8 * scale, callers=8),
        Case(STALL, constant(0.05), 4, 4 * scale, rate=28, most=4, stall=stall, seed=3),
    ]


def lag_of(trace: Trace) -> str:
    """The generator's own lag, at the highest percentile that it has enough requests for."""
    told = [f"lag p{p} {ms:.2f} ms" for p in PERCENTILES if (ms := trace.lag_ms(p)) is not None]
    return told[-1] if told else "lag of too few requests"


def theory_is_right() -> bool:
    """Prints theory against -ln(1 - p) / (mu - lambda), both in units of the mean service time."""
    load = 0.5
    rng = np.random.default_rng(2)
    due = arrivals(load, LONG, seed=1) / 1e9
    latencies = open_latencies(due, rng.exponential(1, len(due)), workers=1)
    table, right = [], True
    for percentile in PERCENTILES:
        formula = -math.log(1 - percentile / 100) / (1 - load)
        theory = float(np.percentile(latencies, percentile))
        right &= abs(theory / formula - 1) <= TOLERANCE
        table.append([f"p{percentile}", f"{formula:.3f}", f"{theory:.3f}"])
    print_table(["M/M/1, 50 %", "formula", "event by event"], table)
    return right


def rows(case: Case, outcome: Outcome) -> list[list[str]]:
    """A row of each percentile."""
    table = []
    for percentile, theory in outcome.theory.items():
        measured = outcome.measured[percentile]
        table.append(
            [
                case.name,
                str(outcome.trace.samples),
                f"p{percentile}",
                f"{theory:.1f}",
                "none" if measured is None else f"{measured:.1f}",
                "" if measured is None else f"{measured / theory - 1:+.1%}",
                f"{outcome.from_begun[percentile]:.1f}" if case.rate else "",
            ]
        )
    return table


def main() -> int:
    """Runs all loads; the status of the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all windows")
    scale = parser.parse_args().scale
    table, wrong, disturbed, said = [], [], [], []
    if not theory_is_right():
        wrong.append("theory itself")
    with timed_server() as server:
        for case in cases(scale):
            outcome = run_until_right(server, case)
            trace = outcome.trace
            table += rows(case, outcome)
            bottleneck = trace.was_bottleneck() or "the generator was no bottleneck."
            said.append(
                f"{case.name}, run {outcome.tries}: wire {outcome.wire:.2f} ms, {lag_of(trace)}, "
                f"generator {trace.generator_cores:.3f} and process {trace.process_cores:.3f} "
                f"processors; {bottleneck}"
            )
            if abs(outcome.worst_told) > TOLERANCE:
                wrong.append(f"{case.name} (from what callers saw)")
            elif outcome.disturbed:
                disturbed.append(f"{case.name}: {outcome.disturbed}")
            elif abs(outcome.worst) > TOLERANCE:
                wrong.append(case.name)
    columns = ["load", "requests", "", "theory ms", "measured", "", "from sending"]
    print_table(columns, table)
    console = out()
    for line in said:
        console.print(line)
    for line in disturbed:
        console.print(f"Not to be judged: {line}")
    if wrong:
        console.print(f"Further than {TOLERANCE:.0%} from theory: {', '.join(wrong)}")
        return 1
    if disturbed:
        return 2
    console.print(f"All within {TOLERANCE:.0%} of theory.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
