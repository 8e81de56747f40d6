"""What a check found, as JSON for programs and as Markdown for people. Needs Python alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_REHEARSAL = (
    "**A rehearsal on a processor: it shows that the command works. No figure here is one of a "
    "GPU.**"
)


def write_card(
    folder: Path, about: dict[str, Any], outcomes: list[dict[str, Any]]
) -> tuple[Path, Path]:
    """Writes both forms, in the place of those of the same day and GPU.

    Args:
        folder: where cards lie; it is made.
        about: date, commit, options.
        outcomes: the stages so far, as dictionaries.
    """
    folder.mkdir(parents=True, exist_ok=True)
    machine: dict[str, Any] = next(
        (each["found"] for each in outcomes if each["stage"] == "machine"), {}
    )
    gpu = machine.get("gpu") or "no-gpu"
    kind = "rehearsal-on-a-processor" if about["rehearsal"] else re.sub(r"\W+", "-", gpu.lower())
    stem = f"{about['date'][:10]}.{kind}"
    paths = folder / f"{stem}.json", folder / f"{stem}.md"
    content = json.dumps({**about, "stages": outcomes}, indent=2, allow_nan=False) + "\n"
    for path, text in zip(paths, (content, _markdown(about, machine, outcomes)), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def _markdown(
    about: dict[str, Any], machine: dict[str, Any], outcomes: list[dict[str, Any]]
) -> str:
    title = "Rehearsal without a GPU" if about["rehearsal"] else machine.get("gpu") or "No GPU"
    lines = [f"# {title}, {about['date'][:10]}", ""]
    if about["rehearsal"]:
        lines += [_REHEARSAL, ""]
    lines += [f"Taken {about['date']} at commit {about['commit'] or 'unknown'}.", ""]
    for each in outcomes:
        taken = each.get("date", about["date"]), each.get("commit", about["commit"])
        if taken != (about["date"], about["commit"]):
            lines += [f"{each['stage']}: taken {taken[0]} at commit {taken[1] or 'unknown'}.", ""]
    if machine:
        lines += ["| what | version |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in _flat(machine)]
        lines.append("")
    lines += ["## Speed of the image tower", "", *_speed(outcomes), ""]
    lines += ["## Stages", "", "| stage | status | seconds | why |", "|---|---|---|---|"]
    for each in outcomes:
        reason = " ".join(each["reason"].split())[-300:].replace("|", "/")
        lines.append(f"| {each['stage']} | {each['status']} | {each['seconds']:.0f} | {reason} |")
    for each in outcomes:
        rows = _flat({name: value for name, value in each["found"].items() if name != "speed"})
        if rows and each["stage"] != "machine":
            lines += ["", f"### {each['stage']}", "", "| what | found |", "|---|---|"]
            lines += [f"| {name} | {value} |" for name, value in rows]
    return "\n".join(lines) + "\n"


def _speed(outcomes: list[dict[str, Any]]) -> list[str]:
    rows = [
        (each["stage"].split()[-1], row)
        for each in outcomes
        for row in each["found"].get("speed", [])
    ]
    if not rows:
        return ["Nothing was timed."]
    lines = [
        "Closed loop, one caller, pictures on the device already unless said otherwise; the share "
        "is that of the greatest matrix product of the same run, the cosine the least to float32.",
        "",
        "| model | what | batch | p50 ms | p95 ms | images/s | share | cosine | samples |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model, row in rows:
        share = "-" if row.get("share") is None else f"{row['share']:.2f}"
        cosine = "-" if row.get("least_cosine") is None else f"{row['least_cosine']:.6f}"
        p95 = "-" if row.get("p95_ms") is None else f"{row['p95_ms']:.3f}"
        lines.append(
            f"| {model} | {row['what']} | {row['batch']} | {row['p50_ms']:.3f} | "
            f"{p95} | {row['per_s']:.0f} | {share} | {cosine} | {row['samples']} |"
        )
    return lines


def _flat(found: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in found.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name} ")
        elif isinstance(value, list):
            rows.append((f"{prefix}{name}", "; ".join(map(str, value)).replace("|", "/")))
        else:
            rows.append((f"{prefix}{name}", str(value).replace("|", "/").replace("\n", " ")))
    return rows
