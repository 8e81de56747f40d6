"""The models around the towers: from files and strings to embeddings, for callers of any language.

Strings go through an ensemble of two models. What decodes pictures calls the towers itself and
waits for them, so that no more is decoded than the tower takes: in an ensemble the tower would
refuse what was just decoded, and a server with too much to do would spend its time on that.
Pictures and strings together cannot be an ensemble for another reason, too: Triton before 26.03
never answers one that has two steps under way when a full queue refuses one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from cliprt._bundle import CERTIFICATE, GOLDEN, TOKENIZER, Bundle
from cliprt._card import ImageSpec, encode_card
from cliprt._limits import Limits
from cliprt._names import (
    CARD_PARAMETER,
    EMBEDDING,
    LENGTHS_PARAMETER,
    LIMITS_PARAMETER,
    PIXELS,
    TOKENS,
    ModelNames,
    served_version,
)
from cliprt_triton._config import ModelConfig, Step, Tensor
from cliprt_triton._policy import Policy
from cliprt_triton._served import ServedModel

IMAGE_MODEL_PARAMETER, TEXT_MODEL_PARAMETER = "image_model", "text_model"
"""Keys under which the models that ask towers find the names of theirs."""

# Instances of a model that calls towers: one collects requests while the other waits.
_CALLERS = 2


def pipeline_models(
    bundle: Bundle,
    names: ModelNames,
    *,
    limits: Limits,
    towers: Sequence[ServedModel],
) -> list[ServedModel]:
    """The models that make a service of the towers, as far as their towers are there.

    Args:
        bundle: what is served.
        names: of the models.
        limits: bounds on pictures and texts, the client's own.
        towers: the models of the towers, whose queues are the measure of the others.
    """
    by_name = {tower.config.name: tower.config for tower in towers}
    made = _Maker(bundle, names, limits)
    models = [made.card()]
    image, text = by_name.get(names.image), by_name.get(names.text)
    if image is not None and bundle.card.image is not None:
        models += made.image(bundle.card.image, image)
    if text is not None and bundle.card.text is not None:
        models += made.text(text)
    if image is not None and text is not None:
        models.append(made.both(image, text))
    return models


class _Maker:
    """What the models of one bundle have in common."""

    def __init__(self, bundle: Bundle, names: ModelNames, limits: Limits) -> None:
        self._bundle, self._names = bundle, names
        self._version = served_version(bundle.card.space)
        self._embedding = Tensor(EMBEDDING, "TYPE_FP32", (bundle.card.dim,))
        self._parameters = {
            CARD_PARAMETER: encode_card(bundle.card).decode(),
            LIMITS_PARAMETER: msgspec.json.encode(limits).decode(),
        }

    def card(self) -> ServedModel:
        """Files that clients, and checks of health, need."""
        files = self._bundle.card.files
        handed = [name for name in (TOKENIZER, GOLDEN, CERTIFICATE) if name in files]
        config = ModelConfig(
            name=self._names.card,
            version=self._version,
            inputs=(Tensor("name", "TYPE_UINT8", (-1,)),),
            outputs=(Tensor("content", "TYPE_UINT8", (-1,)),),
            parameters={"files": ",".join(handed)},
        )
        return ServedModel(config, "card", {name: self._bundle.file(name) for name in handed})

    def image(self, spec: ImageSpec, tower: ModelConfig) -> list[ServedModel]:
        """Decoding alone, and decoding for the tower."""
        decode = ModelConfig(
            name=self._names.decode,
            version=self._version,
            inputs=(Tensor("image", "TYPE_STRING", (1,)),),
            outputs=(Tensor(PIXELS, "TYPE_UINT8", (spec.height, spec.width, 3)),),
            max_batch_size=tower.max_batch_size,
            batching=_queue_like(tower),
            parameters=self._parameters,
        )
        file = replace(
            decode,
            name=self._names.image_file,
            outputs=(self._embedding,),
            instances=_CALLERS,
            parameters={**self._parameters, IMAGE_MODEL_PARAMETER: tower.name},
        )
        return [ServedModel(decode, "decode"), ServedModel(file, "image_file")]

    def text(self, tower: ModelConfig) -> list[ServedModel]:
        """Tokenizing, and the ensemble of it and the tower."""
        lengths = tower.parameters.get(LENGTHS_PARAMETER, "")
        tokenize = ModelConfig(
            name=self._names.tokenize,
            version=self._version,
            inputs=(Tensor("text", "TYPE_STRING", (1,)),),
            outputs=(Tensor(TOKENS, "TYPE_INT32", tower.inputs[0].dims),),
            max_batch_size=tower.max_batch_size,
            batching=_queue_like(tower),
            parameters={**self._parameters, LENGTHS_PARAMETER: lengths},
        )
        string = ModelConfig(
            name=self._names.text_string,
            version=self._version,
            inputs=tokenize.inputs,
            outputs=(self._embedding,),
            steps=(
                Step(tokenize.name, {"text": "text"}, {TOKENS: TOKENS}),
                Step(tower.name, {TOKENS: TOKENS}, {EMBEDDING: EMBEDDING}),
            ),
            max_batch_size=tower.max_batch_size,
        )
        files = {TOKENIZER: self._bundle.file(TOKENIZER)}
        return [ServedModel(tokenize, "tokenize", files), ServedModel(string)]

    def both(self, image: ModelConfig, text: ModelConfig) -> ServedModel:
        """Picture and string to both embeddings and their similarity."""
        config = ModelConfig(
            name=self._names.both,
            version=self._version,
            inputs=(
                Tensor("image", "TYPE_STRING", (1,)),
                Tensor("text", "TYPE_STRING", (1,)),
            ),
            outputs=(
                replace(self._embedding, name="image_embedding"),
                replace(self._embedding, name="text_embedding"),
                Tensor("similarity", "TYPE_FP32", (1,)),
            ),
            instances=_CALLERS,
            max_batch_size=min(image.max_batch_size, text.max_batch_size),
            batching=_queue_like(image, text),
            parameters={
                **self._parameters,
                LENGTHS_PARAMETER: text.parameters.get(LENGTHS_PARAMETER, ""),
                IMAGE_MODEL_PARAMETER: image.name,
                TEXT_MODEL_PARAMETER: text.name,
            },
        )
        return ServedModel(config, "both", {TOKENIZER: self._bundle.file(TOKENIZER)})


def _queue_like(*towers: ModelConfig) -> Policy:
    """The queue before what feeds towers: the shortest of theirs, and nothing waits for company."""
    policies = [tower.batching for tower in towers if tower.batching is not None]
    shortest = min(policies, key=lambda policy: (policy.max_queue_size, policy.queue_timeout_us))
    return replace(shortest, max_queue_delay_us=0)
