"""The tokenizer of a Hugging Face CLIP checkpoint, as transformers' CLIPTokenizer builds it.

transformers 5 takes vocabulary and merges from the checkpoint (tokenizer.json, or vocab.json and
merges.txt) and rebuilds everything around them; what a tokenizer.json says about normalisation or
splitting is not used. The same is done here, so that ids are equal whatever the files hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from cliprt._errors import CheckpointError
from cliprt._texts import library_errors
from cliprt_export._checkpoint import Checkpoint

_CLASSES = (None, "CLIPTokenizer", "CLIPTokenizerFast")
_DEFAULT_TOKENS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
# OpenAI's splitting rule: special tokens, contractions, letters, single digits, the rest.
SPLIT = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class HfTokenizer:
    """A rebuilt tokenizer.

    Attributes:
        json: its serialised form, the bundle's ``tokenizer.json``.
        pad_id: id that fills up shorter texts.
        max_length: greatest number of tokens the checkpoint asks for, or None.
        greatest_id: the greatest id that it makes.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Reads the checkpoint's files.

        Raises:
            CheckpointError: files are missing or damaged, or it is another kind of tokenizer.
        """
        config = optional_json(checkpoint, "tokenizer_config.json")
        if config.get("tokenizer_class") not in _CLASSES:
            raise CheckpointError(
                f"{checkpoint.name} has a {config['tokenizer_class']}; supported is CLIPTokenizer"
            )
        with library_errors(CheckpointError, f"the tokenizer of {checkpoint.name} cannot be built"):
            self._build(checkpoint, config)

    def _build(self, checkpoint: Checkpoint, config: dict[str, Any]) -> None:
        names = dict(_DEFAULT_TOKENS)
        names.update({key: content_of(config[key]) for key in names if config.get(key)})
        tokenizer = Tokenizer(_bpe(checkpoint, names["unk_token"]))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLIT), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_tokens(list(added_tokens(checkpoint, config, names)))
        tokenizer.post_processor = processors.RobertaProcessing(
            (names["eos_token"], id_of(tokenizer, names["eos_token"], checkpoint)),
            (names["bos_token"], id_of(tokenizer, names["bos_token"], checkpoint)),
            False,  # trim_offsets
            False,  # add_prefix_space
        )
        self.json: str = tokenizer.to_str()
        self.pad_id = id_of(tokenizer, names["pad_token"], checkpoint)
        limit = config.get("model_max_length")
        # transformers writes an astronomical number where there is no limit.
        self.max_length = int(limit) if limit is not None and limit < 1e6 else None
        self.greatest_id = max(tokenizer.get_vocab(with_added_tokens=True).values())


def _bpe(checkpoint: Checkpoint, unknown: str) -> models.BPE:
    if (checkpoint.folder / "tokenizer.json").is_file():
        model = checkpoint.json("tokenizer.json").get("model", {})
        if model.get("type", "BPE") != "BPE":
            raise CheckpointError(
                f"{checkpoint.name} has a {model['type']} tokenizer; supported is CLIP's BPE"
            )
        vocabulary = model["vocab"]
        # Written as "a b" by older versions of the library, as ["a", "b"] by newer ones.
        pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
        merges = [(str(left), str(right)) for left, right in pairs]
    else:
        files = [checkpoint.folder / name for name in ("vocab.json", "merges.txt")]
        if missing := [file.name for file in files if not file.is_file()]:
            raise CheckpointError(
                f"{checkpoint.name} has no tokenizer.json, and {' and '.join(missing)} is missing"
            )
        vocabulary, merges = models.BPE.read_file(*map(str, files))
    return models.BPE(
        vocab=vocabulary,
        merges=merges,
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
        fuse_unk=False,
        unk_token=unknown,
    )


def added_tokens(
    checkpoint: Checkpoint, config: dict[str, Any], names: dict[str, str]
) -> Iterator[AddedToken]:
    """Added tokens by id, then named special tokens that are not among them."""
    entries: dict[int, dict[str, Any]] = {}
    named: dict[str, Any] = {}
    if "added_tokens_decoder" in config:
        entries = {int(index): entry for index, entry in config["added_tokens_decoder"].items()}
    else:
        named = optional_json(checkpoint, "special_tokens_map.json")
        for entry in optional_json(checkpoint, "tokenizer.json").get("added_tokens", []):
            entries[entry["id"]] = {key: entry[key] for key in entry if key != "id"}
    seen = set()
    for _, entry in sorted(entries.items()):
        seen.add(entry["content"])
        yield AddedToken(**entry)
    for role, content in names.items():
        if content not in seen:
            seen.add(content)
            value = named.get(role)
            options: dict[str, Any] = dict(value) if isinstance(value, dict) else {}
            yield AddedToken(**{**options, "content": content, "special": True})


def content_of(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def id_of(tokenizer: Tokenizer, token: str, checkpoint: Checkpoint) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise CheckpointError(f"{checkpoint.name} has no token {token!r}")
    return int(found)


def optional_json(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    return checkpoint.json(name) if (checkpoint.folder / name).is_file() else {}
