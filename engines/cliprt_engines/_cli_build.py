"""``cliprt build``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cliprt._console import print_table
from cliprt_engines._build import PRECISIONS, TOWERS, BuildProgress, build_engines
from cliprt_engines._flavor import FLAVORS
from cliprt_engines._manifest import BuilderOptions, Compatibility, Engine

_COLUMNS = (
    "tower", "precision", "for", "profiles", "MB", "products", "widened", "attention", "inspected",
    "engine",
)  # fmt: skip


def _names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Reads ``fp16,int8``."""
    if value is None:
        return None
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if not names:
        raise click.BadParameter("it is empty", ctx, param)
    return names


def _by_tower(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    """Reads ``image=1:32:64,1:1:8``; the later of two for one tower wins."""
    profiles: dict[str, str] = {}
    for value in values:
        tower, equals, text = value.partition("=")
        if tower not in TOWERS or not equals:
            raise click.BadParameter(f"{value!r} does not begin with image= or text=", ctx, param)
        profiles[tower] = text
    return profiles


@click.command()
@click.argument("bundle", type=click.Path())
@click.option(
    "--out",
    "folder",
    required=True,
    type=click.Path(),
    help="Folder of engines. What is built there already stays, and is not built again.",
)
@click.option(
    "--precision",
    "precisions",
    callback=_names,
    default="fp16",
    show_default=True,
    help=f"Of the towers, with commas: {', '.join(PRECISIONS)}. The bundle must hold them.",
)
@click.option(
    "--tower",
    "towers",
    callback=_names,
    metavar="TOWERS",
    help="image, text, or both with a comma.  [default: all of the bundle]",
)
@click.option(
    "--flavor",
    type=click.Choice(FLAVORS),
    help="tensorrt: for the GPU at hand, loads in Triton. tensorrt-rtx: for any --target, also "
    "without a GPU, loads in TensorRT-RTX only.  [default: the first that is installed]",
)
@click.option(
    "--target",
    "targets",
    callback=_names,
    metavar="SM",
    help="Architectures to build for with tensorrt-rtx, with commas: an engine for each. "
    "sm86+sm89 makes one engine for both, compiled for the older one and slower on the newer.  "
    "[default: the GPU at hand]",
)
@click.option(
    "--profiles",
    multiple=True,
    callback=_by_tower,
    metavar="TOWER=PROFILES",
    help="Shapes to build for, LEAST:BEST:MOST of the batch, and x the same of the length for "
    "texts; several with commas: image=1:32:64,1:1:8 or text=1:32:64x2:77:77,1:64:64x2:16:16. One "
    "must take all that the others take. Each costs build time, and memory in every context that "
    "uses it.  [default: by the GPU's memory; with --target as for 16 GB]",
)
@click.option(
    "--level",
    type=click.IntRange(0, 5),
    default=BuilderOptions().level,
    show_default=True,
    help="How long the builder searches for faster kernels. 0 builds soonest and ignores timings "
    "of earlier builds, 5 may take many times as long as 3.",
)
@click.option(
    "--version-compatible",
    is_flag=True,
    help="For Triton: let other versions of TensorRT load the engine, newer ones of the same "
    "major, and TensorRT 11 those of 10. Costs speed, as fewer kernels qualify; Triton needs the "
    "lean runtime of the version that built it, and cliprt itself loads it with that version only. "
    "tensorrt only.",
)
@click.option(
    "--hardware",
    type=click.Choice(["none", "same-compute-capability", "ampere-plus"]),
    default="none",
    show_default=True,
    help="Other GPUs that may run the engine. none: this model of GPU only, the fastest. "
    "same-compute-capability: all of its architecture, a little slower. ampere-plus: all from "
    "sm80, with kernels of at most 48 KiB of shared memory and fewer fusions, the slowest. "
    "tensorrt only.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the manifests as JSON.")
def build(
    bundle: str,
    folder: str,
    precisions: tuple[str, ...],
    towers: tuple[str, ...] | None,
    flavor: str | None,
    targets: tuple[str, ...] | None,
    profiles: dict[str, str],
    level: int,
    version_compatible: bool,
    hardware: Compatibility,
    as_json: bool,
) -> None:
    """Build TensorRT engines from the towers of BUNDLE.

    Each engine gets a folder of its own in --out, with a manifest that says what it was built
    from, with and for. An engine loads only where all of that holds. Precision is that of the
    tower's graph: nothing is rounded here that the certificate did not measure, and an engine
    whose products fall back to float32 is refused.
    """
    for tower in profiles:
        if towers is not None and tower not in towers:
            raise click.BadParameter(
                f"there are some for {tower}, and --tower leaves it out", param_hint="'--profiles'"
            )
    with _bars() as on_progress:
        engines = build_engines(
            bundle,
            folder,
            precisions=precisions,
            towers=towers,
            flavor=flavor,
            targets=targets or (),
            profiles=profiles,
            options=BuilderOptions(
                level=level, version_compatible=version_compatible, hardware=hardware
            ),
            on_progress=on_progress,
        )
    if as_json:
        listing = [
            {"engine": str(engine.path), "manifest": msgspec.to_builtins(engine.manifest)}
            for engine in engines
        ]
        click.echo(msgspec.json.encode(listing).decode())
        return
    print_table(_COLUMNS, [row(engine) for engine in engines])


def row(engine: Engine) -> list[str]:
    """An engine's line in a table of COLUMNS."""
    manifest, recipe = engine.manifest, engine.manifest.recipe
    fused = manifest.fused_attentions
    return [
        recipe.tower,
        recipe.precision,
        "+".join(recipe.architectures),
        ",".join(map(str, recipe.profiles)),
        f"{manifest.plan.size / 1e6:.1f}",
        " ".join(f"{count} {dtype}" for dtype, count in manifest.products.items()),
        ", ".join(f"{count} {pair}" for pair, count in manifest.widened.items()) or "-",
        "-" if fused is None else f"{fused} fused",
        manifest.inspected,
        str(engine.path),
    ]


@contextmanager
def _bars() -> Iterator[Callable[[BuildProgress], None]]:
    """One bar for each phase that is under way; a line for each state in a pipe."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _say
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    tasks: dict[str, object] = {}
    lock = threading.Lock()
    with Progress(*columns, console=console, transient=True) as progress:

        def on_progress(now: BuildProgress) -> None:
            with lock:
                _show(progress, tasks, now)

        yield on_progress


def _say(now: BuildProgress) -> None:
    if now.phase is None:
        click.echo(f"{now.engine}: {now.state}", err=True)


def _show(progress: Progress, tasks: dict[str, object], now: BuildProgress) -> None:
    if now.phase is None:
        for name in list(tasks):
            progress.remove_task(tasks.pop(name))  # type: ignore[arg-type]
        if now.state in ("building", "waiting"):
            tasks[""] = progress.add_task(f"{now.engine}: {now.state}", total=None)
        return
    phase = now.phase
    if phase.ended:
        if phase.name in tasks:
            progress.remove_task(tasks.pop(phase.name))  # type: ignore[arg-type]
        return
    if phase.name not in tasks:
        tasks[phase.name] = progress.add_task(phase.name, total=phase.total)
    progress.update(tasks[phase.name], completed=phase.done, total=phase.total)  # type: ignore[arg-type]
