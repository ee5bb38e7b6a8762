"""`medgen presets`: list the presets, or print one."""

from __future__ import annotations

from typing import Annotated

import typer

from medgen.config import preset_names, preset_text
from medgen.errors import UsageError


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The preset to print; without it, all are listed.")
    ] = None,
    prompts: Annotated[bool, typer.Option("--prompts", help="Print the prompt templates.")] = False,
) -> None:
    """List the presets, or print one.

    A preset is printed as TOML, ready to be edited and passed to --config. Prompt templates are passed to --template of
    generate and preprocess.

    Examples:
      medgen presets
      medgen presets lidc-nodule > mine.toml
      medgen presets --prompts > templates.toml

    """
    if prompts and name is not None:
        raise UsageError("a preset and --prompts exclude each other; give one")
    if prompts:
        from medgen.prompts.templates import builtin_templates

        typer.echo(builtin_templates(), nl=False)
    elif name is None:
        typer.echo("\n".join(preset_names()))
    else:
        typer.echo(preset_text(name), nl=False)
