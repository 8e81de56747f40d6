"""``cliprt repository --check``: what is right, what is wrong, and what was not seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from checkpoints import SMALL, write_checkpoint
from click.testing import CliRunner, Result
from engine_folders import write_engine

from cliprt import Bundle, DeploymentError
from cliprt_export import export_checkpoint
from cliprt_triton import Policy, write_repository
from cliprt_triton._check import CheckedModel, check_repository
from cliprt_triton._cli_repository import repository as command


@pytest.fixture
def engines(small_bundle: Bundle, tmp_path: Path) -> Path:
    for tower in ("image", "text"):
        write_engine(tmp_path / "engines", small_bundle, tower)
    return tmp_path / "engines"


def checked(folder: Path, **options: Any) -> dict[str, CheckedModel]:
    return {model.name: model for model in check_repository(folder, **options).models}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(each) for each in arguments])


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in folder.rglob("*"):
        stat = path.lstat()
        found[str(path.relative_to(folder))] = (stat.st_mtime_ns, stat.st_size)
    return found


def edit(config: Path, old: str, new: str) -> None:
    text = config.read_text(encoding="utf-8")
    assert old in text
    config.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_python_repository_is_checked_whole(small_bundle: Bundle, tmp_path: Path) -> None:
    folder = write_repository(small_bundle, tmp_path / "repository")
    before = contents(folder)
    models = checked(folder, bundle=small_bundle)
    assert {model.state for model in models.values()} == {"ok"}
    assert {model.runs_on for model in models.values()} == {"python", "ensemble"}
    assert not any(model.unchecked for model in models.values())
    assert models["clip_text"].checked == (
        "loaded",
        "warmed up",
        "card, tensors and version agree",
        "worst cosine 1.000000 to 10 golden answers",
    )
    assert contents(folder) == before


def test_links_are_followed(small_bundle: Bundle, tmp_path: Path) -> None:
    folder = write_repository(small_bundle, tmp_path / "repository", link=True)
    (version,) = (folder / "clip_image").glob("[0-9]*")
    version.rename(tmp_path / "elsewhere")
    version.symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path / "elsewhere")
    assert check_repository(folder).ok
    # Python writes its caches beside the code that it imports, but not there.
    assert contents(tmp_path / "elsewhere") == before


def test_one_for_tensorrt_says_what_was_not_seen(
    small_bundle: Bundle, engines: Path, tmp_path: Path
) -> None:
    policy = Policy(cache_texts=True)
    folder = write_repository(
        small_bundle, tmp_path / "r", runtime="tensorrt", engines=engines, gpus=2, policy=policy
    )
    text = checked(folder)["clip_text"]
    assert (text.state, text.runs_on) == ("ok", "stand-in for tensorrt")
    assert text.unchecked == (
        "instances on GPUs 0, 1: here they ran on the processor",
        "the backend tensorrt itself and sm89.plan",
        "profiles 0, 1",
        "the response cache, which this server does not have",
        "answers",
    )
    assert checked(folder)["clip_card"].runs_on == "python"


def test_with_the_bundle_a_stand_in_computes_its_towers(
    small_bundle: Bundle, engines: Path, tmp_path: Path
) -> None:
    folder = write_repository(small_bundle, tmp_path / "r", runtime="tensorrt", engines=engines)
    models = checked(folder, bundle=small_bundle)
    assert "worst cosine 1.000000 to 8 golden answers" in models["clip_image"].checked
    assert "answers" not in models["clip_image"].unchecked


def test_a_model_of_another_bundle_is_wrong(
    small_bundle: Bundle, demo_bundle: Bundle, tmp_path: Path
) -> None:
    folder = write_repository(demo_bundle, tmp_path / "repository")
    report = check_repository(folder, bundle=small_bundle)
    assert not report.ok
    problems = [problem for model in report.models for problem in model.problems]
    said = f"it is of the space {demo_bundle.card.space}, BUNDLE of {small_bundle.card.space}"
    assert problems == [said, said]


def test_wrong_answers_are_found(small_bundle: Bundle, tmp_path: Path) -> None:
    folder = write_repository(small_bundle, tmp_path / "repository", runtime="onnxruntime")
    checkpoint = write_checkpoint(tmp_path / "checkpoint", SMALL, seed=1)
    other = export_checkpoint(str(checkpoint), tmp_path / "other")
    (graph,) = (folder / "clip_text").glob("*/model.onnx")
    shutil.copyfile(other.file("text.fp32.onnx"), graph)
    models = checked(folder, bundle=small_bundle)
    assert models["clip_text"].state == "failed"
    assert "at least 0.98 is expected" in models["clip_text"].problems[0]
    assert models["clip_image"].state == "ok"


@pytest.fixture(scope="module")
def damaged(
    small_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, CheckedModel]:
    """A repository in which each model is wrong in another way, checked once."""
    work = tmp_path_factory.mktemp("damaged")
    for tower in ("image", "text"):
        write_engine(work / "engines", small_bundle, tower)
    folder = work / "repository"

    def add(name: str, **options: Any) -> Path:
        """The models NAME_image, NAME_text and NAME_card."""
        single = write_repository(small_bundle, work / name, name=name, **options)
        for model in single.iterdir():
            shutil.copytree(model, folder / model.name)
        return folder

    trt: dict[str, Any] = {"runtime": "tensorrt", "engines": work / "engines"}
    add("good")
    add("dims")
    edit(folder / "dims_text" / "config.pbtxt", "dims: 24", "dims: 25")
    add("plan", **trt)
    next((folder / "plan_text").glob("*/sm89.plan")).unlink()
    add("syntax")
    (folder / "syntax_text" / "config.pbtxt").write_text("name: [", encoding="utf-8")
    add("guess")
    (folder / "guess_text" / "config.pbtxt").unlink()
    add("version")
    edit(folder / "version_text" / "config.pbtxt", "versions: ", "versions: 1")
    add("queue")
    edit(folder / "queue_text" / "config.pbtxt", "max_queue_size: 512", "max_queue_size: 0")
    add("lengths", **trt)
    edit(folder / "lengths_text" / "config.pbtxt", '"16,77"', '"77,16"')
    # Not in Python, where the tower itself refuses such a card.
    add("card", **trt)
    edit(folder / "card_text" / "config.pbtxt", 'string_value: "{', 'string_value: "{,')
    other = folder / "torch_model" / "1"
    other.mkdir(parents=True)
    (other / "model.py").write_text("import a_module_that_nobody_has\n", encoding="utf-8")
    tensors = "input { name: 'x' data_type: TYPE_FP32 dims: 2 } "
    tensors += "output { name: 'y' data_type: TYPE_FP32 dims: [-1, 3] }"
    (folder / "torch_model" / "config.pbtxt").write_text(
        f"backend: 'python' {tensors}", encoding="utf-8"
    )
    (folder / "theirs" / "1").mkdir(parents=True)
    (folder / "theirs" / "1" / "model.pt").touch()
    (folder / "theirs" / "config.pbtxt").write_text(
        f"platform: 'pytorch_libtorch' backend: 'pytorch' max_batch_size: 4 {tensors} "
        "instance_group { kind: KIND_GPU }",
        encoding="utf-8",
    )
    for name, step in (("chain", "theirs"), ("broken_chain", "plan_text")):
        (folder / name / "1").mkdir(parents=True)
        steps = f"step {{ model_name: '{step}' model_version: -1 "
        steps += "input_map { key: 'x' value: 'x' } output_map { key: 'y' value: 'y' } }"
        (folder / name / "config.pbtxt").write_text(
            f"platform: 'ensemble' max_batch_size: 4 {tensors} ensemble_scheduling {{ {steps} }}",
            encoding="utf-8",
        )
    return checked(folder)


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("dims_text", "is not an embedding of 24 dimensions"),
        ("plan_text", "sm89.plan is not in"),
        ("syntax_text", "its config.pbtxt cannot be read"),
        ("version_text", "version"),
        ("queue_text", "a queue is not bounded"),
        ("lengths_text", "is '77,16'; it must ascend to the context length 77"),
        ("card_text", "the card that it carries cannot be read"),
    ],
)
def test_what_is_wrong_is_said(model: str, problem: str, damaged: dict[str, CheckedModel]) -> None:
    found = damaged[model]
    assert found.state == "failed"
    assert problem in "; ".join(found.problems)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("guess_text", "it has no config.pbtxt"),
        ("torch_model", "cannot be imported here: No module named 'a_module_that_nobody_has'"),
        ("broken_chain", "it needs plan_text, which did not load"),
    ],
)
def test_what_cannot_be_checked_is_no_failure(
    model: str, why: str, damaged: dict[str, CheckedModel]
) -> None:
    found = damaged[model]
    assert (found.state, found.problems) == ("not checked", ())
    assert why in "; ".join(found.unchecked)


def test_neighbours_of_broken_models_are_checked(damaged: dict[str, CheckedModel]) -> None:
    fine = {name for name, model in damaged.items() if model.state == "ok"}
    assert {"good_text", "good_image", "plan_image", "card_card"} <= fine


def test_models_of_others_are_loaded_too(damaged: dict[str, CheckedModel]) -> None:
    theirs = damaged["theirs"]
    assert (theirs.state, theirs.runs_on) == ("ok", "stand-in for pytorch")
    assert "the backend pytorch itself" in theirs.unchecked
    assert "instances on GPUs: here they ran on the processor" in theirs.unchecked
    assert (damaged["chain"].state, damaged["chain"].runs_on) == ("ok", "ensemble")


def test_the_command_prints_a_table(small_bundle: Bundle, tmp_path: Path) -> None:
    folder = write_repository(small_bundle, tmp_path / "repository")
    found = run("--check", folder)
    assert found.exit_code == 0, found.output
    lines = found.stdout.splitlines()
    assert lines[0].split() == ["model", "runs", "on", "state", "checked", "not", "checked"]
    assert [line.split()[0] for line in lines[1:]] == sorted(each.name for each in folder.iterdir())


def test_the_command_fails_where_something_is_wrong(small_bundle: Bundle, tmp_path: Path) -> None:
    folder = write_repository(small_bundle, tmp_path / "repository")
    edit(folder / "clip_text" / "config.pbtxt", "dims: 24", "dims: 25")
    found = run("--check", folder, "--json")
    assert found.exit_code == 1
    report = json.loads(found.stdout)
    assert report["ok"] is False
    states = {model["name"]: model["state"] for model in report["models"]}
    # What hands its answers on has another width, too.
    assert {name for name, state in states.items() if state != "ok"} == {
        "clip_text",
        "clip_text_string",
    }
    assert len(states) == len(list(folder.iterdir()))


def test_nothing_to_check(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match="holds no models"):
        check_repository(tmp_path)
    with pytest.raises(DeploymentError, match="cannot be read"):
        check_repository(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give BUNDLE and --out, or --check DIR"),
        (("bundle",), "give BUNDLE and --out, or --check DIR"),
        (("--check", "r", "--out", "s"), "--check writes nothing"),
        (("bundle", "--out", "s", "--json"), "belong to --check"),
        (("bundle", "--out", "s", "--preset", "fast"), "'fast' is not one of"),
    ],
)
def test_options_of_the_command(arguments: tuple[str, ...], said: str) -> None:
    found = run(*arguments)
    assert found.exit_code == 2
    assert said in found.output


def test_the_command_writes_what_its_options_say(
    small_bundle: Bundle, engines: Path, tmp_path: Path
) -> None:
    target = tmp_path / "repository"
    found = run(
        small_bundle.path, "--out", target, "--runtime", "tensorrt", "--engines", engines,
        "--name", "shop", "--gpus", 1, "--instances", 2, "--preset", "latency",
        "--bulk-queue-timeout", 0.5,
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert found.stdout == f"repository  {target}\n"
    text = (target / "shop_image" / "config.pbtxt").read_text(encoding="utf-8")
    for said in ("count: 2", "gpus: 0", "max_queue_size: 128", "microseconds: 500000\n"):
        assert said in text
