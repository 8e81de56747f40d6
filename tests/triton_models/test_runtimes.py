"""Repositories for three runtimes from one generator, and engines that must not go into one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engine_folders import PROFILES, write_engine
from google.protobuf import text_format
from siglip_checkpoints import write_siglip
from tritonclient.grpc import model_config_pb2 as pb

from cliprt import Bundle, BundleError, EngineError, InvalidInput
from cliprt_engines import BuilderOptions, Profile, Span
from cliprt_export import export_checkpoint
from cliprt_triton import Policy, write_repository

TOWERS = ("image", "text")
TEXT_MODELS = ("clip_text", "clip_tokenize")
RUNTIMES: dict[str, dict[str, Any]] = {
    "python": {},
    "onnxruntime": {"runtime": "onnxruntime"},
    "cuda": {"runtime": "onnxruntime", "provider": "cuda", "precision": "fp32"},
    "provider tensorrt": {"runtime": "onnxruntime", "provider": "tensorrt", "precision": "fp32"},
    "tensorrt": {"runtime": "tensorrt"},
}


@pytest.fixture
def engines(small_bundle: Bundle, tmp_path: Path) -> Path:
    for tower in TOWERS:
        write_engine(tmp_path / "engines", small_bundle, tower)
    return tmp_path / "engines"


def configs(repository: Path) -> dict[str, pb.ModelConfig]:
    return {
        folder.name: text_format.Parse(
            (folder / "config.pbtxt").read_text(encoding="utf-8"), pb.ModelConfig()
        )
        for folder in repository.iterdir()
    }


def written(bundle: Bundle, engines: Path, **options: Any) -> dict[str, pb.ModelConfig]:
    """Configurations of a repository for the runtime tensorrt."""
    out = engines.parent / "repository"
    return configs(write_repository(bundle, out, runtime="tensorrt", engines=engines, **options))


def refused(bundle: Bundle, engines: Path, **options: Any) -> str:
    """Why no repository for the runtime tensorrt is written."""
    with pytest.raises(EngineError) as caught:
        written(bundle, engines, **options)
    assert not (engines.parent / "repository").exists()
    return str(caught.value)


def test_clients_cannot_tell_the_runtimes_apart(
    small_bundle: Bundle, engines: Path, tmp_path: Path
) -> None:
    seen = []
    for name, options in RUNTIMES.items():
        given = {**options, "engines": engines} if name == "tensorrt" else options
        models = configs(write_repository(small_bundle, tmp_path / name, **given))
        seen.append(
            {
                model: (
                    [(each.name, each.data_type, list(each.dims)) for each in config.input],
                    [(each.name, each.data_type, list(each.dims)) for each in config.output],
                    list(config.version_policy.specific.versions),
                    sorted(config.parameters),
                    config.parameters["cliprt_card"].string_value,
                )
                for model, config in models.items()
            }
        )
    assert len(seen) == 5
    assert all(each == seen[0] for each in seen)
    assert sorted(seen[0]) == [
        "clip",
        "clip_card",
        "clip_decode",
        "clip_health",
        "clip_image",
        "clip_image_file",
        "clip_text",
        "clip_text_string",
        "clip_tokenize",
    ]


def test_python_alone_batches_unequal_lengths(
    small_bundle: Bundle, engines: Path, tmp_path: Path
) -> None:
    found = {}
    for name, options in RUNTIMES.items():
        given = {**options, "engines": engines} if name == "tensorrt" else options
        text = configs(write_repository(small_bundle, tmp_path / name, **given))["clip_text"]
        lengths = text.parameters["cliprt_lengths"].string_value
        found[name] = (text.input[0].allow_ragged_batch, lengths)
    onnx = (False, "16,32,77")
    assert found == {
        "python": (True, ""),
        "onnxruntime": onnx,
        "cuda": onnx,
        "provider tensorrt": onnx,
        # Where the profiles of its engines end.
        "tensorrt": (False, "16,77"),
    }


def test_an_image_tower_for_tensorrt(small_bundle: Bundle, engines: Path) -> None:
    image = written(small_bundle, engines)["clip_image"]
    (group,) = image.instance_group
    assert (image.backend, image.platform) == ("tensorrt", "tensorrt_plan")
    assert image.max_batch_size == PROFILES["image"][0].batch.most
    assert (group.kind, list(group.gpus)) == (pb.ModelInstanceGroup.KIND_AUTO, [])
    assert (group.count, list(group.profile)) == (1, ["0", "1"])
    assert dict(image.cc_model_filenames) == {"8.9": "sm89.plan"}
    assert [each.batch_size for each in image.model_warmup] == [1, image.max_batch_size]


def test_graphs_are_off_in_so_many_words(small_bundle: Bundle, engines: Path) -> None:
    written(small_bundle, engines)
    text = (engines.parent / "repository/clip_text/config.pbtxt").read_text(encoding="utf-8")
    assert "graphs: false" in text
    assert "kind: KIND_AUTO" in text
    assert text.count("timeout_action: REJECT") == 2


def test_a_plan_for_each_architecture(small_bundle: Bundle, engines: Path) -> None:
    for tower in TOWERS:
        smaller = [Profile(batch=Span(1, 1, 4), length=each.length) for each in PROFILES[tower]]
        for target in ("sm75", "sm120"):
            write_engine(engines, small_bundle, tower, architectures=[target], profiles=smaller)
    text = written(small_bundle, engines)["clip_text"]
    plans = {"7.5": "sm75.plan", "8.9": "sm89.plan", "12.0": "sm120.plan"}
    assert dict(text.cc_model_filenames) == plans
    # What the smallest of them takes.
    assert text.max_batch_size == 4
    (version,) = (engines.parent / "repository" / "clip_text").glob("[0-9]*")
    assert sorted(each.name for each in version.iterdir()) == sorted(plans.values())
    assert (version / "sm89.plan").read_bytes() == next(
        engines.glob("text.*.sm89.*/engine.plan")
    ).read_bytes()


def test_an_engine_for_several_architectures_serves_the_others(
    small_bundle: Bundle, engines: Path
) -> None:
    for tower in TOWERS:
        options = BuilderOptions(hardware="ampere-plus")
        write_engine(engines, small_bundle, tower, architectures=["sm80"], options=options)
    text = written(small_bundle, engines)["clip_text"]
    assert dict(text.cc_model_filenames) == {"8.0": "model.plan", "8.9": "sm89.plan"}


def test_a_number_of_gpus_is_a_demand(small_bundle: Bundle, engines: Path) -> None:
    policy = Policy(instances=3)
    (group,) = written(small_bundle, engines, gpus=2, policy=policy)["clip_image"].instance_group
    assert (group.kind, list(group.gpus), group.count) == (
        pb.ModelInstanceGroup.KIND_GPU, [0, 1], 3,
    )  # fmt: skip


def test_towers_of_fixed_length_need_no_lengths(tmp_path: Path) -> None:
    bundle = export_checkpoint(write_siglip(tmp_path / "siglip", seed=8), tmp_path / "bundle")
    every = [Profile(batch=Span(1, 2, 4))]
    for tower in TOWERS:
        write_engine(tmp_path / "engines", bundle, tower, profiles=every)
    text = written(bundle, tmp_path / "engines")["clip_text"]
    assert text.parameters["cliprt_lengths"].string_value == ""
    assert list(text.input[0].dims) == [64]


def test_precision_is_in_the_graph_and_no_option(small_bundle: Bundle, tmp_path: Path) -> None:
    repository = write_repository(
        small_bundle,
        tmp_path / "repository",
        engine_cache="/cache",
        **RUNTIMES["provider tensorrt"],
    )
    text = configs(repository)["clip_text"]
    one, two = text.optimization.execution_accelerators.gpu_execution_accelerator
    assert (one.name, two.name) == ("tensorrt", "cuda")
    assert dict(one.parameters) == {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/cache",
        "trt_engine_cache_prefix": f"{small_bundle.card.space[:16]}.text.fp32",
        "trt_profile_min_shapes": "tokens:1x2",
        "trt_profile_opt_shapes": "tokens:32x77",
        "trt_profile_max_shapes": "tokens:64x77",
    }
    assert dict(two.parameters) == {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}


def test_only_texts_are_cached(small_bundle: Bundle, tmp_path: Path) -> None:
    policy = Policy(cache_texts=True)
    models = configs(write_repository(small_bundle, tmp_path / "repository", policy=policy))
    cached = {name for name, config in models.items() if config.response_cache.enable}
    assert cached == {"clip_text"}


@pytest.mark.parametrize("runtime", ["python", "onnxruntime"])
def test_cached_texts_have_one_length(runtime: Any, small_bundle: Bundle, tmp_path: Path) -> None:
    """Triton's cache hashes what tensors hold, and not their shapes."""
    written = write_repository(
        small_bundle, tmp_path / "repository", runtime=runtime, policy=Policy(cache_texts=True)
    )
    models = configs(written)
    assert list(models["clip_text"].input[0].dims) == [77]
    assert list(models["clip_tokenize"].output[0].dims) == [77]
    lengths = {models[name].parameters["cliprt_lengths"].string_value for name in TEXT_MODELS}
    assert lengths == {"77"}


def test_the_precision_of_the_engines_is_taken(small_bundle: Bundle, engines: Path) -> None:
    text = written(small_bundle, engines)["clip_text"]
    assert text.parameters["cliprt_precision"].string_value == "fp32"


def test_one_of_several_precisions_must_be_chosen(small_checkpoint: Path, tmp_path: Path) -> None:
    bundle = export_checkpoint(
        str(small_checkpoint), tmp_path / "bundle", precisions=("fp32", "fp16")
    )
    for tower in TOWERS:
        for precision in ("fp32", "fp16"):
            write_engine(tmp_path / "engines", bundle, tower, precision=precision)
    said = refused(bundle, tmp_path / "engines")
    assert "has engines in fp16 and fp32; say which with --precision" in said
    text = written(bundle, tmp_path / "engines", precision="fp16")["clip_text"]
    assert text.parameters["cliprt_precision"].string_value == "fp16"


def test_engines_of_another_space_are_refused(
    small_bundle: Bundle, demo_bundle: Bundle, engines: Path
) -> None:
    said = refused(demo_bundle, engines)
    assert f"is of the space {small_bundle.card.space}, the bundle of" in said


def test_engines_for_rtx_are_refused(small_bundle: Bundle, tmp_path: Path) -> None:
    for tower in TOWERS:
        write_engine(tmp_path / "engines", small_bundle, tower, flavor="tensorrt-rtx")
    said = refused(small_bundle, tmp_path / "engines")
    assert "is for tensorrt-rtx, whose plans Triton does not load" in said


def test_a_missing_tower_names_the_command(small_bundle: Bundle, tmp_path: Path) -> None:
    write_engine(tmp_path / "engines", small_bundle, "image")
    said = refused(small_bundle, tmp_path / "engines")
    assert "has no engine of the text tower in fp32" in said
    assert f"cliprt build {small_bundle.path} --tower text --precision fp32 --out" in said


def test_a_missing_precision_names_those_there_are(small_bundle: Bundle, engines: Path) -> None:
    said = refused(small_bundle, engines, precision="int8")
    assert "no engine of the image tower in int8 for this bundle (it has fp32)" in said


def test_of_two_engines_for_one_architecture_none_is_guessed(
    small_bundle: Bundle, engines: Path
) -> None:
    options = BuilderOptions(level=5)
    other = write_engine(engines, small_bundle, "image", options=options)
    said = refused(small_bundle, engines)
    assert "2 engines are for sm89" in said
    assert other.name in said


def test_engines_of_two_versions_are_refused(small_bundle: Bundle, engines: Path) -> None:
    write_engine(engines, small_bundle, "image", architectures=["sm80"], version="11.1.0")
    assert "of TensorRT 11.0.0 and 11.1.0" in refused(small_bundle, engines)


def test_engines_with_other_numbers_of_profiles_are_refused(
    small_bundle: Bundle, engines: Path
) -> None:
    profiles = PROFILES["image"][:1]
    write_engine(engines, small_bundle, "image", architectures=["sm80"], profiles=profiles)
    assert "different numbers of profiles" in refused(small_bundle, engines)


def test_engines_for_short_texts_alone_are_refused(small_bundle: Bundle, tmp_path: Path) -> None:
    write_engine(tmp_path / "engines", small_bundle, "image")
    short = [Profile(batch=Span(1, 4, 8), length=Span(2, 16, 16))]
    write_engine(tmp_path / "engines", small_bundle, "text", profiles=short)
    assert "takes texts of at most 16 tokens, the model has 77" in refused(
        small_bundle, tmp_path / "engines"
    )


def test_a_damaged_plan_is_not_copied(small_bundle: Bundle, engines: Path) -> None:
    plan = next(engines.glob("text.*/engine.plan"))
    content = bytearray(plan.read_bytes())
    content[3] ^= 1
    plan.write_bytes(content)
    assert "its manifest vouches for" in refused(small_bundle, engines)


def test_a_folder_without_engines_names_the_command(small_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    assert "build some with: cliprt build" in refused(small_bundle, tmp_path / "engines")


def test_a_precision_that_the_bundle_lacks(small_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"holds no image\.int8-cpu\.onnx"):
        write_repository(small_bundle, tmp_path / "repository", precision="int8-cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "openvino"}, "no runtime 'openvino'; there are python, onnxruntime, tensorrt"),
        ({"runtime": "onnxruntime", "provider": "rocm"}, "no provider 'rocm'; there are cpu, cuda"),
        ({"provider": "cuda"}, "a provider is for the runtime onnxruntime, not for python"),
        ({"runtime": "tensorrt"}, "needs the folder of engines"),
        ({"engines": "/engines"}, "engines are for the runtime tensorrt, not for python"),
        ({"precision": "fp16"}, "python does not compute 'fp16'; it computes fp32, int8-cpu"),
        ({"runtime": "onnxruntime", "precision": "int8"}, "onnxruntime on cpu does not compute"),
        ({"engine_cache": "/cache"}, "for ONNX Runtime's provider tensorrt"),
        ({"gpus": 1}, "run on the processor, which has no GPUs to count"),
        ({**RUNTIMES["cuda"], "gpus": 0}, "gpus must be at least 1, got 0"),
    ],
)
def test_options_that_do_not_go_together(
    options: dict[str, Any], message: str, small_bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=message):
        write_repository(small_bundle, tmp_path / "repository", **options)
