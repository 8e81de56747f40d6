"""The ``cliprt`` command. Sub-commands come from the entry-point group ``cliprt.commands``."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import click

import cliprt
from cliprt._console import errors_as_lines


class _Commands(click.Group):
    """Loads a sub-command when it is asked for, and shows every one in ``--help``.

    All command modules import without their extras; what an extra brings is imported when the
    command runs, and a missing one is reported with the line that installs it.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_entries())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _entries().get(cmd_name)
        command: click.Command | None = entry.load() if entry else None
        return command

    def invoke(self, ctx: click.Context) -> object:
        with errors_as_lines():
            return super().invoke(ctx)


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="cliprt.commands")}


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(cliprt.__version__, prog_name="cliprt")
def main() -> None:
    """CLIP embeddings from a Triton server: export, deploy, serve, measure."""
