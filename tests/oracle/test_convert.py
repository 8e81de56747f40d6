"""Pickled weights become safetensors, and nothing in a pickle is ever run."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import SMALL, draw_tensors, write_checkpoint
from click.testing import CliRunner
from safetensors.torch import load_file

from cliprt import CheckpointError, MissingExtra
from cliprt_export._checkpoint import Checkpoint
from cliprt_export._cli_convert import convert
from cliprt_export._convert import convert_checkpoint
from cliprt_export._hf_clip import read_hf_clip
from cliprt_export._space import identity_of

pytestmark = pytest.mark.oracle

State = dict[str, torch.Tensor]


def weights() -> State:
    return {name: torch.from_numpy(array) for name, array in draw_tensors(SMALL).items()}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint without its weights."""
    folder = write_checkpoint(tmp_path / "checkpoint", SMALL)
    (folder / "model.safetensors").unlink()
    return folder


def same(folder: Path, name: str = "model.safetensors") -> None:
    """Holds the drawn weights, bit for bit."""
    found = load_file(folder / name)
    assert set(found) == set(draw_tensors(SMALL))
    for key, array in draw_tensors(SMALL).items():
        np.testing.assert_array_equal(found[key].numpy(), array)


def plain(state: State) -> Any:
    return state


def nested(state: State) -> Any:
    return {"epoch": 3, "name": "run", "state_dict": state, "optimizer": {"lr": 0.1}}


def prefixed(state: State) -> Any:
    return {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}


def transposed(state: State) -> Any:
    """The same numbers, laid out otherwise in memory."""
    return {
        name: tensor.t().contiguous().t() if tensor.ndim == 2 else tensor
        for name, tensor in state.items()
    }


def of_one_storage(state: State) -> Any:
    """All tensors are views of one memory."""
    joined = torch.cat([tensor.flatten() for tensor in state.values()])
    parts = joined.split([tensor.numel() for tensor in state.values()])
    return {
        name: part.view(tensor.shape)
        for (name, tensor), part in zip(state.items(), parts, strict=True)
    }


@pytest.mark.parametrize("make", [plain, nested, prefixed, transposed, of_one_storage])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older format"])
def test_weights_survive(
    make: Callable[[State], Any], zipped: bool, checkpoint: Path, tmp_path: Path
) -> None:
    torch.save(
        make(weights()),
        checkpoint / "pytorch_model.bin",
        _use_new_zipfile_serialization=zipped,
    )
    same(convert_checkpoint(checkpoint, tmp_path / "out"))


def test_a_converted_checkpoint_is_read_like_the_original(
    checkpoint: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    torch.save(weights(), checkpoint / "pytorch_model.bin")
    out = convert_checkpoint(checkpoint, tmp_path / "out")

    def identity(folder: Path) -> dict[str, str]:
        return identity_of(read_hf_clip(Checkpoint(folder, "test")))

    assert identity(out) == identity(small_checkpoint)


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "epoch_3.ckpt", "x.bin"])
def test_one_file_alone(name: str, checkpoint: Path, tmp_path: Path) -> None:
    torch.save(weights(), checkpoint / name)
    same(convert_checkpoint(checkpoint / name, tmp_path / "1"))
    same(convert_checkpoint(checkpoint, tmp_path / "2"))
    assert (tmp_path / "1" / "config.json").is_file()


def test_the_name_follows_the_reader(checkpoint: Path, tmp_path: Path) -> None:
    torch.save(weights(), checkpoint / "open_clip_pytorch_model.bin")
    same(convert_checkpoint(checkpoint, tmp_path / "1"), "open_clip_model.safetensors")
    (checkpoint / "open_clip_pytorch_model.bin").rename(checkpoint / "weights.pt")
    (checkpoint / "open_clip_config.json").write_text("{}")
    same(convert_checkpoint(checkpoint, tmp_path / "2"), "open_clip_model.safetensors")


def test_tied_tensors_are_written_twice(tmp_path: Path) -> None:
    tied = torch.arange(6.0).reshape(2, 3)
    torch.save({"a": tied, "b": tied, "c": tied[1]}, tmp_path / "w.pt")
    found = load_file(convert_checkpoint(tmp_path / "w.pt", tmp_path / "out") / "model.safetensors")
    assert torch.equal(found["a"], tied)
    assert torch.equal(found["b"], tied)
    assert torch.equal(found["c"], tied[1])


def write_shards(folder: Path) -> None:
    state = weights()
    names = sorted(state)
    where = {}
    for shard in (1, 2):
        file = f"pytorch_model-{shard:05}-of-00002.bin"
        part = {name: state[name] for name in names[shard - 1 :: 2]}
        torch.save(part, folder / file)
        where |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))


def test_shards(checkpoint: Path, small_checkpoint: Path, tmp_path: Path) -> None:
    write_shards(checkpoint)
    out = convert_checkpoint(checkpoint, tmp_path / "out")
    assert not list(out.glob("pytorch_model*"))
    found, expected = (
        identity_of(read_hf_clip(Checkpoint(folder, "test"))) for folder in (out, small_checkpoint)
    )
    assert found == expected


@pytest.mark.parametrize("name", ["../weights.bin", "/etc/passwd", "sub/weights.bin", "x.json"])
def test_an_index_cannot_name_files_outside(name: str, checkpoint: Path, tmp_path: Path) -> None:
    write_shards(checkpoint)
    torch.save(weights(), tmp_path / "weights.bin")
    index = {"weight_map": {"x": name}}
    (checkpoint / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="names a file outside it"):
        convert_checkpoint(checkpoint, tmp_path / "out")


class Payload:
    """Makes a folder when it is unpickled by a loader that trusts it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older format"])
def test_a_malicious_pickle_does_not_run(zipped: bool, tmp_path: Path) -> None:
    proof, file = tmp_path / "proof", tmp_path / "w.bin"
    torch.save({**weights(), "x": Payload(proof)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"w\.bin asks for (posix|os)\.mkdir") as caught:
        convert_checkpoint(file, tmp_path / "out")
    assert "weights_only=False" not in str(caught.value)
    assert not proof.exists()
    assert not (tmp_path / "out").exists()
    # It would have run: the payload is real.
    torch.load(file, weights_only=False)
    assert proof.exists()


def test_a_bare_malicious_pickle_does_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Payload(proof)))
    with pytest.raises(CheckpointError):
        convert_checkpoint(tmp_path / "w.pt", tmp_path / "out")
    assert not proof.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]


def test_a_whole_model_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
        convert_checkpoint(tmp_path / "w.pt", tmp_path / "out")


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    """Laid out like one; what counts are the names inside."""
    torch.save(weights(), tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt", "a") as archive:
        archive.writestr("archive/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript archive, as OpenAI's released"):
        convert_checkpoint(tmp_path / "w.pt", tmp_path / "out")


def damaged(folder: Path, what: str) -> None:
    file = folder / "pytorch_model.bin"
    if what == "numbers":
        torch.save({"a": torch.ones(2), "b": 3}, file)
    elif what == "sparse":
        torch.save({"a": torch.eye(2).to_sparse()}, file)
    elif what == "list":
        torch.save([torch.ones(2)], file)
    elif what == "cut":
        torch.save(weights(), file)
        file.write_bytes(file.read_bytes()[:5000])
    elif what == "text":
        file.write_text("hello")
    elif what == "ready":
        (folder / "model.safetensors").touch()
    elif what == "two":
        torch.save(weights(), folder / "a.pt")
        torch.save(weights(), folder / "b.pt")
    elif what == "shard":
        write_shards(folder)
        (folder / "pytorch_model-00002-of-00002.bin").unlink()
    elif what == "index":
        (folder / "pytorch_model.bin.index.json").write_text("[]")


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("numbers", "holds 'b', which is no plain tensor"),
        ("sparse", "holds 'a', which is no plain tensor"),
        ("list", "holds no dictionary of tensors"),
        ("cut", "cannot be loaded as plain weights"),
        ("text", "cannot be loaded as plain weights"),
        ("ready", r"has model\.safetensors already"),
        ("two", r"has a\.pt, b\.pt; name one file"),
        ("nothing", "has no pickled weights"),
        ("shard", r"its shard pytorch_model-00002-of-00002\.bin is missing"),
        ("index", "no usable weight_map"),
    ],
)
def test_what_is_wrong_is_said(what: str, text: str, checkpoint: Path, tmp_path: Path) -> None:
    damaged(checkpoint, what)
    with pytest.raises(CheckpointError, match=text):
        convert_checkpoint(checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.npz").touch()
    with pytest.raises(CheckpointError, match=r"w\.npz is no pickled file"):
        convert_checkpoint(tmp_path / "w.npz", tmp_path / "out")
    with pytest.raises(CheckpointError, match="neither a file nor a folder"):
        convert_checkpoint(tmp_path / "nothing.pt", tmp_path / "out")


def test_an_old_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(MissingExtra, match="CVE-2025-32434"):
        convert_checkpoint(tmp_path / "w.pt", tmp_path / "out")


def test_the_command(checkpoint: Path, tmp_path: Path) -> None:
    torch.save(weights(), checkpoint / "pytorch_model.bin")
    out = tmp_path / "out [v1]"
    result = CliRunner().invoke(convert, [str(checkpoint), "--out", str(out)])
    assert result.exit_code == 0
    assert result.stdout.startswith(f"checkpoint  {out}\n")
    same(out)
