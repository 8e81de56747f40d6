"""Many small pictures with captions, made quickly, and the kinds of sources that hold them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from bad_pictures import BAD, bomb, jpeg
from PIL import Image

Shape = Literal["folder", "list", "tar", "parquet", "jsonl"]


def small_pictures(count: int, *, seed: int = 0) -> dict[str, bytes]:
    """JPEG files of some 70 x 60 pixels by name; no two are alike."""
    drawn = np.random.default_rng(seed)
    made = {}
    for number in range(count):
        colours = Image.fromarray(drawn.integers(0, 255, (3, 4, 3), dtype=np.uint8))
        made[f"{number // 1000:02d}/{number:05d}.jpg"] = jpeg(
            colours.resize((66 + number % 9, 60)), quality=80
        )
    return made


def caption(number: int) -> str:
    """Of a picture by its number."""
    return f"a picture of {number} red circles"


def hostile_files() -> dict[str, bytes]:
    """Bytes that are no picture, damaged, or too large, by what they are."""
    found = {name: value[0] for name, value in BAD.items() if isinstance(value[0], bytes)}
    whole = jpeg(Image.new("RGB", (90, 90), (9, 99, 199)))
    return {
        **found,
        "zip": b"PK\x03\x04" + bytes(60),
        "bomb": bomb(30_000, 30_000),
        "long": bomb(65_500, 1),
        "no width": b"GIF89a" + bytes(20),
        "last bytes gone": whole[:-10],
        "text named as a picture": b"this is no picture\n" * 3,
    }


def write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Writes files under a folder, and says where they are."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return [folder / name for name in files]


def write_source(
    shape: Shape,
    folder: Path,
    files: Mapping[str, bytes],
    captions: Mapping[str, str] | None = None,
) -> Path:
    """Writes a source of pictures, and of captions where these are given.

    Args:
        shape: what the source is.
        folder: where it goes.
        files: pictures by name.
        captions: by the same names.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    captions = captions or {}
    if shape == "tar":
        with tarfile.open(folder / "source.tar", "w") as tar:
            for name, data in files.items():
                _add(tar, name, data)
                if name in captions:
                    _add(tar, f"{name.rpartition('.')[0]}.txt", captions[name].encode())
        return folder / "source.tar"
    if shape == "parquet":
        columns = {"key": list(files), "image": list(files.values())}
        if captions:
            columns["caption"] = [captions.get(name) for name in files]  # type: ignore[misc]
        pq.write_table(pa.table(columns), folder / "source.parquet")
        return folder / "source.parquet"
    pictures = folder / "pictures"
    write_files(pictures, files)
    if shape == "folder":
        for name, text in captions.items():
            (pictures / name).with_suffix(".txt").write_text(text)
        return pictures
    lines = [f"pictures/{name}" for name in files]
    if shape == "jsonl":
        lines = [
            json.dumps({"key": name, "image": f"pictures/{name}", "caption": captions.get(name)})
            for name in files
        ]
    path = folder / f"source.{'txt' if shape == 'list' else 'jsonl'}"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def tiny_png() -> bytes:
    """The smallest picture that there is."""
    buffer = BytesIO()
    Image.new("RGB", (1, 1), (200, 10, 10)).save(buffer, "PNG")
    return buffer.getvalue()
