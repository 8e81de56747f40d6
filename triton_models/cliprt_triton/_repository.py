"""Bundle to model repository."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from cliprt._bundle import TOKENIZER, Bundle
from cliprt._card import Card, TextSpec, encode_card
from cliprt._errors import BundleError
from cliprt._folders import folder_that_becomes
from cliprt._names import CARD_PARAMETER, EMBEDDING, PIXELS, TOKENS, ModelNames
from cliprt_triton._config import Batching, ModelConfig, Tensor, Warmup

_SOURCES = Path(__file__).parent / "models"
_VERSION = "1"


@dataclass(frozen=True)
class _Model:
    """A folder of the repository.

    Attributes:
        config: its configuration.
        source: its ``model.py``, under ``models/``.
        files: what else lies in the version's folder: name there, name in the bundle.
    """

    config: ModelConfig
    source: str
    files: dict[str, str]


def write_repository(
    bundle: Bundle,
    out: str | Path,
    *,
    name: str = "clip",
    batching: Batching | None = None,
    link: bool = False,
) -> Path:
    """Writes a model repository. It appears whole or not at all.

    Args:
        bundle: what to serve.
        out: folder to write; it must not exist.
        name: prefix of the models' names, so that one server can hold several bundles.
        batching: dynamic batching of both towers; None means the defaults.
        link: point to the bundle's files instead of copying them; for a repository that is used
            where it is made and goes before the bundle does.

    Returns:
        The folder.

    Raises:
        BundleError: out exists, or cannot be written.
        ValueError: name is not allowed.
    """
    models = _models(bundle.card, ModelNames(name), batching or Batching())
    target = Path(out)
    if target.exists():
        raise BundleError(f"{target} already exists; choose another --out")
    with folder_that_becomes(target) as folder:
        for model in models:
            _write_model(folder, bundle, model, link)
    return target


def _models(card: Card, names: ModelNames, batching: Batching) -> list[_Model]:
    carried = {CARD_PARAMETER: encode_card(card).decode()}
    embedding = Tensor(EMBEDDING, "TYPE_FP32", (card.dim,))
    models: list[_Model] = []
    if card.image is not None:
        pixels = (card.image.height, card.image.width, 3)
        image = ModelConfig(
            name=names.image,
            inputs=(Tensor(PIXELS, "TYPE_UINT8", pixels),),
            outputs=(embedding,),
            batching=batching,
            warmup=(Warmup("one", 1, pixels),),
            parameters=carried,
        )
        models.append(_Model(image, "tower.py", {"model.onnx": "image.fp32.onnx"}))
    if card.text is not None:
        text = _text_config(card.text, names.text, embedding, batching, carried)
        models.append(_Model(text, "tower.py", {"model.onnx": "text.fp32.onnx"}))
        files = ModelConfig(
            name=names.card,
            inputs=(Tensor("name", "TYPE_UINT8", (-1,)),),
            outputs=(Tensor("content", "TYPE_UINT8", (-1,)),),
            parameters={"files": TOKENIZER},
        )
        models.append(_Model(files, "card.py", {TOKENIZER: TOKENIZER}))
    return models


def _text_config(
    spec: TextSpec, name: str, embedding: Tensor, batching: Batching, carried: dict[str, str]
) -> ModelConfig:
    context = spec.context_length
    # Triton refuses other lengths by itself, naming the right one.
    tokens = Tensor(TOKENS, "TYPE_INT32", (context,))
    if not spec.fixed_length:
        # Texts of unequal length share a batch: model.py fills them up.
        tokens = Tensor(TOKENS, "TYPE_INT32", (-1,), ragged=True)
    return ModelConfig(
        name=name,
        inputs=(tokens,),
        outputs=(embedding,),
        batching=batching,
        warmup=(Warmup("one", 1, (context,)),),
        parameters={
            **carried,
            "vocabulary": str(spec.vocabulary),
            "pad_id": str(spec.pad_id),
            "max_length": str(context),
        },
    )


def _write_model(repository: Path, bundle: Bundle, model: _Model, link: bool) -> None:
    version = repository / model.config.name / _VERSION
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(model.config.to_pbtxt(), encoding="utf-8")
    shutil.copyfile(_SOURCES / model.source, version / "model.py")
    for name, source in model.files.items():
        if link:
            (version / name).symlink_to(bundle.file(source).resolve())
        else:
            shutil.copyfile(bundle.file(source), version / name)
