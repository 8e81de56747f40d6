"""The tokenizers of OpenCLIP and OpenAI's CLIP, as a tokenizer.json.

Their own tokenizer is a byte-pair encoding whose vocabulary comes with the library and not with the
checkpoint, so it is shipped here. Some OpenCLIP models take a tokenizer of transformers instead,
whose tokenizer.json lies in their folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from cliprt._errors import CheckpointError
from cliprt._texts import library_errors
from cliprt_export._checkpoint import Checkpoint
from cliprt_export._clip_vocabulary import WORD_END, read_merges, words_of
from cliprt_export._hf_tokenizer import content_of, optional_json

OPENCLIP_TOKENS = ("<start_of_text>", "<end_of_text>")
OPENAI_TOKENS = ("<|startoftext|>", "<|endoftext|>")

START_ID, END_ID = 49406, 49407

# The libraries split with the module `regex`, whose tables know later letters and numbers than
# those of `tokenizers` (Unicode 16). Code points and ranges of them, in hexadecimal.
_NEWER_LETTERS = (
    "558 58b-58c 88f c5c cdc 208f 209d-209f a7ce-a7cf a7d2 a7d4 a7dd a7e2 a7f1 ab6c-ab6d "
    "107bb-107bf 10940-10959 10ec5-10ec7 10ed9-10eee 11b0a 11db0-11ddb 11df1 16ea0-16eb8 "
    "16ebb-16ed3 16ff2-16ff3 187f8-187ff 18cd6-18cda 18d09-18d20 18d80-18df2 18e00-19191 "
    "191a0-191d2 1b123-1b128 1b168 1d6a6 1df1f-1df24 1df2b-1df81 1df90-1df96 1dfcd-1dfff "
    "1e6c0-1e6de 1e6e0-1e6e2 1e6e4-1e6e5 1e6e7-1e6ed 1e6f0-1e6f4 1e6fe-1e6ff 2b73a-2b73f "
    "2b81e 2cea2-2cead 323b0-33479 3d000-3fc3f"
)
_NEWER_NUMBERS = "11de0-11de9 1246f 12475-1247f 12550-12686 16ff4-16ff6"
# Ignoring case, as the libraries do, `regex` takes this mark neither for a letter, nor for anything
# else: its capital is a letter. So it is left out of every word.
_IOTA_SUBSCRIPT = "345"


@dataclass(frozen=True)
class FolderTokenizer:
    """A tokenizer that lies in the checkpoint's folder.

    Attributes:
        json: its serialised form, the bundle's ``tokenizer.json``.
        pad_id: id that fills up shorter texts.
        separator_id: id of the separator, if it is to be stripped.
    """

    json: str
    pad_id: int
    separator_id: int | None


def own_tokenizer(special: tuple[str, str]) -> str:
    """The library's own tokenizer for text that has been lowered, as a tokenizer.json.

    Args:
        special: its start and end tokens. Where a text holds one of them as a word of its own, it
            becomes the token's id, as in the library.
    """
    merges = read_merges()
    vocabulary = {word: index for index, word in enumerate(words_of(merges))}
    for token, index in zip(special, (START_ID, END_ID), strict=True):
        _add_special(token, index, vocabulary, merges)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix=WORD_END,
            fuse_unk=False,
        )
    )
    pattern = "|".join([*map(_any_case, special), _words()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    start, end = special
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, START_ID), (end, END_ID)]
    )
    return str(tokenizer.to_str())


def folder_tokenizer(
    checkpoint: Checkpoint, *, strip_separator: bool, vocabulary: int
) -> FolderTokenizer:
    """The tokenizer.json of a checkpoint's folder.

    Args:
        checkpoint: the folder.
        strip_separator: whether the separator is replaced by 0, OpenCLIP's strip_sep_token.
        vocabulary: ids that the text tower knows.

    Raises:
        CheckpointError: files are missing or damaged, or do not fit the tower.
    """
    if not (checkpoint.folder / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{checkpoint.name} asks for a tokenizer of transformers and holds no tokenizer.json; "
            "save it there with AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER)"
        )
    # The client decides on these two itself.
    content = {**checkpoint.json("tokenizer.json"), "truncation": None, "padding": None}
    config = optional_json(checkpoint, "tokenizer_config.json")
    named = {**optional_json(checkpoint, "special_tokens_map.json"), **config}
    for side in ("padding_side", "truncation_side"):
        if named.get(side, "right") != "right":
            raise CheckpointError(f"{checkpoint.name} has a {side} other than right")
    with library_errors(CheckpointError, f"the tokenizer.json of {checkpoint.name} cannot be used"):
        pad_id = _id_of(content, content_of(named.get("pad_token", "[PAD]")))
        separator_id = None
        if strip_separator:
            separator_id = _id_of(content, content_of(named.get("sep_token", "[SEP]")))
        tokenizer_json = json.dumps(content, ensure_ascii=False)
        tokenizer = Tokenizer.from_str(tokenizer_json)
    greatest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if greatest >= vocabulary:
        raise CheckpointError(
            f"the tokenizer of {checkpoint.name} makes ids up to {greatest}, "
            f"its text tower knows {vocabulary}"
        )
    return FolderTokenizer(tokenizer_json, pad_id, separator_id)


def _words() -> str:
    """Matches one word: a contraction, letters, a digit, or a run of everything else but space."""
    letters = r"\p{L}" + _class(_NEWER_LETTERS)
    numbers = r"\p{N}" + _class(_NEWER_NUMBERS)
    others = rf"[^\s{letters}{numbers}{_class(_IOTA_SUBSCRIPT)}]+"
    contractions = r"'[sSſ]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
    return f"{contractions}|[{letters}]+|[{numbers}]|{others}"


def _class(ranges: str) -> str:
    """Code points and ranges as what stands inside the brackets of a pattern."""
    return "".join(
        "-".join(f"\\x{{{code}}}" for code in entry.split("-")) for entry in ranges.split()
    )


def _add_special(
    token: str, index: int, vocabulary: dict[str, int], merges: list[tuple[str, str]]
) -> None:
    """Makes the encoding join a special token, and nothing else, into one id.

    The library looks a special token up before it merges anything. Here the pieces that are left of
    it after all other merges are joined by merges of the lowest rank. The first of them joins a
    sign and the letters behind it, which stand together in no other word of a lowered text (all
    words are of letters alone or of signs alone, but for contractions); every later one needs its
    result.
    """
    pieces = _merged(token, merges)
    letters = next(place for place, piece in enumerate(pieces) if piece[0].isalpha())
    joined = pieces[letters - 1]
    steps = [(piece, False) for piece in pieces[letters:]]
    steps += [(piece, True) for piece in reversed(pieces[: letters - 1])]
    for piece, before in steps:
        pair = (piece, joined) if before else (joined, piece)
        merges.append(pair)
        joined = "".join(pair)
        # Ids beyond the special ones for the steps on the way, which never come out.
        vocabulary[joined] = max(END_ID, *vocabulary.values()) + 1
    vocabulary[joined] = index


def _merged(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """Pieces of a word of ASCII letters and signs after all merges."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    pieces = [*word[:-1], word[-1] + WORD_END]
    while True:
        pairs = list(pairwise(pieces))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)), default=None)
        if best is None or best not in ranks:
            return pieces
        place = pairs.index(best)
        pieces[place : place + 2] = ["".join(best)]


def _any_case(token: str) -> str:
    """Matches a special token in any case, as Unicode's simple case folding has it."""
    others = {"s": "sSſ", "k": "kK\u212a"}
    return "".join(
        f"[{others.get(letter, letter + letter.upper())}]" if letter.isalpha() else f"[{letter}]"
        for letter in token
    )


def _id_of(content: dict[str, Any], token: str) -> int:
    for entry in content.get("added_tokens", []):
        if entry["content"] == token:
            return int(entry["id"])
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, dict) and token in vocabulary:
        return int(vocabulary[token])
    raise ValueError(f"it has no token {token!r}")
