"""Lets torchvision be imported beside a build of torch that its own compiled part does not fit.

torchvision from the package index is compiled for torch with CUDA; beside torch's CPU build its
operators are missing and the import fails on the first one. CLIP uses none of them: clip-retrieval
imports torchvision for transforms of pictures alone, which are Python. So the operators are
declared here, without an implementation; whoever called one would get an error.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import torch

_KEPT: list[torch.library.Library] = []


def declare_operators() -> list[str]:
    """Declares torchvision's operators where its compiled part does not load.

    Returns:
        Their names; none where torchvision is whole, or is not there.
    """
    spec = find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return []
    folder = Path(spec.submodule_search_locations[0])
    try:
        for compiled in folder.glob("_C*.so"):
            torch.ops.load_library(str(compiled))
            return []
    except (OSError, RuntimeError):
        pass
    source = (folder / "_meta_registrations.py").read_text()
    names = sorted(set(re.findall(r'register_meta\("(\w+)"|torchvision::(\w+)', source)))
    library = torch.library.Library("torchvision", "DEF")
    declared = sorted({one or other for one, other in names})
    for name in declared:
        library.define(f"{name}(Tensor x) -> Tensor")
    # With the library object the declarations would go as well.
    _KEPT.append(library)
    return declared
