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
    "yaml", "ftplib", "telnetlib", "requests", "httpx", "httpcore", "aiohttp", "urllib3", "pycurl",
    "xmlrpc",
}  # fmt: skip

# What runs text, a shell, or what somebody else could have put there.
REFUSED_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput",
    "subprocess.getstatusoutput", "asyncio.create_subprocess_shell", "tempfile.mktemp",
    "torch.hub.load", "numpy.loads", "runpy.run_path",
}  # fmt: skip

# The one place that reads pickled weights does it with weights_only=True.
TORCH_LOAD = {"export/cliprt_export/_convert.py"}

# Servers that this process itself has started, on their own addresses, and those that the command
# line of a benchmark names.
OPENS_URLS = {
    "bench/cliprt_bench/_front.py",
    "bench/overload_check.py",
    "bench/rivals/adapters/infinity.py",
    "bench/soak/books.py",
    "bench/soak/serving.py",
    "triton_models/cliprt_triton/_server.py",
}
URLS = ("urllib.request", "http.client")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for folder in PACKAGES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            yield name, ast.parse(path.read_text(encoding="utf-8"), name)


def imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """What a module imports, each by its name there and its dotted name; members of modules too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name, alias.name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def loaded(tree: ast.Module) -> Iterator[str]:
    """Dotted names of what a module imports, by ``importlib`` and a written-out name too."""
    yield from (dotted for _, dotted in imported(tree))
    for called, call in calls(tree):
        if called == "importlib.import_module" and isinstance(call.args[0], ast.Constant):
            yield str(call.args[0].value)


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Calls, each with the dotted name of what is called, whatever it is called by."""
    names = dict(imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            yield (names.get(first, first) + dot + rest).removeprefix("builtins."), node


def given(call: ast.Call, name: str) -> object:
    """A keyword that is written out; None if it is not there, ... if it is computed."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value.value if isinstance(keyword.value, ast.Constant) else ...
    return None


def faults(name: str, tree: ast.Module) -> Iterator[str]:
    """What a module does that none may."""
    for module in loaded(tree):
        first = module.split(".")[0]
        if first in REFUSED_MODULES and not (first == "pickle" and name in PICKLES):
            yield f"imports {module}"
        if module.startswith(URLS) and name not in OPENS_URLS:
            yield f"imports {module}"
        # Passed on as a value it would not be seen among the calls.
        if module.removeprefix("builtins.") in {*REFUSED_CALLS, "torch.load"}:
            yield f"imports {module}"
    for called, call in calls(tree):
        last = called.rpartition(".")[2]
        if called in REFUSED_CALLS:
            yield f"calls {called}"
        if called.startswith(URLS) and name not in OPENS_URLS:
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
        if last == "Unpickler":
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
        "import urllib.request as opener",
        "from urllib import request",
        "from urllib.request import urlopen",
        "import urllib; urllib.request.urlopen(x)",
        "import http.client",
        "from http import client",
        "import urllib3",
        "from urllib3 import PoolManager",
        "importlib.import_module('requests')",
        "from os import system",
        "import os as o; o.system(x)",
        "from builtins import eval as ev; ev(x)",
        "from subprocess import getoutput",
        "from torch import load",
        "import torch as t; t.load(x, weights_only=True)",
        "from torch import hub; hub.load(x)",
        "from tempfile import mktemp",
        "from tempfile import mktemp as name",
        "from numpy import load; load(x, allow_pickle=True)",
        "from shutil import unpack_archive as unpack; unpack(x)",
        "from subprocess import run; run(x, shell=True)",
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


@pytest.mark.parametrize(
    "code",
    [
        "from urllib.parse import quote",
        "from re import compile; compile(x)",
        "from os import fsync; fsync(x)",
        "from tempfile import TemporaryDirectory; TemporaryDirectory()",
        "from torch import nn",
        "from . import system; system()",
        "importlib.import_module(name)",
    ],
)
def test_and_nothing_else(code: str) -> None:
    assert list(faults("client/cliprt/_client.py", ast.parse(code))) == []


def test_the_exceptions_are_there() -> None:
    """One that is no longer needed goes."""
    for name in {*PICKLES, *TORCH_LOAD, *OPENS_URLS}:
        assert (ROOT / name).is_file(), name
    trees = dict(modules())
    assert all("pickle" in set(loaded(trees[name])) for name in PICKLES)
    for name in OPENS_URLS:
        assert any(each.startswith(URLS) for each in loaded(trees[name])), name
