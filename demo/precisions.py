"""Measures what each precision costs the demo model, and writes it into its model card.

    python demo/precisions.py

Draws the folders of `folders.py`, exports the checkpoint in every precision, and replaces the
section "Precisions" of the checkpoint's README by the certificate's figures.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from cliprt_export import Certificate, Fidelity, export_checkpoint, read_certificate
from folders import write_calibration, write_evaluation

CHECKPOINT = Path(__file__).parent / "checkpoint"
CARD = CHECKPOINT / "README.md"
PRECISIONS = ("fp32", "fp16", "int8", "int8-cpu", "fp8")
PROMPT = "a picture of a {}"
SECTION = """## Precisions

Each exported tower against the original weights: cosine (1st percentile and least), overlap of the
ten nearest neighbours, and zero-shot top-1 among the 64 held-out combinations, in percent. Measured
on {pictures} labelled pictures and {texts} captions that calibration did not see
({runtime}).

| tower | precision | cosine 1 % | least cosine | neighbours | top-1 |
| --- | --- | --- | --- | --- | --- |
{rows}

    python demo/precisions.py

"""


def section(certificate: Certificate) -> str:
    """The model card's section."""
    rows = "\n".join(
        _row(tower, precision, figures)
        for tower, precisions in certificate.towers.items()
        for precision, figures in precisions.items()
    )
    return SECTION.format(
        pictures=certificate.measured_on["image"].items,
        texts=certificate.measured_on["text"].items,
        runtime=certificate.runtime,
        rows=rows,
    )


def _row(tower: str, precision: str, figures: Fidelity) -> str:
    top1 = "" if figures.top1 is None else f"{figures.top1_reference:.2f} -> {figures.top1:.2f}"
    return (
        f"| {tower} | {precision} | {figures.p01_cosine:.6f} | {figures.min_cosine:.6f} "
        f"| {figures.neighbours:.3f} | {top1} |"
    )


def main() -> None:
    """Exports, and writes the section."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_calibration(folder / "calibrate")
        write_evaluation(folder / "evaluate")
        bundle = export_checkpoint(
            CHECKPOINT,
            folder / "bundle",
            precisions=PRECISIONS,
            calibrate=folder / "calibrate",
            evaluate=folder / "evaluate",
            prompt=PROMPT,
        )
        written = section(read_certificate(bundle))
    card = re.sub(r"## Precisions\n.*?(?=## )", "", CARD.read_text("utf-8"), flags=re.DOTALL)
    CARD.write_text(card.replace("## Limits\n", written + "## Limits\n"), encoding="utf-8")
    print(written)


if __name__ == "__main__":
    main()
