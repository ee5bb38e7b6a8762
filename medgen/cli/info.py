"""`medgen info`: what a set or model holds and where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    context: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A set or model; - reads a set from standard input.")
    ] = "-",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a set or model holds and where it came from.

    The network is not loaded. Of a set on disk, only tables and masks are read; a stream is read to its end.

    Examples:
      medgen info model.safetensors
      medgen preprocess scans/ | medgen info --json

    """
    from medgen.report.contents import as_text, is_model, model_facts, set_facts

    facts = model_facts(Path(file)) if is_model(file) else set_facts(file)
    typer.echo(json.dumps(facts, indent=2) if as_json else as_text(facts))
