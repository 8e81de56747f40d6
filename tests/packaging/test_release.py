"""What is released: sdist, wheel, a list of what they need, checksums; and the search of the CI."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

RUNTIME = {
    "batch", "bench", "engines", "export", "faiss", "gpu", "http", "openvino", "ray", "rtx",
    "serve", "",
}  # fmt: skip


def program(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def released(out: Path) -> Path:
    command = [sys.executable, str(ROOT / ".ci" / "release.py"), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return released(tmp_path_factory.mktemp("release") / "dist")


def test_everything_is_there_and_as_its_checksum_says(dist: Path) -> None:
    lines = (dist / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    sums = dict(reversed(line.split("  ")) for line in lines)
    assert {path.name for path in dist.iterdir()} == {*sums, "SHA256SUMS"}
    assert sorted(Path(name).suffix for name in sums) == [".gz", ".json", ".whl"]
    for name, expected in sums.items():
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == expected


def pins() -> dict[str, set[str]]:
    """Versions in constraints.txt; of some packages one for each Python."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, version = line.partition(";")[0].strip().split("==")
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def test_the_list_holds_every_pinned_dependency_of_the_wheel(dist: Path) -> None:
    (bom,) = dist.glob("*.cdx.json")
    document = json.loads(bom.read_text(encoding="utf-8"))
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["name"] == "cliprt"
    listed = {canonicalize_name(each["name"]): each["version"] for each in document["components"]}
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        (name,) = (each for each in file.namelist() if each.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(file.read(name).decode())
    wanted = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    direct = {
        canonicalize_name(each.name)
        for each in wanted
        if any(each.marker is None or each.marker.evaluate({"extra": x}) for x in RUNTIME)
    } - {"cliprt"}
    assert len(direct) >= 20
    assert direct <= listed.keys()
    known = pins()
    for name, version in listed.items():
        # CUDA's own packages are left to the machine, see .ci/lock.
        assert version in known.get(name, {version}), name
    assert len(listed.keys() & known.keys()) > 60
    tools = ("pytest", "mypy", "ruff", "hypothesis", "atheris", "cyclonedx-bom", "pip-audit")
    for tool in (*tools, "torch"):
        assert tool not in listed
    assert all(re.fullmatch(r"pkg:pypi/[^@]+@.+", each["purl"]) for each in document["components"])


def test_the_sources_of_the_ci_and_the_pictures_stay_at_home(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        names = [member.name.partition("/")[2] for member in file.getmembers()]
    assert "SECURITY.md" in names
    assert not [name for name in names if name.startswith((".ci", "demo/pictures", ".venv"))]


def test_the_same_commit_gives_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    """Of sdist, wheel, SBOM, and so of the checksums."""
    again = released(tmp_path / "again")
    names = {path.name for path in dist.iterdir()}
    assert {path.name for path in again.iterdir()} == names
    assert {"SHA256SUMS"} < names
    for name in names:
        assert (again / name).read_bytes() == (dist / name).read_bytes(), name


def test_nothing_is_mixed_with_an_earlier_release(tmp_path: Path) -> None:
    (tmp_path / "old.whl").touch()
    command = [sys.executable, str(ROOT / ".ci" / "release.py"), "--out", str(tmp_path)]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 1
    assert "is not empty" in run.stderr


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("CLIPRT_REQUIRE_AUDIT", raising=False)
    return program("audit")


def hole(name: str) -> dict[str, Any]:
    vulnerability = {"id": "PYSEC-1", "fix_versions": ["9"], "aliases": ["CVE-1"]}
    return {"name": name, "version": "1", "vulns": [vulnerability]}


def answering(audit: Any, monkeypatch: pytest.MonkeyPatch, *found: Any) -> None:
    """Lets the database answer so, in turn. It is a stand-in: none can be reached from a test."""
    answers = iter(found)
    monkeypatch.setattr(audit, "_asked", lambda pins: next(answers))


def test_a_known_hole_fails(
    audit: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = {"name": "b", "version": "1", "vulns": []}
    answering(audit, monkeypatch, ([hole("canary")], ""), ([hole("a"), fine], ""))
    assert audit._holes()
    assert "audit: a 1: PYSEC-1, CVE-1; mended in 9" in capsys.readouterr().out


def test_no_known_hole_passes(
    audit: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = {"name": "b", "version": "1", "vulns": []}
    answering(audit, monkeypatch, ([hole("canary")], ""), ([fine], ""))
    assert not audit._holes()
    assert "no known holes in 1 pinned releases" in capsys.readouterr().out


@pytest.mark.parametrize("demanded", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        ([], "the database of advisories cannot be asked (ConnectionError)"),
        ([{"name": "canary", "skip_reason": "not found"}], ""),
        ([{"name": "canary", "version": "1", "vulns": []}], ""),
    ],
)
def test_what_was_not_audited_is_never_called_sound(
    demanded: bool,
    answer: Any,
    audit: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if demanded:
        monkeypatch.setenv("CLIPRT_REQUIRE_AUDIT", "1")
    answering(audit, monkeypatch, answer)
    assert audit._holes() == demanded
    out = capsys.readouterr().out
    assert "COULD NOT BE AUDITED" in out
    assert "no known holes" not in out


# As pip-audit reads a list, without the database.
PIP_AUDIT = """
import json, sys
from packaging.requirements import Requirement

lines = open(sys.argv[sys.argv.index("--requirement") + 1], encoding="utf-8").read().splitlines()
read = [Requirement(line) for line in lines]
read = [each for each in read if each.marker is None or each.marker.evaluate()]
if len({each.name for each in read}) < len(read):
    sys.exit("ERROR:pip_audit._cli:package has duplicate requirements")
print(json.dumps({"dependencies": [
    {"name": each.name, "version": str(each.specifier)[2:], "vulns": []} for each in read
]}))
"""


def stand_in(audit: Any, monkeypatch: pytest.MonkeyPatch, folder: Path, program: str) -> None:
    """Puts a program in the place of pip-audit."""
    path = folder / "pip-audit"
    path.write_text(f"#!{sys.executable}\n{program}", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setattr(audit, "BIN", folder)


def test_pins_for_every_python_are_asked_about(
    audit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(audit, monkeypatch, tmp_path, PIP_AUDIT)
    found, reason = audit._asked((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    assert reason == ""
    spoken_of = {(canonicalize_name(each["name"]), each["version"]) for each in found}
    assert spoken_of == {(name, version) for name in pins() for version in pins()[name]}


def test_a_pin_that_pip_audit_passes_over_is_missed(
    audit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(
        audit,
        monkeypatch,
        tmp_path,
        PIP_AUDIT.replace("for each in read\n", "for each in read[1:]\n"),
    )
    found, reason = audit._asked("a==1\nb==2\nb==3 ; python_full_version < '3'\n")
    assert [each["version"] for each in found] == ["2"]
    assert reason == "pip-audit spoke of 1 of 3 pinned releases"


@pytest.mark.parametrize("said", ["", "{}", "[", '{"dependencies"'])
def test_a_database_that_cannot_be_asked_is_named_without_its_address(
    said: str, audit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = "requests.exceptions.ConnectionError: http://proxy.internal refused"
    program = f"import sys\nprint({said!r})\nsys.exit({error!r})\n"
    stand_in(audit, monkeypatch, tmp_path, program)
    reason = "the database of advisories cannot be asked (ConnectionError)"
    assert audit._asked("a==1\n") == ([], reason)


def test_the_ci_audits() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines.index("make check") < lines.index("make audit") < lines.index("make test")


# In pieces, so that they are none in this file.
SECRETS = {
    "a key of a known form": 'aws = "AKIA' + 'Q3EGWEPRXTJDZ6QZ"',
    "what is called one": "pass" + 'word = "a-horse-and-a-battery"',
    "hexadecimal digits": f'drawn = "{hashlib.sha256(b"drawn").hexdigest()}"',
}


@pytest.fixture
def tree(audit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the baseline of ours."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    shutil.copy(ROOT / audit.BASELINE, tmp_path)
    monkeypatch.setattr(audit, "ROOT", tmp_path)
    return tmp_path


def track(tree: Path, content: str) -> None:
    (tree / "settings.py").write_text(content, encoding="utf-8")
    subprocess.run(["git", "-C", str(tree), "add", "-A"], check=True)


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_a_secret_in_a_tracked_file_fails(
    secret: str, audit: Any, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    track(tree, 'aws = ""\n')
    assert not audit._secrets()
    track(tree, f"{secret}\n")
    assert audit._secrets()
    assert "settings.py" in capsys.readouterr().out


def test_what_the_baseline_has_may_move_within_its_file(audit: Any, tree: Path) -> None:
    secret = SECRETS["what is called one"]
    track(tree, f"{secret}\n")
    scan = [audit.BIN / "detect-secrets", "scan", "--no-verify", "--baseline", audit.BASELINE]
    subprocess.run(scan, cwd=tree, check=True)
    assert not audit._secrets()
    before = (tree / audit.BASELINE).read_bytes()
    track(tree, f"moved = 1\n{secret}\n")
    assert not audit._secrets()
    assert (tree / audit.BASELINE).read_bytes() == before
