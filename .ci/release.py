"""Builds what is released: sdist, wheel, the list of what they need (SBOM), and checksums.

The same commit gives the same bytes: SOURCE_DATE_EPOCH is that of the commit unless it is set, and
the list is made from the environment that constraints.txt pins.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent

DEVELOPMENT = {"demo", "fuzz", "oracle", "release", "test"}
"""Extras that nobody needs who uses cliprt; the list leaves them out."""

ABSENT = {"convert", "tensorrt"}
"""Extras that this environment does not have: torch, and TensorRT from NVIDIA's own index."""


def main() -> int:
    """Builds into an empty folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    out: Path = parser.parse_args().out
    if out.exists() and any(out.iterdir()):
        print(f"{out} is not empty; remove what is in it", file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    build(out)
    version = metadata.version("cliprt")
    (out / f"cliprt-{version}.cdx.json").write_text(sbom(), encoding="utf-8")
    sums = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(out.iterdir())
    )
    (out / "SHA256SUMS").write_text(sums, encoding="utf-8")
    print(sums, end="")
    return 0


def build(out: Path) -> None:
    """Makes sdist and wheel."""
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)],
        env={"SOURCE_DATE_EPOCH": _committed(), **os.environ},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _committed() -> str:
    """When the commit was made, in seconds since 1970."""
    command = ["git", "log", "-1", "--format=%ct"]
    run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return run.stdout.strip()


def sbom() -> str:
    """What cliprt needs at run time with all its extras, as CycloneDX JSON."""
    made = subprocess.run(
        [
            *(Path(sys.executable).parent / "cyclonedx-py", "environment", sys.prefix),
            *("--pyproject", ROOT / "pyproject.toml", "--mc-type", "library"),
            *("--of", "JSON", "--output-reproducible", "--validate", "-o", "-"),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.dumps(_restricted(json.loads(made.stdout), needed()), indent=2, sort_keys=True)


def needed() -> set[str]:
    """Names of all distributions that cliprt and its extras lead to, in canonical form."""
    offered = set(metadata.metadata("cliprt").get_all("Provides-Extra") or ())
    found: set[tuple[str, str]] = set()
    left = [("cliprt", extra) for extra in ("", *offered - DEVELOPMENT - ABSENT)]
    while left:
        name, extra = left.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for wanted in _required(name, extra):
            left += [(canonicalize_name(wanted.name), each) for each in ("", *wanted.extras)]
    return {name for name, _ in found} - {"cliprt"}


def _required(name: str, extra: str) -> Iterator[Requirement]:
    for line in metadata.requires(name) or ():
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
            yield wanted


def _restricted(document: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """The document with these components alone."""
    kept = [each for each in document["components"] if canonicalize_name(each["name"]) in names]
    if missing := names - {canonicalize_name(each["name"]) for each in kept}:
        raise SystemExit(f"the list lacks {', '.join(sorted(missing))}")
    refs = {document["metadata"]["component"]["bom-ref"], *(each["bom-ref"] for each in kept)}
    dependencies = [
        {**each, "dependsOn": sorted(refs & set(each.get("dependsOn", ())))}
        for each in document.get("dependencies", ())
        if each["ref"] in refs
    ]
    document["metadata"].setdefault("properties", []).append(
        {"name": "cliprt:extras-not-listed", "value": ", ".join(sorted(DEVELOPMENT | ABSENT))}
    )
    return {**document, "components": kept, "dependencies": dependencies}


if __name__ == "__main__":
    sys.exit(main())
