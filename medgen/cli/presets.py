"""`medgen presets`: list the presets, or print one."""

from __future__ import annotations

from typing import Annotated

import typer

from medgen.config import preset_names, preset_text


def command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The preset to print; none lists all.")] = None,
) -> None:
    """List the presets, or print one.

    It is printed as TOML, ready to be edited and given to --config.

    Examples:
      medgen presets
      medgen presets lidc-nodule > mine.toml

    """
    if name is None:
        typer.echo("\n".join(preset_names()))
    else:
        typer.echo(preset_text(name), nl=False)
