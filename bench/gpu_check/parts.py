"""Wheels in parts that are small enough to carry, and whole again.

    python3 bench/gpu_check/parts.py WHEELS PARTS --mib 60

cuts every file of WHEELS that is greater into NAME.part000, NAME.part001 … and copies the others.
``bench/gpu_check`` joins what it is given in any number of folders. Needs Python alone.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

_MIB = 2**20
_PART = re.compile(r"(?P<name>.+)\.part(?P<number>\d{3})")
_SUMS = "SHA256SUMS"


def split(source: Path, target: Path, *, most_bytes: int) -> list[Path]:
    """Cuts the great files of a folder and copies the small ones.

    Args:
        source: the folder of whole files.
        target: where the parts go; it is made.
        most_bytes: of a part.

    Returns:
        What was written; ``SHA256SUMS`` of the whole files is the last.

    Raises:
        ValueError: parts of no bytes, a name that looks like a part, or more than 1000 parts.
    """
    if most_bytes < 1:
        raise ValueError(f"a part must hold something, got {most_bytes} bytes")
    target.mkdir(parents=True, exist_ok=True)
    written, sums = [], []
    for file in sorted(entry for entry in source.iterdir() if entry.is_file()):
        if _PART.fullmatch(file.name) or file.name == _SUMS:
            raise ValueError(f"{file} looks like a part already")
        if file.stat().st_size > 1000 * most_bytes:
            raise ValueError(f"{file} would make more than 1000 parts; allow greater ones")
        sums.append(f"{_sha256(file)}  {file.name}\n")
        if file.stat().st_size <= most_bytes:
            written.append(Path(shutil.copy(file, target / file.name)))
            continue
        with file.open("rb") as content:
            number = 0
            while chunk := content.read(most_bytes):
                part = target / f"{file.name}.part{number:03d}"
                part.write_bytes(chunk)
                written.append(part)
                number += 1
    (target / _SUMS).write_text("".join(sums), encoding="utf-8")
    return [*written, target / _SUMS]


def join(sources: Sequence[Path], target: Path) -> list[Path]:
    """Puts parts together that lie in any of some folders, and checks what has a known hash.

    Args:
        sources: folders of parts and whole files.
        target: where the whole files go; it is made.

    Returns:
        The whole files.

    Raises:
        ValueError: a part is missing, or a file is not the one that was cut.
    """
    target.mkdir(parents=True, exist_ok=True)
    whole: dict[str, list[tuple[int, Path]]] = {}
    sums: dict[str, str] = {}
    for folder in sources:
        for file in sorted(entry for entry in folder.iterdir() if entry.is_file()):
            if file.name == _SUMS:
                lines = file.read_text(encoding="utf-8").splitlines()
                sums |= {name: digest for digest, name in (line.split(None, 1) for line in lines)}
                continue
            part = _PART.fullmatch(file.name)
            name, number = (part["name"], int(part["number"])) if part else (file.name, 0)
            whole.setdefault(name, []).append((number, file))
    made = []
    for name, parts in sorted(whole.items()):
        numbers = [number for number, _ in sorted(parts)]
        if numbers != list(range(len(parts))):
            raise ValueError(f"{name} came in the parts {numbers}; some are missing or twice there")
        path = target / name
        with path.open("wb") as joined:
            for _, part_path in sorted(parts):
                with part_path.open("rb") as content:
                    shutil.copyfileobj(content, joined)
        if name in sums and _sha256(path) != sums[name]:
            raise ValueError(f"{name} is not the file that was cut: its SHA-256 differs")
        made.append(path)
    if missing := sorted(sums.keys() - whole.keys()):
        raise ValueError(f"{missing[0]} was cut, but none of its parts is here")
    return made


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_MIB):
            digest.update(chunk)
    return digest.hexdigest()


def main() -> None:
    """Cuts the files of a folder."""
    parser = argparse.ArgumentParser(description="Cut wheels into parts that can be carried.")
    parser.add_argument("source", type=Path, help="folder of whole files")
    parser.add_argument("target", type=Path, help="folder for the parts")
    parser.add_argument("--mib", type=int, default=60, help="greatest part, in MiB (60)")
    options = parser.parse_args()
    for path in split(options.source, options.target, most_bytes=options.mib * _MIB):
        print(f"{path.stat().st_size:>12}  {path}")


if __name__ == "__main__":
    main()
