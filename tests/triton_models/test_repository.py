"""Model repositories: their configuration, their files, and that they are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from cliprt import Bundle, BundleError, open_bundle
from cliprt._card import decode_card
from cliprt._names import served_version
from cliprt_triton import Policy, _repository, write_repository
from cliprt_triton._cli_repository import repository as command


@pytest.fixture
def repository(small_bundle: Bundle, tmp_path: Path) -> Path:
    return write_repository(small_bundle, tmp_path / "repository")


def config_of(repository: Path, model: str) -> model_config_pb2.ModelConfig:
    text = (repository / model / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def version_of(repository: Path, model: str) -> Path:
    """The folder of the model's only version."""
    (folder,) = (path for path in (repository / model).iterdir() if path.is_dir())
    return folder


def test_its_files(repository: Path, small_bundle: Bundle) -> None:
    version = served_version(small_bundle.card.space)
    found = {str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file()}
    tower = ("model.py", "model.onnx", "golden.npz", "certificate.json")
    files = {
        "clip_image": tower,
        "clip_text": tower,
        "clip_card": ("model.py", "tokenizer.json", "golden.npz", "certificate.json"),
        "clip_health": ("model.py", "golden.npz"),
        "clip_decode": ("model.py",),
        "clip_tokenize": ("model.py", "tokenizer.json"),
        "clip_image_file": ("model.py",),
        "clip_text_string": (),
        "clip": ("model.py", "tokenizer.json"),
    }
    assert found == {
        *(f"{model}/config.pbtxt" for model in files),
        *(f"{model}/{version}/{name}" for model, names in files.items() for name in names),
    }
    # An ensemble has a folder of its version too, without which Triton does not see it.
    assert all((repository / model / str(version)).is_dir() for model in files)


def test_the_image_tower(repository: Path) -> None:
    config = config_of(repository, "clip_image")
    pixels, embedding = config.input[0], config.output[0]
    assert (config.name, config.backend, config.max_batch_size) == ("clip_image", "python", 64)
    assert (pixels.name, pixels.data_type) == ("pixels", model_config_pb2.TYPE_UINT8)
    assert list(pixels.dims) == [32, 32, 3]
    assert (embedding.name, embedding.data_type) == ("embedding", model_config_pb2.TYPE_FP32)
    assert list(embedding.dims) == [24]
    assert [sample.batch_size for sample in config.model_warmup] == [1]


def test_the_text_tower_batches_unequal_lengths(repository: Path) -> None:
    tokens = config_of(repository, "clip_text").input[0]
    assert (tokens.name, tokens.data_type) == ("tokens", model_config_pb2.TYPE_INT32)
    assert (list(tokens.dims), tokens.allow_ragged_batch) == ([-1], True)


def test_queues_are_bounded(small_bundle: Bundle, tmp_path: Path) -> None:
    policy = Policy(
        max_batch_size=8,
        max_queue_delay_us=7,
        max_queue_size=9,
        max_bulk_queue_size=10,
        queue_timeout_us=11,
        bulk_queue_timeout_us=12,
    )
    repository = write_repository(small_bundle, tmp_path / "repository", policy=policy)
    for model in ("clip_image", "clip_text"):
        config = config_of(repository, model)
        batcher = config.dynamic_batching
        assert (config.max_batch_size, batcher.max_queue_delay_microseconds) == (8, 7)
        assert (batcher.priority_levels, batcher.default_priority_level) == (2, 1)
        bulk = batcher.priority_queue_policy[2]
        for queue, size, timeout_us in ((batcher.default_queue_policy, 9, 11), (bulk, 10, 12)):
            assert (queue.max_queue_size, queue.default_timeout_microseconds) == (size, timeout_us)
            assert queue.timeout_action == model_config_pb2.ModelQueuePolicy.REJECT


def test_queues_are_bounded_unless_told_otherwise(repository: Path) -> None:
    """As SECURITY.md says of a repository that is written for elsewhere."""
    for model in ("clip_image", "clip_text"):
        batcher = config_of(repository, model).dynamic_batching
        queues = (batcher.default_queue_policy, batcher.priority_queue_policy[2])
        bounds = [(each.max_queue_size, each.default_timeout_microseconds) for each in queues]
        assert bounds == [(512, 60_000_000), (2048, 300_000_000)]


def test_both_towers_carry_the_card(repository: Path, small_bundle: Bundle) -> None:
    for model in ("clip_image", "clip_text"):
        text = config_of(repository, model).parameters["cliprt_card"].string_value
        assert decode_card(text, origin=model) == small_bundle.card


def test_a_name_replaces_the_prefix(small_bundle: Bundle, tmp_path: Path) -> None:
    repository = write_repository(small_bundle, tmp_path / "repository", name="shop")
    assert sorted(path.name for path in repository.iterdir()) == [
        "shop",
        "shop_card",
        "shop_decode",
        "shop_health",
        "shop_image",
        "shop_image_file",
        "shop_text",
        "shop_text_string",
        "shop_tokenize",
    ]
    assert config_of(repository, "shop_text").name == "shop_text"


@pytest.mark.parametrize("name", ["../shop", "a/b", "/shop", "..", ".shop", "-shop", "", "shöp"])
def test_a_name_leads_nowhere(name: str, small_bundle: Bundle, tmp_path: Path) -> None:
    target = tmp_path / "in" / "repository"
    with pytest.raises(ValueError, match="a model name may hold letters, digits"):
        write_repository(small_bundle, target, name=name)
    assert not list(tmp_path.iterdir())
    out = ["--out", str(target), f"--name={name}"]
    found = CliRunner().invoke(command, [str(small_bundle.path), *out])
    assert found.exit_code == 2
    assert "a model name may hold letters, digits" in " ".join(found.output.split())
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_not_touched(small_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="already exists"):
        write_repository(small_bundle, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing_behind(
    small_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(BundleError, match="No space left on device"):
        write_repository(small_bundle, tmp_path / "repository")
    assert not list(tmp_path.iterdir())


def test_a_copy_is_the_callers_to_change(small_bundle: Bundle, repository: Path) -> None:
    (version_of(repository, "clip_text") / "model.onnx").write_bytes(b"changed")
    assert open_bundle(small_bundle.path).card == small_bundle.card


def test_a_linked_repository_holds_no_weights(small_bundle: Bundle, tmp_path: Path) -> None:
    repository = write_repository(small_bundle, tmp_path / "repository", link=True)
    model = version_of(repository, "clip_text") / "model.onnx"
    assert model.is_symlink()
    assert model.resolve() == small_bundle.file("text.fp32.onnx").resolve()


def test_a_folder_that_appears_meanwhile_is_not_touched(
    small_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, original = tmp_path / "repository", _repository._write_model

    def write(*arguments: object) -> None:
        target.mkdir(exist_ok=True)
        (target / "theirs").touch()
        original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(_repository, "_write_model", write)
    with pytest.raises(BundleError, match="appeared meanwhile"):
        write_repository(small_bundle, target)
    assert [path.name for path in target.iterdir()] == ["theirs"]
