"""SigLIP: its towers, its tokenizers by golden ids, and everything that can be wrong with it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import arrays
from checkpoints import Tensors
from conftest import GOLDEN
from hostile import strings
from siglip_checkpoints import SIZES, SiglipSize, Words, write_siglip

from cliprt import BundleError, CheckpointError, InvalidInput, Limits, open_bundle
from cliprt._sentencepiece import CharsMap
from cliprt._texts import TextTokenizer
from cliprt_engines import OnnxTower
from cliprt_export import export_checkpoint
from cliprt_export._checkpoint import Checkpoint
from cliprt_export._families import read_model
from cliprt_export._model import ClipModel, TextSide
from cliprt_export._reference import embed
from cliprt_export._sentencepiece import parse_sentencepiece
from cliprt_export._space import identity_of
from cliprt_export._towers import write_tower

KINDS: tuple[Words, ...] = ("SiglipTokenizer", "GemmaTokenizer", "Siglip2Tokenizer")
IDS = json.loads(gzip.decompress((GOLDEN / "siglip_tokens.json.gz").read_bytes()))


def read(folder: Path) -> ClipModel:
    return read_model(Checkpoint(folder, "test"))


def text_side(folder: Path) -> TextSide:
    side = read(folder).text
    assert side is not None
    return side


def tokenizer_of(folder: Path) -> TextTokenizer:
    side = text_side(folder)
    return TextTokenizer(side.tokenizer_json, side.spec, Limits())


@pytest.mark.parametrize("words", KINDS)
def test_ids_equal_the_reference(words: Words, tmp_path: Path) -> None:
    side = text_side(write_siglip(tmp_path, words=words))
    tokenizer = TextTokenizer(side.tokenizer_json, side.spec, Limits())
    found = tokenizer.pad(tokenizer(strings()))
    assert found.shape == (len(strings()), 64)
    for text, ours, theirs in zip(strings(), found.tolist(), IDS[words], strict=True):
        assert ours == theirs + [side.spec.pad_id] * (64 - len(theirs)), ascii(text)


@pytest.mark.parametrize("words", KINDS)
def test_long_texts_keep_their_end_token(words: Words, tmp_path: Path) -> None:
    folder = write_siglip(tmp_path, SiglipSize(context=7), words=words)
    (ids,) = tokenizer_of(folder)(["a cat " * 20])
    assert (len(ids), ids[-1]) == (7, text_side(folder).spec.end_id)


@pytest.mark.parametrize("words", KINDS)
def test_long_texts_can_be_refused(words: Words, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(write_siglip(tmp_path, SiglipSize(context=7), words=words))
    assert tokenizer(["a cat"], truncate=False)
    with pytest.raises(InvalidInput, match=r"item 1: .*more than 7 tokens"):
        tokenizer(["a", "a cat " * 20], truncate=False)


def test_replacements_are_the_longest_and_leave_single_spaces() -> None:
    model = parse_sentencepiece(spiece())
    charsmap = CharsMap(model.charsmap)
    assert charsmap.normalised("e\u0300") == "è"
    assert charsmap.normalised("o\u0323\u0302x") == "ộx"
    assert charsmap.normalised("a \u00a0\u3000 b \u200b") == "a▁b"
    assert charsmap.normalised("½\u00ad…") == "1⁄2..."
    assert CharsMap(b"").normalised("ｱ  b ") == "ｱ▁b"


def spiece() -> bytes:
    return gzip.decompress((GOLDEN.parent / "data" / "siglip_spiece.model.gz").read_bytes())


@pytest.mark.parametrize("name", SIZES)
def test_towers_equal_the_numpy_reference(name: str, tmp_path: Path) -> None:
    model = read(write_siglip(tmp_path, SIZES[name]))
    assert model.image is not None
    assert model.text is not None
    side = SIZES[name].image_size
    pixels = np.stack([array[:side, :side] for array in arrays(4, side)])
    tokens = np.arange(4 * SIZES[name].context, dtype=np.int32).reshape(4, -1) * 7 % 1400
    for one, inputs in ((model.image, pixels), (model.text, tokens)):
        write_tower(tmp_path / "tower.onnx", one.tower, one.tensors, "test")
        found = OnnxTower(tmp_path / "tower.onnx").run(inputs)
        np.testing.assert_allclose(found, embed(one.tower, one.tensors, inputs), atol=2e-6)


def test_a_bundle_has_a_text_tower_of_fixed_length(tmp_path: Path) -> None:
    bundle = export_checkpoint(write_siglip(tmp_path / "c"), tmp_path / "bundle")
    graph = onnx.load(bundle.file("text.fp32.onnx")).graph
    shape = graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in shape] == ["batch", 64]
    card = open_bundle(bundle.path).card
    assert card.logit_scale == pytest.approx(np.exp(2.3))
    assert card.logit_bias == pytest.approx(-1.7)


@pytest.mark.parametrize(
    ("kind", "there", "gone"),
    [
        ("siglip_vision_model", "image.fp32.onnx", {"text.fp32.onnx", "tokenizer.json"}),
        ("siglip_text_model", "text.fp32.onnx", {"image.fp32.onnx"}),
    ],
)
def test_a_bundle_of_one_tower(kind: str, there: str, gone: set[str], tmp_path: Path) -> None:
    folder = write_siglip(tmp_path / "c", kind=kind)  # type: ignore[arg-type]
    bundle = export_checkpoint(folder, tmp_path / "bundle")
    assert there in bundle.card.files
    assert not gone & set(bundle.card.files)
    assert (bundle.card.logit_scale, bundle.card.logit_bias) == (None, None)


def test_one_tower_is_read_with_and_without_its_prefix(tmp_path: Path) -> None:
    def bare(tensors: Tensors) -> Tensors:
        return {name.removeprefix("vision_model."): array for name, array in tensors.items()}

    first = write_siglip(tmp_path / "1", kind="siglip_vision_model")
    second = write_siglip(tmp_path / "2", kind="siglip_vision_model", change=bare)
    assert identity_of(read(first)) == identity_of(read(second))


def test_a_shorter_limit_of_the_tokenizer_shortens_the_tower(tmp_path: Path) -> None:
    side = text_side(write_siglip(tmp_path, model_max_length=16))
    assert (side.spec.context_length, side.tensors("positions").shape) == (16, (16, 48))


def test_a_damaged_tokenizer_is_a_bundle_error(tmp_path: Path) -> None:
    side = text_side(write_siglip(tmp_path))
    for content in ("{", "{}", side.tokenizer_json.replace('"vocab"', '"words"')):
        with pytest.raises(BundleError, match=r"tokenizer\.json cannot be loaded"):
            TextTokenizer(content, side.spec, Limits())


Change = Callable[[Path], object]


def edit(name: str, **changes: object) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def section(name: str, **changes: object) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        config[name].update(changes)
        path.write_text(json.dumps(config))

    return change


def spiece_with(old: bytes, new: bytes) -> Change:
    assert old in spiece()
    return lambda folder: (folder / "spiece.model").write_bytes(spiece().replace(old, new))


WORDS = "tokenizer_config.json"
WRONG: dict[str, tuple[Change, str]] = {
    "naflex": (
        edit("config.json", model_type="siglip2"),
        r"'siglip2', .*\(NaFlex\); supported is SigLIP 2 of a fixed resolution",
    ),
    "no head": (section("vision_config", vision_use_head=False), "has no pooling head"),
    "channels": (section("vision_config", num_channels=1), "pictures of 1 channels"),
    "sides": (section("vision_config", image_size=[32, 64]), "configuration of test is not usable"),
    "activation": (section("text_config", hidden_act="relu"), "'relu' is not supported"),
    "dims": (
        section("text_config", projection_size=24),
        "embeds pictures in 48 dimensions and texts in 24",
    ),
    "vocabulary": (
        section("text_config", vocab_size=100),
        r"ids, the text tower takes 100",
    ),
    "processor": (
        edit("preprocessor_config.json", size={"height": 48, "width": 48}),
        "makes pictures of 48 x 48, the image tower takes 32 x 32",
    ),
    "other processor": (
        edit("preprocessor_config.json", image_processor_type="Siglip2ImageProcessor"),
        "has a Siglip2ImageProcessor; supported is SiglipImageProcessor",
    ),
    "tokenizer class": (edit(WORDS, tokenizer_class="T5Tokenizer"), "has a T5Tokenizer; supported"),
    "no spiece": (lambda folder: (folder / "spiece.model").unlink(), r"and no spiece\.model"),
    "damaged": (
        lambda folder: (folder / "spiece.model").write_bytes(spiece()[:-50]),
        "cannot be used: it is damaged",
    ),
    "empty": (
        lambda folder: (folder / "spiece.model").write_bytes(b""),
        "cannot be used: it holds no pieces",
    ),
    "capitals": (edit(WORDS, do_lower_case=False), "keeps capital letters"),
    "padding": (edit(WORDS, pad_token="<pad>"), "fills texts up with '<pad>'"),
    "unknown": (edit(WORDS, unk_token="</s>"), "'</s>' is not the unknown piece"),
    "more tokens": (
        edit(WORDS, added_tokens_decoder={"1400": {"content": "<new>"}}),
        "adds the token '<new>'",
    ),
    "missing token": (edit(WORDS, extra_special_tokens=["<new>"]), "has no piece '<new>'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said(what: str, tmp_path: Path) -> None:
    change, text = WRONG[what]
    folder = write_siglip(tmp_path)
    change(folder)
    with pytest.raises(CheckpointError, match=text):
        read(folder)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (edit(WORDS, padding_side="left"), "fills texts up on the left"),
        (edit("tokenizer.json", model={"type": "Unigram"}), "has a Unigram tokenizer"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"has no tokenizer\.json"),
    ],
)
def test_what_is_wrong_with_gemmas_files_is_said(change: Change, text: str, tmp_path: Path) -> None:
    folder = write_siglip(tmp_path, words="GemmaTokenizer")
    change(folder)
    with pytest.raises(CheckpointError, match=text):
        read(folder)


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


PIECE = field(1, field(1, b"a"))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (PIECE + field(2, b"\x18\x02"), "no unigram model"),
        (PIECE + field(3, b"\x20\x00"), "keeps extra spaces"),
        (PIECE + field(3, b"\x28\x00"), "keeps extra spaces"),
        (PIECE + b"\x0b", "damaged"),
        (field(1, field(1, b"\xff")), "damaged"),
        (field(1, b"\x18\x63"), "damaged"),
    ],
    ids=["BPE", "spaces", "unescaped", "group", "no text", "no piece"],
)
def test_models_of_another_kind_are_refused(data: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse_sentencepiece(data)


def test_user_defined_words_are_refused(tmp_path: Path) -> None:
    folder = write_siglip(tmp_path)
    word = field(1, field(1, b"word") + b"\x18\x04")
    (folder / "spiece.model").write_bytes(spiece() + word)
    with pytest.raises(CheckpointError, match="user-defined piece 'word'"):
        read(folder)


def test_every_constant_of_the_graphs_is_used(tmp_path: Path) -> None:
    """ONNX Runtime warns of others, and TensorRT refuses some of them."""
    bundle = export_checkpoint(write_siglip(tmp_path / "c"), tmp_path / "bundle")
    for name in ("image.fp32.onnx", "text.fp32.onnx"):
        graph = onnx.load(bundle.file(name)).graph
        used = {value for node in graph.node for value in node.input}
        assert {tensor.name for tensor in graph.initializer} <= used
