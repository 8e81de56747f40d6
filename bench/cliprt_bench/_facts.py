"""What a card says of itself beside its figures, in words for people."""

from __future__ import annotations

from cliprt_bench._bench_card import BenchCard, Gpu, Machine, Target
from cliprt_bench._comparable import LabelledCard, machine_in_words, printable

# Of versions, there are many; of settings, some are long.
_LONG = 400


def facts_of(each: LabelledCard) -> dict[str, str]:
    """By name, in the order in which they are shown; empty where something is not known."""
    card = each.card
    machine = card.machine
    return {
        "target": printable(card.target.name, 80),
        "precision": _precision(card.target),
        "runtime": printable(card.target.runtime or "", 80),
        "computed on": {"cpu": "CPU", "gpu": "GPU"}.get(card.target.device or "", ""),
        "machine": machine_in_words(machine),
        "CPU clock": "" if not machine.clock_mhz else f"{machine.clock_mhz:,.0f} MHz",
        "GPU": "; ".join(map(_gpu, machine.gpus)),
        "system": f"{printable(machine.system, 60)}, Python {printable(machine.python, 20)}",
        "libraries": _libraries(machine),
        **_fidelity(card),
        "method": f"{card.method.repeats} repeats of {card.method.repeat_s:g} s",
        "measured": printable(card.made, 32),
        "file": each.source,
    }


def _precision(target: Target) -> str:
    if len(set(target.precisions.values())) > 1:
        named = (f"{tower} {precision}" for tower, precision in sorted(target.precisions.items()))
        return printable(", ".join(named), 80)
    return printable(target.precision or "", 40)


def _gpu(gpu: Gpu) -> str:
    parts = [f"{gpu.memory_mb:,} MB", f"driver {printable(gpu.driver, 30)}"]
    parts += [] if gpu.clock_mhz is None else [f"{gpu.clock_mhz:,} MHz"]
    parts += [] if gpu.power_limit_w is None else [f"at most {gpu.power_limit_w:g} W"]
    return ", ".join(parts)


def _libraries(machine: Machine) -> str:
    named = (f"{name} {version}" for name, version in sorted(machine.libraries.items()))
    return printable(", ".join(named), _LONG)


def _fidelity(card: BenchCard) -> dict[str, str]:
    return {
        f"p01 cosine, {printable(tower, 12)}": f"{fidelity.p01_cosine:.5f}"
        for tower, fidelity in sorted(card.fidelity.items())
    }
