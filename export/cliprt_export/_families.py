"""Which checkpoints are supported, and who reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cliprt._errors import CheckpointError
from cliprt._json import one_line
from cliprt_export import _hf_clip, _openclip, _siglip
from cliprt_export._checkpoint import Checkpoint
from cliprt_export._model import ClipModel


@dataclass(frozen=True)
class Family:
    """A kind of checkpoint.

    Attributes:
        name: as the card records it and ``--family`` takes it.
        title: what it is, for people.
        found: whether a checkpoint is of this kind.
        read: maps its configuration and tensors onto the towers.
        variants: what is supported of it.
        verified: what the tests compare it with.
    """

    name: str
    title: str
    found: Callable[[Checkpoint], bool]
    read: Callable[[Checkpoint], ClipModel]
    variants: str
    verified: str


FAMILIES: tuple[Family, ...] = (
    Family(
        name=_hf_clip.FAMILY,
        title="Hugging Face CLIP",
        found=_hf_clip.is_hf_clip,
        read=_hf_clip.read_hf_clip,
        variants=(
            "CLIPModel, CLIPVisionModelWithProjection, CLIPTextModelWithProjection; "
            "quick_gelu, gelu; every size"
        ),
        verified="transformers 5 (CLIPModel, CLIPTokenizer, CLIPImageProcessorPil), live",
    ),
    Family(
        name=_openclip.OPENCLIP,
        title="OpenCLIP",
        found=_openclip.is_openclip,
        read=_openclip.read_openclip,
        variants=(
            "VisionTransformer (class token or average pooling, layer scale) and ModifiedResNet; "
            "text causal or not, OpenCLIP's tokenizer or the folder's tokenizer.json (CLIPA)"
        ),
        verified="a torch reference written from its published definition, live",
    ),
    Family(
        name=_openclip.OPENAI,
        title="OpenAI CLIP",
        found=_openclip.is_openai,
        read=_openclip.read_openai,
        variants="the released state dicts as one safetensors file, ViT and RN",
        verified="a torch reference written from its published definition, live",
    ),
    Family(
        name=_siglip.FAMILY,
        title="Hugging Face SigLIP, SigLIP 2 of a fixed resolution",
        found=_siglip.is_siglip,
        read=_siglip.read_siglip,
        variants=(
            "SiglipModel, SiglipVisionModel, SiglipTextModel; SiglipTokenizer (SentencePiece "
            "unigram), GemmaTokenizer, Siglip2Tokenizer; every size; not NaFlex"
        ),
        verified=(
            "transformers 5 (SiglipModel, SiglipTokenizer with SentencePiece, GemmaTokenizer, "
            "Siglip2Tokenizer, SiglipImageProcessorPil), live"
        ),
    ),
)
"""In the order in which a checkpoint is tried."""

# Letters of a refusal.
_SHOWN = 1500


def read_model(checkpoint: Checkpoint, family: str | None = None) -> ClipModel:
    """Reads a checkpoint by the reader of its family.

    Args:
        checkpoint: what to read.
        family: name of the family, where a folder holds a model in more than one form; None takes
            the first that fits.

    Raises:
        CheckpointError: no family fits, or the files contradict each other.
    """
    try:
        return _read(checkpoint, family)
    except CheckpointError as error:
        # It quotes what the files hold.
        raise CheckpointError(one_line(error, _SHOWN)) from None
    except RecursionError:
        raise CheckpointError(f"a file of {checkpoint.name} is nested too deeply") from None


def _read(checkpoint: Checkpoint, family: str | None) -> ClipModel:
    wanted = [entry for entry in FAMILIES if family in (None, entry.name)]
    fitting = [entry for entry in wanted if entry.found(checkpoint)]
    if fitting:
        try:
            return fitting[0].read(checkpoint)
        except CheckpointError as error:
            others = [entry.name for entry in fitting[1:]]
            if not others:
                raise
            raise CheckpointError(
                f"{error}. Read as {fitting[0].name}; the folder can also be read with --family "
                f"{' or '.join(others)}"
            ) from None
    names = ", ".join(f"{entry.title} ({entry.name})" for entry in wanted)
    raise CheckpointError(
        f"{checkpoint.name} is of no supported kind: {checkpoint.describe()}. "
        f"Supported: {names}; see `cliprt models`"
    )
