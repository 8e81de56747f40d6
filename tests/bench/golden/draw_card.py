"""Writes drawn_card.json beside it (PYTHONPATH=tests): a card of a machine that does not exist.

Its figures are drawn by a formula, not measured, and it says so in every name. It stands for a
card that came from elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from bench_cards import fidelity, full_card, gpu, machine, target

from cliprt_bench._bench_card import BenchCard, Method

PATH = Path(__file__).resolve().parent / "drawn_card.json"


def drawn_card() -> BenchCard:
    """The card, before it is written."""
    return full_card(
        3.2,
        machine=machine("Drawn CPU (no machine has it)", 16, gpus=(gpu("Drawn GPU"),)),
        target=target("int8-cpu", name="cliprt (figures drawn by draw_card.py, not measured)"),
        fidelity={"image": fidelity(0.9931), "text": fidelity(0.9967)},
        method=Method(
            warmup_s=2.0, repeat_s=5.0, repeats=5, seed=0, command="tests/bench/golden/draw_card.py"
        ),
    )


if __name__ == "__main__":
    drawn_card().write(PATH)
