"""Models with drawn weights: the published sizes for speed work, without a download.

What such a model answers means nothing. But a signal passes through all its layers, so that its
precision and its speed can be measured like those of a trained one.
"""

from __future__ import annotations

import hashlib
from math import prod

import numpy as np
from numpy.typing import NDArray
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

from cliprt._card import ImageSpec, TextSpec
from cliprt._errors import CheckpointError
from cliprt_export._architectures import ARCHITECTURES, Architecture
from cliprt_export._clip_vocabulary import WORD_END, read_merges, words_of
from cliprt_export._hf_tokenizer import SPLIT
from cliprt_export._model import ClipModel, ImageSide, TextSide
from cliprt_export._specs import Shapes, Tensors, Tower, tower_tensors

FAMILY = "random"
LOGIT_SCALE = 100.0

_START, _END = "<|startoftext|>", "<|endoftext|>"

# Half-widths of the interval a tensor is drawn from, by the end of its name. A linear layer or a
# convolution that is not named keeps the variance of what enters it.
_SCALES = {
    "token_embedding": 1.0,
    "positions": 0.5,
    "class_token": 0.5,
    "head.probe": 1.0,
    "bias": 0.1,
}
# What a block adds is smaller than what passes it by, as in trained models.
_GAINS = {"attention.out.weight": 0.5, "mlp.down.weight": 0.5, "conv3.weight": 0.5}
# Half of what enters a convolution was cut off by the rectifier before it.
_RECTIFIED_GAIN = 2**0.5


def random_model(architecture: str, seed: int = 0) -> ClipModel:
    """A model of a published architecture with drawn weights.

    Args:
        architecture: a key of ``ARCHITECTURES``.
        seed: equal seeds give equal weights, on every machine and version of NumPy.

    Raises:
        CheckpointError: there is no such architecture.
    """
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"there is no architecture {architecture!r}; there are {', '.join(ARCHITECTURES)}"
        )
    return model_of(ARCHITECTURES[architecture], f"random-{architecture}", seed)


def model_of(entry: Architecture, name: str, seed: int) -> ClipModel:
    """A model of any sizes with drawn weights."""
    image, text = entry.image, entry.text
    shortest = entry.resize == "shortest"
    image_spec = ImageSpec(
        height=image.height,
        width=image.width,
        resize=entry.resize,
        resize_height=image.height,
        resize_width=image.width,
        resample="bicubic",
        crop="round" if shortest else "none",
        convert="last" if shortest else "first",
        transparency="drop",
        mean=image.mean,
        std=image.std,
        rescale=image.rescale,
    )
    text_spec = TextSpec(
        context_length=text.context,
        fixed_length=text.fixed_length,
        pooling=text.pooling,
        cleaning=entry.cleaning,
        end_id=text.end_id,
        pad_id=text.end_id,
        vocabulary=text.vocabulary,
    )
    return ClipModel(
        family=FAMILY,
        name=name,
        revision=None,
        image=ImageSide(image, drawn_tensors(image, f"{seed}/image"), image_spec),
        text=TextSide(
            text, drawn_tensors(text, f"{seed}/text"), text_spec, _tokenizer_json(text.vocabulary)
        ),
        logit_scale=LOGIT_SCALE,
        logit_bias=entry.logit_bias,
    )


def drawn_tensors(tower: Tower, stream: str) -> Tensors:
    """Draws a tower's tensors when they are asked for, each from its own name.

    Args:
        tower: which tensors there are.
        stream: towers with different streams have different weights.
    """
    shapes: Shapes = tower_tensors(tower)

    def tensor(name: str) -> NDArray[np.float32]:
        shape = shapes[name]
        drawn = _uniform(f"{stream}/{name}", prod(shape)).reshape(shape)
        if "norm" in name and name.endswith("weight"):
            return drawn * np.float32(0.2) + np.float32(1.0)
        if name.endswith(("scale1", "scale2")):
            return drawn * np.float32(0.1) + np.float32(0.5)
        drawn *= np.float32(_half_width(name, shape))
        if len(shape) == 4 and shape[1] % 2 == 0:
            # What a rectifier lets through has a mean that is the same for every picture and would
            # drown the rest. In a trained model the batch norms remove it, here pairs of weights.
            drawn[:, 1::2] = -drawn[:, ::2]
        return drawn

    return tensor


def _half_width(name: str, shape: tuple[int, ...]) -> float:
    for end, scale in _SCALES.items():
        if name.endswith(end):
            return scale
    inputs = prod(shape[1:])
    gains = [gain for end, gain in _GAINS.items() if name.endswith(end)]
    gain = gains[0] if gains else 1.0
    if name.startswith(("stem.", "stages.")):
        gain *= _RECTIFIED_GAIN
    # The variance of a uniform distribution is a third of the square of its half-width.
    return float(gain * (3 / inputs) ** 0.5)


def _uniform(stream: str, count: int) -> NDArray[np.float32]:
    """Numbers in [-1, 1), 24 bits each.

    Made of raw generator bits: NumPy guarantees their stream for ever, not its distributions.
    """
    seed = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:16], "little")
    raw = np.random.PCG64(seed).random_raw(-(-count // 2))
    # Two numbers from each 64 bits, the lower half first on every machine.
    halves = raw.astype("<u8", copy=False).view("<u4")[:count]
    halves >>= 8
    values = halves.astype(np.float32)
    values *= np.float32(2.0**-23)
    values -= np.float32(1.0)
    return values


def _tokenizer_json(size: int) -> str:
    """CLIP's byte-pair vocabulary, or as many of its first merges as the size leaves room for."""
    pairs = read_merges()[: size - len(words_of([])) - 2]
    words = [*words_of(pairs), _START, _END]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=pairs,
            continuing_subword_prefix="",
            end_of_word_suffix=WORD_END,
            unk_token=_END,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in (_START, _END)]
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_START} $A {_END}",
        special_tokens=[(token, vocabulary[token]) for token in (_START, _END)],
    )
    json: str = tokenizer.to_str()
    return json
