"""The manifest of an engine: what it was built from, with and for, and the hash of its plan.

A plan is executable code that its library does not check. So the manifest is read and compared with
what is at hand before a byte of the plan reaches TensorRT, and the plan's hash is verified on the
very bytes that are handed out. The hash protects from damage and mix-ups, not from someone who can
write to the folder: keep engines where only those may write whom you let run code.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from cliprt._bundle import Bundle
from cliprt._card import FileEntry
from cliprt._errors import EngineError, EngineMismatch
from cliprt._json import UnreadableJson, read_json
from cliprt_engines._device import Device, device_at_hand
from cliprt_engines._fit import ARCHITECTURE, first_mismatch
from cliprt_engines._flavor import FlavorName, Toolkit, find_toolkit
from cliprt_engines._profiles import Profile
from cliprt_engines._records import Record, check_entry

SCHEMA = 1
"""Version of the manifest's layout. A reader refuses any other."""

MANIFEST = "manifest.json"
PLAN = "engine.plan"
"""The two files of an engine's folder."""

TowerName: TypeAlias = Literal["image", "text"]
Compatibility: TypeAlias = Literal["none", "same-compute-capability", "ampere-plus"]


_ARCHITECTURE = re.compile(r"sm[0-9]{2,3}")
_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})+[0-9A-Za-z.+-]{0,60}")
_PRECISION = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
_DTYPES = ("uint8", "int8", "int32", "int64", "float16", "bfloat16", "float32")


class BuilderOptions(Record, frozen=True):
    """What the builder was asked for.

    Attributes:
        level: how long it searches, 0 to 5.
        version_compatible: whether other versions of TensorRT may load the plan.
        hardware: other architectures that may run it: ``none``; every GPU of the same compute
            capability; or ``ampere-plus``, every one from sm80.
    """

    level: int = 3
    version_compatible: bool = False
    hardware: Compatibility = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.level <= 5:
            raise ValueError(f"the builder's level is 0 to 5, got {self.level}")


class BuiltOn(Record, frozen=True):
    """The GPU that an engine was timed on.

    Attributes:
        gpu: its name.
        cuda: the newest CUDA of its driver.
        driver: the driver's version, None if it did not say.
    """

    gpu: str
    cuda: str
    driver: str | None


class TensorEntry(Record, frozen=True):
    """An input or an output.

    Attributes:
        name: ``pixels``, ``tokens`` or ``embedding``.
        dtype: NumPy's name, ``uint8`` for instance.
        shape: without the batch; None where the length may change.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dtype not in _DTYPES:
            raise ValueError(f"no tower takes or gives {self.dtype!r}")
        if not self.shape or any(size is not None and size < 1 for size in self.shape):
            raise ValueError(f"{list(self.shape)} is not the shape of an item")


class Recipe(Record, frozen=True):
    """Everything that decides what an engine is; the key is its hash.

    Attributes:
        cliprt: version that builds it.
        space: the embedding space of its bundle.
        tower: image or text.
        precision: of the tower, ``fp16`` for instance.
        files: the tower's graph, and the files of its weights if it does not hold them itself.
        profiles: the shapes that it takes; the first takes all of them.
        flavor: tensorrt or tensorrt-rtx.
        version: of that TensorRT.
        architectures: compute capabilities that it is built for, ``sm89`` for 8.9.
        built_on: the GPU that it is timed on; None if it is built ahead of time, for RTX.
        options: what the builder is asked for.
    """

    cliprt: str
    space: str
    tower: TowerName
    precision: str
    files: dict[str, FileEntry]
    profiles: tuple[Profile, ...]
    flavor: FlavorName
    version: str
    architectures: tuple[str, ...]
    built_on: BuiltOn | None
    options: BuilderOptions

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _VERSION.fullmatch(self.version):
            raise ValueError(f"{self.version!r} is no version of TensorRT")
        if not self.architectures or not all(map(_ARCHITECTURE.fullmatch, self.architectures)):
            raise ValueError(f"{list(self.architectures)} are no architectures like sm89")
        if not _PRECISION.fullmatch(self.precision):
            raise ValueError(f"{self.precision!r} is no precision")
        if not self.files:
            raise ValueError("it was built from no file")
        for entry in self.files.values():
            check_entry(entry)
        if not self.profiles or not all(map(self.profiles[0].contains, self.profiles)):
            raise ValueError("it has no first profile that takes every shape of the others")

    @property
    def key(self) -> str:
        """SHA-256 of the recipe in hexadecimal: equal for engines that may replace each other."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()

    @property
    def name(self) -> str:
        """The folder's name: what people look for, and enough of the key to be unique."""
        where = "-".join(self.architectures)
        return f"{self.tower}.{self.precision}.{self.flavor}-{self.version}.{where}.{self.key[:16]}"


class Manifest(Record, frozen=True):
    """What is known of an engine.

    Attributes:
        schema: version of this layout.
        model: name of the checkpoint, for people.
        recipe: what it was built from, with and for.
        plan: SHA-256 and size of the plan.
        input: what it takes.
        output: what it gives.
        products: how many matrix products and convolutions take operands of each type, as the
            inspection found them; ``float16`` for instance.
        widened: how many of them take a wider type than the graph demands, ``int8 -> float16`` for
            instance: the builder found that faster, or knows no other way.
        fused_attentions: how many attentions run as one kernel; None where that was not seen.
        inspected: what was inspected: the built ``engine``, by TensorRT's inspector; the text of
            the ``plan``, which an RTX plan carries; or only the ``network`` that was built.
        built_at: time, UTC, ISO 8601.
    """

    schema: int
    model: str
    recipe: Recipe
    plan: FileEntry
    input: TensorEntry
    output: TensorEntry
    products: dict[str, int]
    widened: dict[str, int]
    fused_attentions: int | None
    inspected: Literal["engine", "plan", "network"]
    built_at: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schema != SCHEMA:
            raise ValueError(f"it has schema {self.schema}, this cliprt reads schema {SCHEMA}")
        check_entry(self.plan)
        if len(self.output.shape) != 1 or None in self.output.shape:
            raise ValueError(f"{list(self.output.shape)} is not the shape of an embedding")
        if (None in self.input.shape) != (self.recipe.profiles[0].length is not None):
            raise ValueError("its profiles are not those of its input")


@dataclass(frozen=True)
class Engine:
    """An engine in its folder; the plan has not been read yet.

    Attributes:
        path: the folder.
        manifest: its manifest.
    """

    path: Path
    manifest: Manifest

    @property
    def rebuild(self) -> str:
        """The command that builds it again, for what is at hand then."""
        return rebuild_command(self.manifest.recipe, self.path.parent)

    def checked_plan(self) -> Path:
        """The plan's file, for those who hand it to a TensorRT elsewhere.

        Raises:
            EngineError: it is missing, cannot be read, or is not the one that was built.
        """
        read_plan(self)
        return self.path / PLAN


@dataclass(frozen=True)
class OpenedEngine:
    """An engine whose plan the manifest vouches for.

    Attributes:
        engine: the engine.
        plan: the bytes that may be deserialised.
    """

    engine: Engine
    plan: bytes

    @property
    def manifest(self) -> Manifest:
        """Its manifest."""
        return self.engine.manifest


def find_engines(folder: str | Path) -> list[Engine]:
    """The engines of a folder that ``cliprt build`` filled, or the one whose folder it is.

    Only manifests are read. What a killed build left behind is passed over.

    Raises:
        EngineError: there is none, or a manifest cannot be read.
    """
    path = Path(folder)
    if (path / MANIFEST).is_file() or (path / PLAN).is_file():
        return [read_engine(path)]
    try:
        inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror or error}") from None
    engines = [
        read_engine(entry)
        for entry in inside
        if (entry / PLAN).exists() or (entry / MANIFEST).exists()
    ]
    if not engines:
        raise EngineError(
            f"{path} holds no engines; build some with: cliprt build BUNDLE --out {path}"
        )
    return engines


def read_engine(folder: Path) -> Engine:
    """Reads an engine's manifest, and nothing else.

    Raises:
        EngineError: there is none, or it cannot be read.
    """
    again = "build the engine again with cliprt build"
    try:
        data = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise EngineError(
            f"{folder} has no {MANIFEST}: nothing vouches for a plan in it, and it is not loaded; "
            f"{again}"
        ) from None
    except OSError as error:
        raise EngineError(f"{folder} cannot be read: {error.strerror or error}") from None
    try:
        return Engine(folder, read_json(data, Manifest))
    except UnreadableJson as error:
        raise EngineError(f"the {MANIFEST} of {folder} cannot be read: {error}; {again}") from None


def open_engine(
    folder: str | Path,
    *,
    bundle: Bundle | None = None,
    toolkit: Toolkit | None = None,
    device: Device | None = None,
    any_device: bool = False,
) -> OpenedEngine:
    """Checks an engine against what is at hand, and hands out its plan.

    Args:
        folder: the engine's.
        bundle: the bundle that it must have been built from; None checks no bundle.
        toolkit: what is to load it; None takes the installed TensorRT of its flavour.
        device: what is to run it; None takes the GPU at hand, and checks none where there is none.
        any_device: does not compare the GPU: TensorRT itself then says whether the plan runs.

    Raises:
        EngineMismatch: the engine is for another TensorRT or GPU.
        EngineError: it is not of this bundle, or its plan is not the one that was built. The
            messages name both values and the command that rebuilds.
        MissingExtra: no TensorRT of its flavour is installed.
    """
    engine = read_engine(Path(folder))
    check_engine(
        engine,
        bundle=bundle,
        toolkit=toolkit or find_toolkit(engine.manifest.recipe.flavor),
        device=None if any_device else device or device_at_hand(),
    )
    return OpenedEngine(engine, read_plan(engine))


def check_engine(
    engine: Engine, *, bundle: Bundle | None, toolkit: Toolkit, device: Device | None
) -> None:
    """Compares a manifest with what is at hand; reads nothing of the plan.

    Args:
        engine: the engine.
        bundle: the bundle that it must have been built from; None checks no bundle.
        toolkit: what is to load it.
        device: what is to run it; None checks no GPU.

    Raises:
        EngineMismatch: the engine is for another TensorRT or GPU.
        EngineError: it was built from another bundle.
    """
    recipe = engine.manifest.recipe
    found = first_mismatch(recipe, bundle=bundle, toolkit=toolkit, device=device)
    if found is None:
        return
    if found.what == ARCHITECTURE and device is not None:
        # The command builds for what is here.
        recipe = msgspec.structs.replace(recipe, architectures=(device.architecture,))
    raise (EngineError if found.of_bundle else EngineMismatch)(
        f"{engine.path.name} cannot be used here: its {found.what} is {found.built}, here it is "
        f"{found.here}; build it again with: {rebuild_command(recipe, engine.path.parent)}"
    )


def read_plan(engine: Engine) -> bytes:
    """Reads an engine's plan, if it is the one that its manifest vouches for.

    Raises:
        EngineError: it is missing, cannot be read, or is another one.
    """
    path, entry = engine.path / PLAN, engine.manifest.plan
    again = f"build it again with: {engine.rebuild}"
    try:
        size = path.stat().st_size
        # Before it is read: a wrong file may be of any size.
        data = path.read_bytes() if size == entry.size else b""
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror or error}; {again}") from None
    if size != entry.size:
        raise EngineError(
            f"{path} has {size} bytes, its manifest vouches for {entry.size}; it is not loaded; "
            f"{again}"
        )
    found = hashlib.sha256(data).hexdigest()
    if found != entry.sha256:
        raise EngineError(
            f"{path} has the SHA-256 {found}, its manifest vouches for {entry.sha256}; it is not "
            f"loaded; {again}"
        )
    return data


def rebuild_command(recipe: Recipe, out: Path, bundle: str = "BUNDLE") -> str:
    """The command that builds an engine of that recipe, for the GPU at hand or the same targets."""
    words = [
        "cliprt", "build", bundle, "--tower", recipe.tower, "--precision", recipe.precision,
        "--flavor", recipe.flavor, "--out", str(out),
    ]  # fmt: skip
    if recipe.flavor == "tensorrt-rtx":
        words += ["--target", "+".join(recipe.architectures)]
    if recipe.options.level != BuilderOptions().level:
        words += ["--level", str(recipe.options.level)]
    if recipe.options.version_compatible:
        words.append("--version-compatible")
    if recipe.options.hardware != "none":
        words += ["--hardware", recipe.options.hardware]
    profiles = ",".join(map(str, recipe.profiles))
    return shlex.join([*words, "--profiles", f"{recipe.tower}={profiles}"])
