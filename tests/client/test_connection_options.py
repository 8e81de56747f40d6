"""The options with which commands reach a server."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
import trustme
from click.testing import CliRunner, Result

from cliprt import Connection, Tls
from cliprt._connection_options import ConnectionOptions, connection_options

REMOTE = "host.example:8001"


def run(endpoint: str, *arguments: object) -> tuple[Result, list[Connection]]:
    """What a command with the options makes of them."""
    made: list[Connection] = []

    @click.command()
    @click.argument("endpoint")
    @connection_options
    def command(endpoint: str, via: ConnectionOptions) -> None:
        made.append(via.to(endpoint))

    return CliRunner().invoke(command, [endpoint, *map(str, arguments)]), made


@pytest.fixture
def files(tmp_path: Path) -> Path:
    authority = trustme.CA()
    leaf = authority.issue_cert("client.example")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    leaf.private_key_pem.write_to_path(tmp_path / "client.key")
    (tmp_path / "token").write_text("secret\n", encoding="utf-8")
    (tmp_path / "empty").write_text("\n", encoding="utf-8")
    return tmp_path


def test_without_options_it_is_a_plain_connection() -> None:
    assert run(REMOTE)[1] == [Connection(REMOTE)]


def test_all_options_arrive(files: Path) -> None:
    ca, certificate, key = (files / name for name in ("ca.pem", "client.pem", "client.key"))
    _, made = run(
        REMOTE, "--tls-ca", ca, "--tls-certificate", certificate, "--tls-key", key,
        "--tls-server-name", "other.example", "--token-file", files / "token",
    )  # fmt: skip
    tls = Tls(ca=ca, certificate=certificate, key=key, server_name="other.example")
    assert made == [Connection(REMOTE, tls=tls, auth="secret")]


def test_tls_with_the_public_authorities() -> None:
    assert run(REMOTE, "--tls")[1] == [Connection(REMOTE, tls=Tls())]


def test_a_token_is_sent_to_this_machine_without_tls(files: Path) -> None:
    _, made = run("localhost:8001", "--token-file", files / "token")
    assert made == [Connection("localhost:8001", auth="secret")]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--token-file", "token"), "the token would travel to host.example:8001 in plain text"),
        (("--tls", "--token-file", "empty"), "empty is empty"),
        (("--tls", "--token-file", "nothing"), "nothing cannot be read: No such file"),
        (("--tls-key", "client.key"), "--tls-certificate and --tls-key belong together"),
        (("--tls-ca", "token"), "ca must be PEM with a CERTIFICATE"),
        (("--tls-ca", "nothing"), "ca cannot be read"),
    ],
)
def test_what_cannot_be_meant(
    files: Path, arguments: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    found, made = run(REMOTE, *arguments)
    assert (found.exit_code, made) == (2, [])
    assert told in " ".join(found.output.split())


def test_the_endpoint_is_checked() -> None:
    found, _ = run("nonsense")
    assert found.exit_code == 2
    assert "must look like host:8001" in found.output
