"""The file that `cliprt tune` writes: read as written, refused where it does not belong."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from cliprt import Bundle, InvalidInput
from cliprt._cli import main
from cliprt_engines import CpuSettings
from cliprt_triton import Policy, Tuned, _cli, _tuned, read_tuned


@pytest.fixture
def tuned(demo_bundle: Bundle) -> Tuned:
    card = demo_bundle.card
    return Tuned(
        schema=1,
        model=card.name,
        space=card.space,
        machine=Tuned.this_machine(),
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


class _Written(Exception):
    """As far as `cliprt serve` is followed."""


def written(*args: object, **others: object) -> None:
    raise _Written


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


@pytest.mark.parametrize(("machine", "told"), [("Example CPU, 64 cores", True), (None, False)])
def test_another_machine_is_told(
    tuned: Tuned,
    demo_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: str | None,
    told: bool,
) -> None:
    path = tmp_path / "policy.json"
    msgspec.structs.replace(tuned, machine=machine or tuned.machine).write(path)
    warning = (
        f"Warning: the policy was measured on {machine}, this is {tuned.machine}; run cliprt tune "
        "where the bundle is served\n"
    )
    words = ["repository", str(demo_bundle.path), "--out", str(tmp_path / "r")]
    done = CliRunner().invoke(main, [*words, "--policy", str(path)])
    assert done.exit_code == 0, done.output
    assert done.stderr == (warning if told else "")
    monkeypatch.setattr(_cli, "write_repository", written)
    done = CliRunner().invoke(main, ["serve", str(demo_bundle.path), "--policy", str(path)])
    assert isinstance(done.exception, _Written)
    assert done.stderr == (warning if told else "")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("processor : 0\nmodel name\t: Example CPU @ 3 GHz\nflags : a\n\nmodel name : 2\n", True),
        ("processor : 0\n", False),
        (None, False),
    ],
)
def test_a_machine_is_its_processor_and_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None, named: bool
) -> None:
    if content is not None:
        (tmp_path / "cpuinfo").write_text(content)
    monkeypatch.setattr(_tuned, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(_tuned, "usable_cores", lambda: 3)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert Tuned.this_machine() == f"{'Example CPU @ 3 GHz' if named else 'aarch64'}, 3 cores"
