"""What no module of ours does: run what it reads, or fetch what it is told to."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from conftest import ROOT

PACKAGES = ("client", "export", "engines", "triton_models", "bench", "demo", ".ci")

# Ray itself pickles whatever passes through it; a cluster is trusted with the job. What passes
# between a job and its own child in the same words never comes from a file or from the network.
PICKLES = {
    "client/cliprt_batch/_ray.py",
    "client/cliprt_batch/_ray_driver.py",
    "client/cliprt_batch/_ray_worker.py",
}

# Modules that load what may be code, or that reach out of this machine.
REFUSED_MODULES = {
    "pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle",
    "yaml", "ftplib", "telnetlib", "requests", "httpx", "aiohttp", "xmlrpc",
}  # fmt: skip

# The one place that reads pickled weights does it with weights_only=True.
TORCH_LOAD = {"export/cliprt_export/_convert.py"}

# Readiness of a server that this process itself has started, on its own address.
OPENS_URLS = {"triton_models/cliprt_triton/_server.py"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for folder in PACKAGES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            yield name, ast.parse(path.read_text(encoding="utf-8"), name)


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Calls, each with the dotted name of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def given(call: ast.Call, name: str) -> object:
    """A keyword that is written out; None if it is not there, ... if it is computed."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value.value if isinstance(keyword.value, ast.Constant) else ...
    return None


def faults(name: str, tree: ast.Module) -> Iterator[str]:
    """What a module does that none may."""
    for module in imported(tree):
        first = module.split(".")[0]
        if first in REFUSED_MODULES and not (first == "pickle" and name in PICKLES):
            yield f"imports {module}"
        if module.startswith("urllib.request") and name not in OPENS_URLS:
            yield f"imports {module}"
    for called, call in calls(tree):
        last = called.rpartition(".")[2]
        if called in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"):
            yield f"calls {called}"
        if given(call, "shell") not in (None, False):
            yield f"{called} with a shell"
        if given(call, "trust_remote_code") not in (None, False):
            yield f"{called} trusts remote code"
        if given(call, "allow_pickle") not in (None, False):
            yield f"{called} allows pickle"
        safe = name in TORCH_LOAD and given(call, "weights_only") is True
        if called == "torch.load" and not safe:
            yield "calls torch.load"
        if called == "torch.jit.load" and name not in TORCH_LOAD:
            yield "calls torch.jit.load"
        if last in ("extract", "extractall", "unpack_archive"):
            yield f"unpacks an archive by {called}"
        if last == "mktemp" and called.startswith("tempfile"):
            yield "names a temporary file before it makes it"
        if last == "Unpickler" or called.startswith("np.loads"):
            yield f"calls {called}"


def test_no_module_does_any_of_it() -> None:
    found = [f"{name}: {fault}" for name, tree in modules() for fault in faults(name, tree)]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from yaml import load",
        "import urllib.request",
        "eval(x)",
        "subprocess.run(x, shell=True)",
        "np.load(x, allow_pickle=True)",
        "np.load(x, allow_pickle=flag)",
        "torch.load(x)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "tar.extractall(path)",
        "tempfile.mktemp()",
    ],
)
def test_the_search_finds_what_it_is_for(code: str) -> None:
    assert list(faults("client/cliprt/_client.py", ast.parse(code)))


def test_the_exceptions_are_there() -> None:
    """One that is no longer needed goes."""
    for name in {*PICKLES, *TORCH_LOAD, *OPENS_URLS}:
        assert (ROOT / name).is_file(), name
    trees = dict(modules())
    assert all("pickle" in set(imported(trees[name])) for name in PICKLES)
    for name in OPENS_URLS:
        assert any(each.startswith("urllib.request") for each in imported(trees[name])), name
