"""Builds a CLIP tokenizer for a small corpus, laid out file by file like OpenAI's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

START = "<|startoftext|>"
END = "<|endoftext|>"
WORD_END = "</w>"
MAX_MERGES = 400


def learn_tokenizer(corpus: Iterable[str], context: int) -> CLIPTokenizer:
    """Learns byte pair merges from a corpus and builds a CLIP tokenizer of them.

    The vocabulary has OpenAI's order: the 256 bytes, the same bytes as ends of words, the merged
    tokens in the order of the merges, the start token and the end token.

    Args:
        corpus: The texts to learn from.
        context: The largest number of ids the model takes.

    Returns:
        The tokenizer.
    """
    merges = _learn_merges(corpus)
    alphabet = _byte_alphabet()
    tokens = [
        *alphabet,
        *(byte + WORD_END for byte in alphabet),
        *(left + right for left, right in merges),
        START,
        END,
    ]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        bos_token=AddedToken(**_flags(START), special=True),
        eos_token=AddedToken(**_flags(END), special=True),
        model_max_length=context,
        processor_class="CLIPProcessor",
    )


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Writes the five files that a CLIP checkpoint on the Hub has for its tokenizer.

    Args:
        tokenizer: The tokenizer.
        folder: The checkpoint folder.
    """
    backend = tokenizer.backend_tokenizer
    # Padding is the caller's choice; training has left its own behind.
    backend.no_padding()
    backend.save(str(folder / "tokenizer.json"))
    backend.model.save(str(folder))
    names = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    tokens = {text: _flags(text) for text in (START, END)}
    settings = {
        **names,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(tokenizer.convert_tokens_to_ids(text)): {**flags, "special": True}
            for text, flags in tokens.items()
        },
        "clean_up_tokenization_spaces": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": tokenizer.model_max_length,
        "processor_class": "CLIPProcessor",
        "tokenizer_class": "CLIPTokenizer",
    }
    write_json(folder / "tokenizer_config.json", settings)
    special = {role: tokens[text] for role, text in names.items()}
    write_json(folder / "special_tokens_map.json", special)


def _flags(text: str) -> dict[str, object]:
    """Returns how a special token is matched.

    OpenAI's published tokenizer marks its start token, and only that one, as normalized.
    """
    return {
        "content": text,
        "lstrip": False,
        "normalized": text == START,
        "rstrip": False,
        "single_word": False,
    }


def write_json(path: Path, content: object) -> None:
    """Writes a JSON file in the Hub's style, with a final line break."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _learn_merges(corpus: Iterable[str]) -> list[tuple[str, str]]:
    """Returns the byte pair merges that a corpus teaches, most frequent first."""
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    # The words are split as they will be: only the model behind the splitting differs.
    template = CLIPTokenizer().backend_tokenizer
    learner.normalizer = template.normalizer
    learner.pre_tokenizer = template.pre_tokenizer
    alphabet_size = 2 * len(_byte_alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=alphabet_size + MAX_MERGES,
        initial_alphabet=_byte_alphabet(),
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    learner.train_from_iterator(corpus, trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]


def _byte_alphabet() -> list[str]:
    """Returns the characters that stand for the 256 bytes, printable bytes first as in CLIP."""
    return sorted(ByteLevel.alphabet())
