"""Writes the corpus: valid inputs of every target, a few that are nearly so, and what was found.

Names say which: ``seed-``, and ``found-`` with what it was. Other files it leaves alone.

    PYTHONPATH=tests:demo .venv/bin/python -m fuzz.make_corpus
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from batch_sources import parquet
from fuzz import samples
from fuzz.found import found
from fuzz.harness import CORPUS
from fuzz.tar_forms import pax
from fuzz.targets import TARGETS
from fuzz.weights import as_input, bases
from hostile import BASE
from PIL import Image

from pictures import in_mode, rgb

SEED, FOUND = "seed-", "found-"
ROWS = {
    "image": [b"picture", None, b"", b"another", b"p"],
    "caption": ["a cat", "a dog", None, "ä", ""],
    "key": [1, 2, 3, 4, 5],
}


def kept() -> Iterator[tuple[str, str, bytes]]:
    """Target, name and content of all that is made here."""
    for target, name, content in seeds():
        yield target, f"{SEED}{name}", content
    for target, name, content in found():
        yield target, f"{FOUND}{name}", content


def seeds() -> Iterator[tuple[str, str, bytes]]:
    """Target, name and content of each."""
    for name, content in pictures():
        yield "picture", name, content
    for number in range(0, len(BASE), 12):
        yield (
            "text",
            f"{number:03}",
            "\x1e".join(t[:400] for t in BASE[number : number + 4]).encode(),
        )
    for number in range(8):
        yield "array", str(number), bytes(range(number, 48 + number))
    yield "request", "texts", samples.request()
    yield "request", "string", b'{"model": "clip", "input": "data:image/png;base64,AAAA"}'
    yield "card", "whole", samples.card_bytes()
    yield "card", "siglip", _siglip_card()
    yield "bundle", "whole", samples.card_bytes()
    yield "graph", "external", samples.graph()
    yield "golden", "whole", samples.golden()
    yield "tokenizer", "bpe", samples.tokenizer()
    yield "tokenizer", "unigram", _unigram()
    yield "certificate", "bundle", samples.certificate()
    yield "certificate", "engine", samples.engine_certificate()
    yield "engine", "text", samples.engine_manifest()
    yield "tuned", "whole", samples.tuned()
    yield "bench_card", "whole", samples.bench_card()
    yield "batch_manifest", "whole", _encoded(samples.batch_manifest())
    for name, content in samples.run_records().items():
        yield "run_record", name, content
    yield "plan", "lines", samples.plan()
    yield "settings", "whole", b'{"image": {"workers": 1, "threads": 2, "batch": 4}}'
    for name, content in tars():
        yield "tar", name, content
    yield "lines", "objects", _objects()
    yield "lines", "listing", b'"a.jpg"\n["b.jpg"]\n"\\udcff.jpg"\n'
    yield "lines", "texts", b"\xef\xbb\xbfa cat\r\n\n# a dog\n\xff\n"
    yield "parquet", "small", parquet(ROWS, row_group_size=2)
    yield "parquet", "plain", parquet(ROWS, compression="none", use_dictionary=False)
    for base in bases():
        yield "checkpoint", base, as_input(base)
    yield "safetensors", "small", _tensors()
    yield "sentencepiece", "siglip", _few_pieces()


def pictures() -> Iterator[tuple[str, bytes]]:
    """Every format and mode that is decoded, small."""
    picture = rgb(24, 17, seed=21)
    yield "jpeg", _saved(picture, "JPEG", quality=70)
    yield "jpeg-progressive", _saved(picture, "JPEG", progressive=True, subsampling=0)
    yield "jpeg-grey", _saved(picture.convert("L"), "JPEG")
    yield "jpeg-cmyk", _saved(in_mode("CMYK").resize((16, 12)), "JPEG")
    yield "jpeg-restarts", _saved(picture, "JPEG", restart_marker_blocks=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "jpeg-turned", _saved(picture, "JPEG", exif=exif)
    yield "jpeg-large", _saved(rgb(300, 200), "JPEG", quality=30)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        yield f"png-{mode.replace(';', '')}", _saved(in_mode(mode).crop((0, 0, 20, 15)), "PNG")
    yield (
        "png-palette-transparent",
        _saved(in_mode("P").crop((0, 0, 20, 15)), "PNG", transparency=7),
    )
    yield "png-grey-transparent", _saved(in_mode("L").crop((0, 0, 9, 9)), "PNG", transparency=60)
    yield "png-interlaced", interlaced()
    frames = [rgb(20, 14, seed=k).quantize(16) for k in range(3)]
    moving = {"save_all": True, "append_images": frames[1:]}
    yield "gif", _saved(frames[0], "GIF")
    yield "gif-animated", _saved(frames[0], "GIF", transparency=3, disposal=2, **moving)
    yield "png-animated", _saved(frames[0], "PNG", **moving)
    yield "webp", _saved(picture, "WEBP", quality=50)
    yield "webp-lossless", _saved(picture, "WEBP", lossless=True)
    yield "webp-alpha", _saved(in_mode("RGBA").crop((0, 0, 20, 15)), "WEBP", quality=30)
    yield "webp-animated", _saved(frames[0].convert("RGB"), "WEBP", **moving)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"bmp-{mode}", _saved(in_mode(mode).crop((0, 0, 12, 9)), "BMP")
    yield "bmp-packed", packed_bmp()
    yield "no-picture", b"%PDF-1.4 nothing"


def interlaced() -> bytes:
    """A grey PNG in seven passes, which Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        sum_ = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", sum_)

    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
              (0, 1, 1, 2)]  # fmt: skip
    side, rows = 9, b""
    for left, top, across, down in passes:
        for _ in range(top, side, down):
            rows += b"\0" + bytes(range(len(range(left, side, across))))
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 1)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def packed_bmp() -> bytes:
    """A BMP of runs (RLE8)."""
    palette = bytes(value for k in range(4) for value in (k * 60, 255 - k * 60, k, 0))
    runs = b"\x05\x01\x03\x02\0\0" + b"\x08\x03\0\0" + b"\0\x04\0\1\2\3\x04\2\0\1"
    offset = 54 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, 8, 3, 1, 8, 1, len(runs), 0, 0, 4, 0)
    return struct.pack("<2sIHHI", b"BM", offset + len(runs), 0, 0, offset) + info + palette + runs


def tars() -> Iterator[tuple[str, bytes]]:
    """Tars as of webdataset, in each dialect, and with what describes members."""
    members = [("a.jpg", b"\xff\xd8picture"), ("a.txt", b"a cat"), ("b.png", b"picture")]
    members += [("b.json", b'{"caption": "a dog"}'), ("c" * 120 + ".jpg", b"p"), ("ä.txt", b"")]
    for layout in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=layout) as file:
            for name, content in members:
                if layout == tarfile.USTAR_FORMAT and len(name) > 100:
                    continue
                member = tarfile.TarInfo(name)
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
        yield f"dialect-{layout}", out.getvalue().rstrip(b"\0") + bytes(1024)
    plain = out.getvalue().rstrip(b"\0") + bytes(1024)
    yield "packed", gzip.compress(plain, mtime=0)
    holes = {"GNU.sparse.map": "0,1,9,2", "GNU.sparse.size": "20", "GNU.sparse.name": "s.txt"}
    yield "sparse", b"".join(pax(holes)) + plain
    yield "shared", b"".join(pax({"comment": "of all"}, b"g")) + plain


def _siglip_card() -> bytes:
    card: dict[str, Any] = json.loads(samples.card_bytes())
    card["text"] |= {"fixed_length": True, "pooling": "last", "cleaning": "siglip"}
    card["image"] |= {"resize": "squash", "crop": "none"}
    return json.dumps({**card, "logit_bias": -10.0}).encode()


def _unigram() -> bytes:
    pieces = [["<unk> ", 0.0], ["</s> ", 0.0], ["▁a", -2.0], ["b", -3.0], ["▁", -2.5], ["a", -4.0]]
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": 1, "content": "</s> ", "special": True, **special}],
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Metaspace",
                "replacement": "▁",
                "prepend_scheme": "always",
                "split": True,
            },
            "post_processor": None,
            "decoder": None,
            "model": {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False},
        }
    ).encode()


def _few_pieces() -> bytes:
    """A SentencePiece model with the first of SigLIP's pieces."""
    from fuzz.mutation import fields_of, joined_fields

    fields = fields_of(samples.spiece())
    pieces = [field for field in fields if field[0] == 1]
    return joined_fields([*pieces[:120], *(field for field in fields if field[0] != 1)])


def _objects() -> bytes:
    rows: list[Any] = [
        {"image": "a.jpg", "caption": "a cat", "key": 1},
        {"caption": "alone"},
        {"image": "b/c.png"},
        {"image": None, "text": None, "key": []},
        [1],
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _tensors() -> bytes:
    content = {
        "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "b": {"dtype": "F16", "shape": [], "data_offsets": [16, 18]},
        "c": {"dtype": "BF16", "shape": [0, 3], "data_offsets": [18, 18]},
        "d": {"dtype": "I64", "shape": [1], "data_offsets": [18, 26]},
        "__metadata__": {"format": "pt"},
    }
    header = json.dumps(content).encode()
    return len(header).to_bytes(8, "little") + header + bytes(26)


def _encoded(value: Any) -> bytes:
    import msgspec

    return msgspec.json.encode(value)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def main() -> None:
    """Replaces them."""
    for prefix in (SEED, FOUND):
        for old in CORPUS.glob(f"*/{prefix}*"):
            old.unlink()
    total = 0
    for target, name, content in kept():
        assert target in TARGETS
        path = CORPUS / target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        total += len(content)
    print(f"{total:,} bytes in {CORPUS}")


if __name__ == "__main__":
    main()
