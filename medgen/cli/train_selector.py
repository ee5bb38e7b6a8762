"""`medgen train-selector`: ratings -> selector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgen.cli.flags import Given, takes
from medgen.cli.options import Device, Force, OutputFile, console_of
from medgen.feedback.selector.options import SelectorOptions


@takes(SelectorOptions)
def command(
    context: typer.Context,
    given: Given,
    sets: Annotated[
        list[str], typer.Argument(metavar="SET...", help="The sets that were rated; at most one may be -.")
    ],
    output: OutputFile,
    answers: Annotated[
        Path | None, typer.Option("--ratings", metavar="FILE.csv", help="Ratings of the sets, from rate.")
    ] = None,
    vae: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Judge by the latents of this VAE.  [default: by built-in features]"),
    ] = None,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Learn from ratings how good an image is.

    50 to 200 ratings, comparisons or both, are enough, and it takes seconds. The selector judges an image by its
    features and by what it was asked to show. Raters are weighted by how reliable their answers are. The command
    reports, with an interval, how well the selector predicts ratings of unseen cases. Below a correlation of 0.2, or
    where it might be 0, the selector's scores mean nothing, and select refuses it.

    Examples:
      medgen train-selector samples.h5 --ratings ratings.csv -o selector.safetensors
      medgen train-selector round-1.h5 round-2.h5 --ratings ratings.csv --vae vae.safetensors -o selector.safetensors

    """
    options = given.resolve(SelectorOptions)

    import contextlib

    from medgen.artifacts.outputs.whole import check_output
    from medgen.artifacts.sets import open_set
    from medgen.errors import UsageError
    from medgen.feedback.selector.training import train_selector
    from medgen.imaging.labels.ratings import read_ratings
    from medgen.models.trained import FrozenVAE
    from medgen.nets.compute import resolve_device

    if answers is None:
        raise UsageError("give --ratings FILE.csv, which medgen rate has written")
    check_output(output, force=force)
    target = resolve_device(device)
    autoencoder = None if vae is None else FrozenVAE.load(vae, target, "float32")
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open_set(name, random_access=True)) for name in sets]
        train_selector(
            opened, sets, read_ratings(answers), answers, output, options, console_of(context),
            device=target, vae=autoencoder, force=force,
        )  # fmt: skip
