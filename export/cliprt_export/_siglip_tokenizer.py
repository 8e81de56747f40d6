"""The tokenizers of SigLIP and SigLIP 2, as transformers builds them for such a checkpoint.

Its AutoTokenizer follows ``tokenizer_class``:

- SiglipTokenizer reads ``spiece.model`` and nothing else. The vocabulary becomes a ``tokenizers``
  file; the rules around it are applied by the client (``cleaning="siglip"``), because the library
  cannot express them exactly.
- GemmaTokenizer and Siglip2Tokenizer take vocabulary, merges and what surrounds a text from
  ``tokenizer.json`` and rebuild the rest; the second one lowers letters, the first does not. The
  same is done here.
"""

from __future__ import annotations

import base64
import json
import string
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from cliprt._errors import CheckpointError
from cliprt._sentencepiece import HIDDEN, SPACE
from cliprt._texts import library_errors
from cliprt_export._checkpoint import Checkpoint
from cliprt_export._hf_tokenizer import added_tokens, content_of, id_of, optional_json
from cliprt_export._sentencepiece import Kind, Piece, SentencePieceModel, parse_sentencepiece

_SPIECE = "spiece.model"
_GEMMA_TOKENS = {
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_SIGLIP_TOKENS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
_SIGLIP_LENGTH = 64


@dataclass(frozen=True)
class SiglipText:
    """A rebuilt tokenizer.

    Attributes:
        json: its serialised form, the bundle's ``tokenizer.json``.
        cleaning: see ``cliprt.TextSpec.cleaning``.
        end_id: id of the end-of-text token.
        pad_id: id that fills up shorter texts.
        ids: one more than the highest id.
        max_length: number of tokens the checkpoint asks for, or None.
    """

    json: str
    cleaning: Literal["none", "siglip"]
    end_id: int
    pad_id: int
    ids: int
    max_length: int | None


def read_siglip_tokenizer(checkpoint: Checkpoint) -> SiglipText:
    """Reads a checkpoint's tokenizer files.

    Raises:
        CheckpointError: files are missing or damaged, it is another kind of tokenizer, or it has
            options whose ids could not be guaranteed.
    """
    config = optional_json(checkpoint, "tokenizer_config.json")
    kind = str(config.get("tokenizer_class") or "SiglipTokenizer").removesuffix("Fast")
    with library_errors(CheckpointError, f"the tokenizer of {checkpoint.name} cannot be built"):
        if kind == "SiglipTokenizer":
            return _siglip(checkpoint, config)
        if kind in ("GemmaTokenizer", "Siglip2Tokenizer"):
            return _gemma(checkpoint, config, lower=kind == "Siglip2Tokenizer")
    raise CheckpointError(
        f"{checkpoint.name} has a {kind}; "
        "supported are SiglipTokenizer, GemmaTokenizer and Siglip2Tokenizer"
    )


def _max_length(config: dict[str, Any], default: int | None) -> int | None:
    """The limit of the configuration; transformers writes an astronomical number for none."""
    limit = config.get("model_max_length", default)
    return int(limit) if limit is not None and limit < 1e6 else None


def _siglip(checkpoint: Checkpoint, config: dict[str, Any]) -> SiglipText:
    path = checkpoint.folder / _SPIECE
    if not path.is_file():
        raise CheckpointError(
            f"{checkpoint.name} has a SiglipTokenizer and no {_SPIECE}, which is what that reads"
        )
    try:
        model = parse_sentencepiece(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{_SPIECE} of {checkpoint.name} cannot be used: {error}") from None
    if not config.get("do_lower_case", True):
        raise CheckpointError(
            f"{checkpoint.name} has a SiglipTokenizer that keeps capital letters; "
            "supported is the usual one, which lowers them"
        )
    names = {
        role: content_of(config[role]) if config.get(role) else content
        for role, content in _SIGLIP_TOKENS.items()
    }
    special = _special_ids(checkpoint, config, model, names)
    end_id, pad_id = special[names["eos_token"]], special[names["pad_token"]]
    if end_id != pad_id:
        raise CheckpointError(
            f"{checkpoint.name} fills texts up with {names['pad_token']!r}; a SiglipTokenizer is "
            f"supported where that is the end token, {names['eos_token']!r}"
        )
    if model.pieces[special[names["unk_token"]]].kind is not Kind.UNKNOWN:
        raise CheckpointError(
            f"{names['unk_token']!r} is not the unknown piece in {_SPIECE} of {checkpoint.name}"
        )
    _check_pieces(checkpoint, model)
    content = _unigram_json(model, special, names)
    Tokenizer.from_str(content)
    length = _max_length(config, _SIGLIP_LENGTH)
    return SiglipText(content, "siglip", end_id, pad_id, len(model.pieces), length)


def _special_ids(
    checkpoint: Checkpoint,
    config: dict[str, Any],
    model: SentencePieceModel,
    names: dict[str, str],
) -> dict[str, int]:
    """Ids of the tokens that count as such when a text spells them."""
    ids = {piece.text: index for index, piece in enumerate(model.pieces)}
    wanted = [*names.values()]
    for index, entry in config.get("added_tokens_decoder", {}).items():
        content = content_of(entry)
        if ids.get(content) != int(index) or entry.get("single_word"):
            raise CheckpointError(
                f"{checkpoint.name} adds the token {content!r}, which is not in its {_SPIECE} "
                f"under the id {index}, or counts as a whole word only; that is not supported"
            )
        wanted.append(content)
    for role in ("additional_special_tokens", "extra_special_tokens", "bos_token", "mask_token"):
        value = config.get(role) or []
        wanted += [content_of(entry) for entry in (value if isinstance(value, list) else [value])]
    if missing := [content for content in wanted if content not in ids]:
        raise CheckpointError(f"{_SPIECE} of {checkpoint.name} has no piece {missing[0]!r}")
    return {content: ids[content] for content in wanted}


def _check_pieces(checkpoint: Checkpoint, model: SentencePieceModel) -> None:
    """Refuses pieces that SentencePiece finds before it normalises a text.

    Canonical text holds no ASCII punctuation, so that pieces with some are never found there.
    """
    for piece in model.pieces:
        if piece.kind is Kind.USER_DEFINED and not set(piece.text) & set(string.punctuation):
            raise CheckpointError(
                f"{_SPIECE} of {checkpoint.name} has the user-defined piece {piece.text!r}; "
                "supported are such pieces with punctuation, which a text cannot spell"
            )


def _unigram_json(model: SentencePieceModel, special: dict[str, int], names: dict[str, str]) -> str:
    """The vocabulary and what surrounds it as a ``tokenizers`` file."""

    def text(piece: Piece) -> str:
        # No text may spell what is no text.
        return piece.text if piece.kind in (Kind.NORMAL, Kind.BYTE) else piece.text + HIDDEN

    end = names["eos_token"]
    vocabulary = [(text(piece), piece.score) for piece in model.pieces]
    unigram = models.Unigram(vocabulary, special[names["unk_token"]], model.byte_fallback)
    tokenizer = Tokenizer(unigram)
    scheme = "always" if model.dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, special[end])]
    )
    if model.charsmap:
        tokenizer.normalizer = normalizers.Precompiled(model.charsmap)
    content = json.loads(tokenizer.to_str())
    if model.charsmap:
        # Kept as it is in the file, whichever way the library writes it.
        content["normalizer"]["precompiled_charsmap"] = base64.b64encode(model.charsmap).decode()
    content["added_tokens"] = [
        {
            "id": index,
            "content": text(model.pieces[index]),
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for index in sorted(set(special.values()))
    ]
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _gemma(checkpoint: Checkpoint, config: dict[str, Any], *, lower: bool) -> SiglipText:
    content = checkpoint.json("tokenizer.json")
    stored = (content.get("padding") or {}).get("direction", "left")
    side = str(config.get("padding_side", stored)).lower()
    if side != "right":
        raise CheckpointError(
            f"the tokenizer of {checkpoint.name} fills texts up on the {side}, which is not "
            "supported; published SigLIP 2 has padding_side 'right' in tokenizer_config.json"
        )
    names = dict(_GEMMA_TOKENS)
    names.update({key: content_of(config[key]) for key in names if config.get(key)})
    model = content.get("model", {})
    if model.get("type") != "BPE":
        raise CheckpointError(
            f"{checkpoint.name} has a {model.get('type')} tokenizer; supported is Gemma's BPE"
        )
    # Written as "a b" by older versions of the library, as ["a", "b"] by newer ones.
    pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
    tokenizer = Tokenizer(
        models.BPE(
            vocab=model["vocab"],
            merges=[(str(left), str(right)) for left, right in pairs],
            fuse_unk=True,
            unk_token=names["unk_token"],
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Lowercase(), spaces]) if lower else spaces
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.add_tokens(list(added_tokens(checkpoint, config, names)))
    if (surroundings := _surroundings(content)) is not None:
        tokenizer.post_processor = surroundings
    return SiglipText(
        json=tokenizer.to_str(),
        cleaning="none",
        end_id=id_of(tokenizer, names["eos_token"], checkpoint),
        pad_id=id_of(tokenizer, names["pad_token"], checkpoint),
        ids=max(tokenizer.get_vocab().values()) + 1,
        max_length=_max_length(config, None),
    )


def _surroundings(content: dict[str, Any]) -> Any:
    """What stands before and after a text.

    Where there is a tokenizer.json, it alone decides: transformers ignores ``add_bos_token`` and
    ``add_eos_token`` of tokenizer_config.json beside it.
    """
    if content.get("post_processor") is None:
        return None
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    minimal = Tokenizer.from_str(json.dumps({**content, "model": empty, "added_tokens": []}))
    return minimal.post_processor
