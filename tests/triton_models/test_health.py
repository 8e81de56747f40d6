"""The health of live models on a real Triton: green when sound, red for the one right reason."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest
from broken_models import Switch, break_tower, forget_precision, set_patience, swap_tower
from click.testing import CliRunner
from conftest import ROOT
from safetensors.numpy import load_file, save_file

from cliprt import Bundle, Overloaded, ServerError
from cliprt._connection import Connection
from cliprt._grpc import PendingTensor, TritonChannel
from cliprt._health import Report
from cliprt._health_cli import health
from cliprt._names import ModelNames, served_version
from cliprt._server_health import check_server
from cliprt_export import export_checkpoint
from cliprt_triton import Policy, TritonServer, write_repository
from folders import write_calibration

QUEUE = 8

# Of the health model of `clip`: longer than a sound tower takes on any machine.
PATIENCE_S = 10.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("health")
    write_calibration(folder / "calibrate", 48)
    return export_checkpoint(
        ROOT / "demo" / "checkpoint",
        folder / "bundle",
        precisions=("fp32", "int8-cpu"),
        calibrate=folder / "calibrate",
        samples=24,
    )


@pytest.fixture(scope="module")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of the same shape, and with other weights."""
    folder = tmp_path_factory.mktemp("other") / "checkpoint"
    shutil.copytree(ROOT / "demo" / "checkpoint", folder)
    random = np.random.default_rng(0)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name.startswith("vision_model.encoder"):
            noise = 1 + 0.2 * random.standard_normal(tensor.shape)
            tensors[name] = (tensor * noise).astype(tensor.dtype)
    save_file(tensors, folder / "model.safetensors")
    return export_checkpoint(folder, folder.parent / "bundle", samples=8)


@dataclass(frozen=True)
class Served:
    """A Triton with models in many states.

    ``clip`` breaks as the switch says; ``eight`` is sound, in int8-cpu; ``swapped`` has the image
    tower of another checkpoint; ``half`` has no text tower; ``old`` does not say its precision.
    """

    server: TritonServer
    switch: Switch

    @property
    def address(self) -> str:
        return self.server.address

    def probe(self, name: str = "clip") -> tuple[int, str]:
        """Status and content of a POST without a body, as of a readiness probe."""
        url = f"{self.server.http_url}/v2/models/{name}_health/infer"
        request = urllib.request.Request(url, data=b"", method="POST")
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, response.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())["error"]

    def probe_until(self, sign: str, name: str = "clip") -> tuple[int, str]:
        """The first new answer that holds a sign; reports hold for a while."""
        ends = time.monotonic() + 60
        while True:
            status, content = self.probe(name)
            if sign in content or time.monotonic() > ends:
                return status, content
            time.sleep(0.1)


@pytest.fixture(scope="module")
def served(
    bundle: Bundle, other_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    whole = folder / "whole"
    whole.mkdir()
    version = served_version(bundle.card.space)
    policy = Policy(max_batch_size=8, max_queue_size=QUEUE)
    for name in ("clip", "eight", "swapped", "half", "old"):
        precision = "int8-cpu" if name == "eight" else "fp32"
        repository = write_repository(
            bundle, folder / name, name=name, precision=precision, policy=policy
        )
        # Triton does not start with an ensemble whose tower is gone, and none is looked at here.
        names = ModelNames(name)
        for model in (names.image, names.text, names.card, names.health):
            (repository / model).rename(whole / model)
    switch = Switch(folder / "mode")
    break_tower(whole / "clip_image", version, switch)
    set_patience(whole, bundle, "clip", PATIENCE_S)
    swap_tower(whole / "swapped_image" / str(version), other_bundle)
    shutil.rmtree(whole / "half_text")
    forget_precision(whole / "old_image", version)
    with TritonServer(whole, http_port=0) as server:
        yield Served(server, switch)


def wrong(report: Report) -> dict[str, str]:
    """What is wrong, by place and subject, each with what was found."""
    return {
        f"{check.where} {check.what}": f"{check.found} ({check.limit})"
        for check in report.checks
        if check.verdict == "wrong"
    }


@pytest.mark.parametrize("thorough", [False, True])
@pytest.mark.parametrize("model", ["clip", "eight"])
def test_sound_models_are_healthy(
    served: Served, model: str, bundle: Bundle, thorough: bool
) -> None:
    report = check_server(served.address, model=model, thorough=thorough)
    assert (report.status, wrong(report)) == ("good", {})
    assert report.space == bundle.card.space
    looked_at = {f"{check.where} {check.what}" for check in report.checks}
    for tower in ("image", "text"):
        for what in ("answers", "numbers", "length", "constant", "batch", "known answers"):
            assert f"{tower} {what}" in looked_at
    assert check_server(served.address, model=model, bundle=bundle).status == "good"
    status, content = served.probe_until('"status":"good","healthy":true', model)
    assert status == 200
    assert '"status":"good","healthy":true' in content


BREAKS = {
    "nan": ("image numbers", "answers hold NaN or infinity (none may)"),
    "constant": ("image constant", "all answers are the same"),
    "long": ("image length", "1.25 to 1.25 (1, within 0.001)"),
    "size": ("image batch", "differs by"),
    "neighbours": ("image batch", "differs by"),
    "half": ("image shape", "float32 [1, 32], expected float32 [1, 64]"),
    "fails": ("image answers", "a broken tower"),
}


@pytest.mark.parametrize("thorough", [False, True])
@pytest.mark.parametrize("mode", BREAKS)
def test_broken_towers_are_told_with_their_own_reason(
    served: Served, mode: str, thorough: bool
) -> None:
    what, found = BREAKS[mode]
    with served.switch.broken(mode):
        report = check_server(served.address, thorough=thorough)
    assert report.status == "wrong"
    assert list(wrong(report)) == [what]
    assert found in wrong(report)[what]
    assert check_server(served.address).healthy


@pytest.mark.parametrize("mode", BREAKS)
def test_the_health_model_fails_on_them_and_recovers(served: Served, mode: str) -> None:
    what, found = BREAKS[mode]
    with served.switch.broken(mode):
        status, content = served.probe_until("not healthy")
    assert status == 503
    assert f"clip is not healthy: {what}: " in content
    assert found in content
    assert served.probe_until('"healthy":true')[0] == 200


def test_over_grpc_the_health_model_is_no_dead_server(served: Served) -> None:
    channel = TritonChannel(Connection(served.address, retry=None))
    with served.switch.broken("nan"):
        served.probe_until("not healthy")
        with pytest.raises(ServerError, match="says: clip is not healthy: image numbers: "):
            channel.infer("clip_health", {"probe": np.zeros(1, np.uint8)}, "healthy", 20).result()
    channel.close()
    assert served.probe_until('"healthy":true')[0] == 200


@pytest.mark.parametrize("thorough", [False, True])
def test_answers_in_the_wrong_order_are_noticed(served: Served, thorough: bool) -> None:
    with served.switch.broken("order"):
        report = check_server(served.address, thorough=thorough)
    assert list(wrong(report)) == ["image batch"]


@pytest.mark.parametrize("thorough", [False, True])
def test_weights_of_another_checkpoint_are_noticed(served: Served, thorough: bool) -> None:
    report = check_server(served.address, model="swapped", thorough=thorough)
    assert list(wrong(report)) == ["image known answers"]
    assert "(at least 0.999999)" in wrong(report)["image known answers"]


def test_a_tower_that_does_not_answer_is_wrong(served: Served) -> None:
    assert served.probe_until('"status":"good"')[0] == 200
    with served.switch.broken("slow"):
        status, content = served.probe_until("waits for image since")
        assert status == 503
        assert f"the limit is {PATIENCE_S:g} s; it hangs, or is too slow" in content
        # Nobody waits behind one that hangs.
        assert served.probe()[0] == 503
        # Whoever asks from outside stands behind that question, and cannot tell who hangs from who
        # is busy. The sound tower is asked in time.
        report = check_server(served.address, timeout_s=20.0)
        assert report.status == "busy"
        busy = {check.where for check in report.checks if check.verdict == "busy"}
        assert busy == {"image"}
        assert not wrong(report)
    assert served.probe_until('"healthy":true')[0] == 200


def test_a_full_queue_is_busy_and_not_wrong(served: Served, bundle: Bundle) -> None:
    assert bundle.card.image is not None
    picture = np.zeros((1, bundle.card.image.height, bundle.card.image.width, 3), np.uint8)
    channel = TritonChannel(Connection(served.address, retry=None))
    assert served.probe_until('"status":"good"')[0] == 200
    with served.switch.broken("slow"):
        # One batch is under way, another is ready, and then as many wait as may.
        crowd: list[PendingTensor] = []
        while not any(one.done() for one in crowd):
            assert len(crowd) < 100
            crowd.append(channel.infer("clip_image", {"pixels": picture}, "embedding", 120))
            time.sleep(0.02)
        refused = [one for one in crowd if one.done()]
        with pytest.raises(Overloaded):
            refused[0].result()
        report = check_server(served.address)
        assert (report.status, report.healthy, wrong(report)) == ("busy", True, {})
        result = CliRunner().invoke(health, [served.address])
        assert result.exit_code == 3
        assert "clip at" in result.output
        assert "is busy" in result.output
        # The last verdict stays in force.
        status, content = served.probe_until('"status":"busy"')
        assert (status, '"healthy":true' in content) == (200, True)
    assert all(len(one.result()) == 1 for one in crowd if one not in refused)
    channel.close()


def test_a_missing_tower_is_wrong(served: Served) -> None:
    report = check_server(served.address, model="half")
    assert wrong(report) == {"text tower": "not served (the card has one)"}
    status, content = served.probe("half")
    assert status == 503
    assert "text answers: " in content
    assert "'half_text' is not ready" in content


def test_another_space_than_the_bundle_s_is_wrong(served: Served, other_bundle: Bundle) -> None:
    report = check_server(served.address, bundle=other_bundle)
    (what,) = wrong(report).values()
    assert what == f"{report.space} (the bundle's is {other_bundle.card.space})"


def test_what_does_not_say_its_precision_is_not_judged_by_a_guess(served: Served) -> None:
    (what,) = wrong(check_server(served.address, model="old")).values()
    assert "the image tower does not say its precision; make the repository again" in what


def test_nobody_there_and_nothing_served_are_wrong(served: Served) -> None:
    (what,) = wrong(check_server("127.0.0.1:9", timeout_s=2.0)).values()
    assert "no Triton gRPC server answers at 127.0.0.1:9" in what
    (what,) = wrong(check_server(served.address, model="nobody")).values()
    assert "serves neither nobody_image nor nobody_text" in what


def run(*arguments: str) -> Any:
    return CliRunner().invoke(health, arguments)


def test_the_command_says_what_why_and_how_long(served: Served, bundle: Bundle) -> None:
    result = run(served.address, "--bundle", str(bundle.path))
    assert result.exit_code == 0, result.output
    assert f"clip at {served.address} is healthy (" in result.output
    result = run(served.address, "--model", "swapped")
    assert result.exit_code == 1
    assert "image known answers: these are not the weights of the card" in result.output
    assert f"swapped at {served.address} is unhealthy (" in result.output


def test_the_command_prints_json(served: Served) -> None:
    result = run(served.address, "--json")
    report = msgspec.json.decode(result.output, type=Report)
    assert (result.exit_code, report.status, report.model) == (0, "good", "clip")
    assert report.took_s > 0


@pytest.mark.parametrize("arguments", [["nonsense"], ["h:1", "--timeout", "0"]])
def test_the_command_refuses_malformed_arguments(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2
