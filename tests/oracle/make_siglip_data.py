"""Makes the vocabularies of tests/data for SigLIP and SigLIP 2. Run by hand, then ``make golden``.

- ``siglip_spiece.model.gz``: a SentencePiece unigram vocabulary with a few replacements of
  characters, among them sequences that combine, so that the order of matching shows;
- ``siglip2_tokenizer.json.gz``: a byte-falling-back BPE vocabulary laid out like Gemma's.
"""

from __future__ import annotations

import contextlib
import gzip
import random
import sys
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import sentencepiece
from hostile import strings
from tokenizers import (
    AddedToken,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

DATA = Path(__file__).resolve().parent.parent / "data"

_WORDS = (  # noqa: SIM905
    "a the picture photo of red green blue small large circles squares stars cat dog on left right "
    "above below two three four many striped dotted checkered shape drawn painted night morning"
).split()  # fmt: skip


def sentences() -> list[str]:
    """Text to train on: drawn sentences and the hostile strings that fit on a line."""
    drawn = random.Random(0)
    lines = [" ".join(drawn.choices(_WORDS, k=drawn.randrange(3, 12))) for _ in range(400)]
    lines += [text.lower() for text in strings() if 0 < len(text) < 200]
    lines += ["< u n k > <unk> </ s > > b", "a > b < c"] * 20
    return [
        line for line in (" ".join(line.split()) for line in lines) if "\0" not in line and line
    ]


def replacements() -> list[tuple[str, str]]:
    """Compositions, compatibility forms, letters that vanish, and overlapping sequences."""
    rules = {}
    for code in [*range(0xC0, 0x250), *range(0x1E00, 0x1F00)]:
        decomposed = unicodedata.normalize("NFD", chr(code))
        if decomposed != chr(code):
            rules[decomposed] = chr(code)
    for code in [0xA8, 0xAA, 0xB2, 0xBD, *range(0x2460, 0x2474), *range(0xFB00, 0xFB05),
                 *range(0xFF01, 0xFF5F), 0x2026, 0x338F]:  # fmt: skip
        rules[chr(code)] = unicodedata.normalize("NFKC", chr(code))
    rules |= {chr(code): " " for code in (0x09, 0x0A, 0xA0, 0x2003, 0x3000, 0x200B)}
    rules |= {"\u00ad": "", "\u0301": "", "o\u0323\u0302": "ộ", "🇩🇪": "de"}
    return sorted(rules.items())


def train_sentencepiece(folder: Path, **options: Any) -> bytes:
    """A model as T5's and SigLIP's are trained: pad 0, end 1, unknown 2, no start."""
    (folder / "corpus.txt").write_text("\n".join(sentences()), encoding="utf-8")
    settings: dict[str, Any] = {
        "model_type": "unigram",
        "vocab_size": 1400,
        "character_coverage": 0.999,
        "pad_id": 0,
        "eos_id": 1,
        "unk_id": 2,
        "bos_id": -1,
        "num_threads": 1,
        "minloglevel": 2,
        "hard_vocab_limit": False,
    }
    # Within the folder, because the file keeps the names it was made from.
    with contextlib.chdir(folder):
        sentencepiece.SentencePieceTrainer.train(
            input="corpus.txt", model_prefix="m", **(settings | options)
        )
    return (folder / "m.model").read_bytes()


def train_gemma() -> str:
    """Gemma's layout: five special tokens, bytes, then merges over text with signs for spaces."""
    tokenizer = Tokenizer(models.BPE(fuse_unk=True, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    table = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=[*special, *table], show_progress=False, limit_alphabet=400
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    plain = Tokenizer(tokenizer.model)
    plain.normalizer, plain.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    plain.add_special_tokens([AddedToken(token, special=True) for token in special])
    plain.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return plain.to_str()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rules = folder / "rules.tsv"
        lines = [
            "\t".join(" ".join(f"{ord(c):X}" for c in side) for side in pair)
            for pair in replacements()
        ]
        rules.write_text("\n".join(lines) + "\n", encoding="ascii")
        model = train_sentencepiece(folder, normalization_rule_tsv=rules.name)
    for file, data in (
        ("siglip_spiece.model.gz", model),
        ("siglip2_tokenizer.json.gz", train_gemma().encode()),
    ):
        (DATA / file).write_bytes(gzip.compress(data, mtime=0))


if __name__ == "__main__":
    main()
