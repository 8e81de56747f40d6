"""The model that asks the live towers of its own server for known answers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cliprt._bundle import GOLDEN, Bundle
from cliprt._card import TextSpec
from cliprt._known import Bar, bar_of_folder
from cliprt._names import LENGTHS_PARAMETER, ModelNames, served_version
from cliprt._texts import parse_lengths
from cliprt_triton._config import ModelConfig, Tensor
from cliprt_triton._served import ServedModel

HEALTH_PARAMETER = "cliprt_health"
"""Key under which the model's configuration says what it asks, as JSON."""

_FEWEST = 4
"""Items of a request where nobody says how many a tower takes."""

_PATIENCE_S = 20.0
"""How long all questions may take together at least; then a tower hangs."""

_QUESTIONS = 3.5
"""So many of the longest waits: of the two towers one after the other, of both at once, and some
more for the answers."""


class AskedTower(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a tower is asked.

    Attributes:
        model: its name in Triton.
        bar: what it must reach.
        max_batch: most items of a request.
        text: how texts are filled up; None for pictures.
        lengths: to which lengths texts are filled up, ascending; empty where any is welcome.
    """

    model: str
    bar: Bar
    max_batch: int
    text: TextSpec | None
    lengths: tuple[int, ...]


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the model asks.

    Attributes:
        model: prefix of the models' names.
        space: of the card; the towers are asked for under its version alone.
        patience_s: how long all questions may take together; then a tower hangs.
        towers: by ``image`` and ``text``.
    """

    model: str
    space: str
    patience_s: float
    towers: dict[str, AskedTower]


def health_model(
    bundle: Bundle,
    names: ModelNames,
    precision: str,
    *,
    towers: Sequence[ServedModel] = (),
    patience_s: float | None = None,
) -> ServedModel:
    """The model ``NAME_health``: an error if the live towers answer wrongly, a report if not.

    Args:
        bundle: whose known answers are asked for.
        names: names of the models.
        precision: in which the towers are served.
        towers: the towers of the repository, which say how many items they take and to which
            lengths texts are filled up. Without them requests are small and texts full length.
        patience_s: how long all questions may take together, in seconds; then a tower hangs. None
            is 20 s, or longer where callers may wait so long for a tower that three questions in a
            row would take longer.

    Raises:
        BundleError: the certificate cannot be read, or the precision has no bar.
    """
    card = bundle.card
    configs = {model.config.name: model.config for model in towers}
    asked = {}
    for tower, spec in (("image", card.image), ("text", card.text)):
        if spec is None:
            continue
        name = names.image if tower == "image" else names.text
        config = configs.get(name)
        text = spec if isinstance(spec, TextSpec) else None
        lengths = "" if text is None else str(text.context_length)
        if config is not None:
            lengths = config.parameters.get(LENGTHS_PARAMETER, lengths)
        asked[tower] = AskedTower(
            model=name,
            bar=bar_of_folder(bundle.path, tower, precision),
            max_batch=_FEWEST if config is None else config.max_batch_size,
            text=text,
            lengths=parse_lengths(lengths),
        )
    if patience_s is None:
        waits = [model.config.batching.longest_wait_s for model in towers if model.config.batching]
        patience_s = max([_PATIENCE_S, *(_QUESTIONS * wait_s for wait_s in waits)])
    what = Asked(model=names.prefix, space=card.space, patience_s=patience_s, towers=asked)
    return ServedModel(
        ModelConfig(
            name=names.health,
            version=served_version(card.space),
            # Triton takes a POST without a body for a model of one input. Its content is ignored.
            inputs=(Tensor("probe", "TYPE_UINT8", (-1,), optional=True),),
            outputs=(Tensor("healthy", "TYPE_UINT8", (1,)), Tensor("report", "TYPE_STRING", (1,))),
            parameters={HEALTH_PARAMETER: msgspec.json.encode(what).decode()},
        ),
        "health",
        {GOLDEN: bundle.file(GOLDEN)},
    )
