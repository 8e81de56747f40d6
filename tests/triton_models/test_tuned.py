"""The file that `cliprt tune` writes: read as written, refused where it does not belong."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from cliprt import Bundle, InvalidInput
from cliprt._cli import main
from cliprt_engines import CpuSettings
from cliprt_triton import Policy, Tuned, read_tuned


@pytest.fixture
def tuned(demo_bundle: Bundle) -> Tuned:
    card = demo_bundle.card
    return Tuned(
        schema=1,
        model=card.name,
        space=card.space,
        machine="Example CPU, 2 cores",
        goal="image, 16 callers of 1, p99 within 50 ms",
        why="Best.",
        precision="fp32",
        policy=Policy(max_batch_size=4, max_queue_delay_us=2_000),
        settings={"image": CpuSettings(workers=1, threads=2, batch=4)},
        evidence=("fp32: 10 items/s",),
    )


def repository(bundle: Bundle, out: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["repository", str(bundle.path), "--out", str(out), *words])
    return done.exit_code, done.output


def test_it_is_read_as_it_was_written(tuned: Tuned, tmp_path: Path) -> None:
    tuned.write(tmp_path / "policy.json")
    assert read_tuned(tmp_path / "policy.json") == tuned


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is no policy of cliprt tune"),
        (b'{"schema": 9}', "has schema 9, this cliprt reads 1; run cliprt tune again"),
        (b'{"schema": 1}', "is no policy of cliprt tune"),
    ],
)
def test_what_is_none_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "policy.json").write_bytes(content)
    with pytest.raises(InvalidInput, match=said):
        read_tuned(tmp_path / "policy.json")
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        read_tuned(tmp_path / "none.json")


def test_a_policy_out_of_range_is_refused(tuned: Tuned, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    tuned.write(path)
    path.write_text(path.read_text().replace('"instances": 1', '"instances": 0'))
    with pytest.raises(InvalidInput, match="instances must be at least 1, got 0"):
        read_tuned(path)


def test_a_repository_takes_it(tuned: Tuned, demo_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    tuned.write(path)
    code, output = repository(demo_bundle, tmp_path / "r", "--policy", str(path))
    assert code == 0, output
    config = (tmp_path / "r" / "clip_image" / "config.pbtxt").read_text()
    assert "max_batch_size: 4" in config
    assert "max_queue_delay_microseconds: 2000" in config
    assert '\\"threads\\":2' in config


def test_single_options_change_it(tuned: Tuned, demo_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    tuned.write(path)
    code, output = repository(
        demo_bundle, tmp_path / "r", "--policy", str(path), "--max-batch-size", "9"
    )
    assert code == 0, output
    config = (tmp_path / "r" / "clip_image" / "config.pbtxt").read_text()
    assert "max_batch_size: 9" in config
    assert "max_queue_delay_microseconds: 2000" in config


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--preset", "latency"), "--policy and --preset: one of them"),
        (("--runtime", "onnxruntime"), "was measured with the runtime python"),
    ],
)
def test_what_does_not_go_with_it(
    tuned: Tuned, demo_bundle: Bundle, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    path = tmp_path / "policy.json"
    tuned.write(path)
    code, output = repository(demo_bundle, tmp_path / "r", "--policy", str(path), *words)
    assert code == 2
    assert said in output


def test_another_model_is_refused(tuned: Tuned, demo_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    msgspec.structs.replace(tuned, space="f" * 64).write(path)
    code, output = repository(demo_bundle, tmp_path / "r", "--policy", str(path))
    assert code == 1
    assert "run cliprt tune on this bundle" in output
    assert not (tmp_path / "r").exists()
