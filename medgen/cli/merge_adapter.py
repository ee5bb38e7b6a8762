"""`medgen merge-adapter`: a model and its adapters -> one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgen.cli.options import Force, OutputFile, console_of


def command(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model that the adapters belong to.")],
    adapters: Annotated[
        list[str],
        typer.Argument(metavar="ADAPTER[:STRENGTH]...", help="Files, or peft folders; strength 1 is full."),
    ],
    output: OutputFile,
    force: Force = False,
) -> None:
    """Write a model with its adapters in it.

    Its samples equal those of generate with the same adapters. The result is a model of its own: adapters of the old
    model do not belong to it.

    Examples:
      medgen merge-adapter model.safetensors knee.safetensors -o knee-model.safetensors
      medgen merge-adapter model.safetensors knee.safetensors:0.7 bright.safetensors -o both.safetensors

    """
    from medgen.artifacts.model_file import open_model, save_model
    from medgen.artifacts.outputs.whole import check_output
    from medgen.artifacts.provenance import Identified, derive
    from medgen.models.adapters import adapted_facts, adapted_weights, open_adapters
    from medgen.models.opening import open_network

    check_output(output, force=force)
    console = console_of(context)
    base = open_network(model, "denoiser") if model.is_dir() else open_model(model)
    opened = open_adapters(adapters, console)
    weights = adapted_weights(base, opened)
    inputs: list[Identified] = [base, *opened]
    save_model(
        output,
        kind=base.kind,
        config=base.config,
        weights=weights,
        facts=adapted_facts(base, opened),
        provenance=derive("merge-adapter", {"strengths": [one.strength for one in opened]}, inputs=inputs),
        inputs=inputs,
        force=force,
    )
    console.say(f"wrote {output}: {base.kind} with {len(opened)} adapter{'s' * (len(opened) > 1)}")
    console.report.update(adapters=len(opened))
