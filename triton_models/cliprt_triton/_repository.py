"""Bundle to model repository."""

from __future__ import annotations

import shutil
from pathlib import Path

from cliprt._bundle import TOKENIZER, Bundle
from cliprt._card import TextSpec, encode_card
from cliprt._errors import BundleError
from cliprt._folders import folder_that_becomes
from cliprt._names import (
    CARD_PARAMETER,
    EMBEDDING,
    LENGTHS_PARAMETER,
    PIXELS,
    TOKENS,
    ModelNames,
    served_version,
)
from cliprt_triton._config import Batching, ModelConfig, Tensor, Warmup
from cliprt_triton._served import ServedModel

_SOURCES = Path(__file__).parent / "models"


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
    models = _models(bundle, ModelNames(name), batching or Batching())
    target = Path(out)
    if target.exists():
        raise BundleError(f"{target} already exists; choose another --out")
    with folder_that_becomes(target) as folder:
        for model in models:
            _write_model(folder, model, link)
    return target


def _models(bundle: Bundle, names: ModelNames, batching: Batching) -> list[ServedModel]:
    card = bundle.card
    version = served_version(card.space)
    carried = {CARD_PARAMETER: encode_card(card).decode()}
    embedding = Tensor(EMBEDDING, "TYPE_FP32", (card.dim,))
    models: list[ServedModel] = []
    if card.image is not None:
        pixels = (card.image.height, card.image.width, 3)
        image = ModelConfig(
            name=names.image,
            version=version,
            inputs=(Tensor(PIXELS, "TYPE_UINT8", pixels),),
            outputs=(embedding,),
            batching=batching,
            warmup=(Warmup("one", 1, pixels),),
            parameters=carried,
        )
        models.append(ServedModel(image, "tower", _graph(bundle, "image.fp32.onnx")))
    if card.text is not None:
        text = _text_config(card.text, names.text, version, embedding, batching, carried)
        models.append(ServedModel(text, "tower", _graph(bundle, "text.fp32.onnx")))
        files = ModelConfig(
            name=names.card,
            version=version,
            inputs=(Tensor("name", "TYPE_UINT8", (-1,)),),
            outputs=(Tensor("content", "TYPE_UINT8", (-1,)),),
            parameters={"files": TOKENIZER},
        )
        models.append(ServedModel(files, "card", {TOKENIZER: bundle.file(TOKENIZER)}))
    return models


def _graph(bundle: Bundle, graph: str) -> dict[str, Path]:
    """A tower's files: the graph, and its weights under the names by which it refers to them."""
    weights = {name: bundle.file(name) for name in bundle.weights_of(graph)}
    return {"model.onnx": bundle.file(graph), **weights}


def _text_config(
    spec: TextSpec,
    name: str,
    version: int,
    embedding: Tensor,
    batching: Batching,
    carried: dict[str, str],
) -> ModelConfig:
    context = spec.context_length
    # Triton refuses other lengths by itself, naming the right one.
    tokens = Tensor(TOKENS, "TYPE_INT32", (context,))
    if not spec.fixed_length:
        # Texts of unequal length share a batch: the model fills them up.
        tokens = Tensor(TOKENS, "TYPE_INT32", (-1,), ragged=True)
    return ModelConfig(
        name=name,
        version=version,
        inputs=(tokens,),
        outputs=(embedding,),
        batching=batching,
        warmup=(Warmup("one", 1, (context,)),),
        parameters={
            **carried,
            LENGTHS_PARAMETER: "",
            "vocabulary": str(spec.vocabulary),
            "pad_id": str(spec.pad_id),
            "max_length": str(context),
        },
    )


def _write_model(repository: Path, model: ServedModel, link: bool) -> None:
    version = repository / model.config.name / str(model.config.version)
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(model.config.to_pbtxt(), encoding="utf-8")
    if model.code is not None:
        shutil.copyfile(_SOURCES / f"{model.code}.py", version / "model.py")
    for name, content in model.contents.items():
        (version / name).write_bytes(content)
    for name, source in model.files.items():
        if link:
            (version / name).symlink_to(source.resolve())
        else:
            shutil.copyfile(source, version / name)
