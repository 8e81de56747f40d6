"""A space is stable: the demo model's is written down here."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from conftest import ROOT

from cliprt_export._checkpoint import Checkpoint
from cliprt_export._families import read_model
from cliprt_export._model import ClipModel
from cliprt_export._space import identity_of, space_of

# Whoever changes this says that embeddings stored by users can no longer be compared with new ones.
DEMO_SPACE = "4600ccaff6a6cdcb38b2c881b9ee2638c550f8fb752643bac39c49e299858e5e"


def demo() -> ClipModel:
    return read_model(Checkpoint(ROOT / "demo" / "checkpoint", "demo"))


def test_the_demo_model_keeps_its_space() -> None:
    assert space_of(identity_of(demo())) == DEMO_SPACE


def test_what_does_not_decide_numbers_is_no_part_of_it() -> None:
    model = demo()
    other = replace(model, name="other", revision="abc", family="else", logit_scale=1.0)
    assert identity_of(other) == identity_of(model)


def test_each_part_follows_what_it_is_made_of() -> None:
    model = demo()
    assert model.image is not None
    assert model.text is not None
    mean = (0.1, 0.1, 0.1)
    darker = replace(
        model.image,
        tower=replace(model.image.tower, mean=mean),
        spec=msgspec.structs.replace(model.image.spec, mean=mean),
    )
    longer = replace(model.text, tower=replace(model.text.tower, pooling="last"))
    changed = identity_of(replace(model, image=darker, text=longer))
    before = identity_of(model)
    assert {part for part in before if before[part] != changed[part]} == {
        "preprocessing",
        "text tower",
    }


def test_the_highest_id_is_the_end_only_where_texts_end_with_it() -> None:
    model = demo()
    assert model.text is not None
    tower, spec = model.text.tower, model.text.spec
    named = replace(
        model.text,
        tower=replace(tower, pooling="highest"),
        spec=msgspec.structs.replace(spec, pooling="highest"),
    )
    assert identity_of(replace(model, text=named)) == identity_of(model)
    # Ids above the end token: another one may be the highest.
    wider = replace(named, tower=replace(named.tower, end_id=tower.vocabulary - 2))
    assert identity_of(replace(model, text=wider))["tokens"] != identity_of(model)["tokens"]


def test_a_tower_alone_has_the_parts_of_that_tower() -> None:
    model = demo()
    both, alone = identity_of(model), identity_of(replace(model, text=None))
    assert set(both) - set(alone) == {"text tower", "text weights", "tokens", "tokenizer"}
    assert all(both[part] == digest for part, digest in alone.items())
