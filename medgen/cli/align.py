"""`medgen align`: a generator and experts' judgement -> a generator that draws more of what they like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgen.cli.flags import Given, takes
from medgen.cli.options import (
    ContinueWith,
    Device,
    Finish,
    Force,
    Fresh,
    LogFile,
    OutputFile,
    TensorBoard,
    changes_of,
    console_of,
)
from medgen.feedback.alignment.align_options import ALIGN_OPTIONS, DDPOOptions


@takes(*ALIGN_OPTIONS)
def command(
    context: typer.Context,
    given: Given,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The diffusion model, from train-diffusion.")],
    output: OutputFile,
    sets: Annotated[list[str] | None, typer.Argument(metavar="[SET...]", help="The sets that --ratings rates.")] = None,
    selector: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Learn from this selector's scores of new images.")
    ] = None,
    ratings: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Learn from these ratings of the model's images.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(metavar="SET", help="Real images; those held out from training bound the alignment.")
    ] = None,
    vae: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The VAE that decodes the model's latents, or whose latents the selector judges by."
        ),
    ] = None,
    conditions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv", help="Draw for these conditions, as in generate.  [default: those of the reference]"
        ),
    ] = None,
    log: LogFile = None,
    tensorboard: TensorBoard = None,
    device: Device = "auto",
    finish: Finish = False,
    continue_with: ContinueWith = None,
    fresh: Fresh = False,
    force: Force = False,
) -> None:
    """Align a diffusion model with what experts like.

    With --selector, the model draws new images for each condition, the selector scores them, and the model moves
    towards the better ones and away from the others. With --ratings, it learns from the rated images alone.

    Checks draw images of what held-out real images show, and measure how far they are from these (Frechet distance).
    When it rises by more than --max-rise, the alignment ends with the last weights that were within the bound: rising
    scores may then be reward hacking. The distance of the images for --conditions is shown too, but does not end it.
    Alignments in a row share one bound, which starts from the model before the first of them, if reference and checks
    stay the same.

    With --verify, each check also counts the images that show what was asked (nodule, mask or text), as select
    --verify does. It first learns from --reference how to tell, which takes about a minute on one core. If this count
    falls while the scores rise, align warns of reward hacking.

    If it is stopped at any moment, the same command continues from the state in OUTPUT.resume.

    Examples:
      medgen align model.safetensors --selector selector.safetensors --reference images.h5 -o better.safetensors
      medgen align m.safetensors rated.h5 --ratings ratings.csv --method dpo --reference images.h5 -o better.safetensors

    """
    changes = changes_of(continue_with)
    options = given.resolve(ALIGN_OPTIONS, {key: value for key, value in changes.items() if key != "processes"})

    from medgen.errors import UsageError
    from medgen.feedback.alignment.judgement import Judgement
    from medgen.feedback.alignment.train import Task, align
    from medgen.nets.compute import resolve_device
    from medgen.training.loop.continuation import Wish
    from medgen.training.loop.run import Run

    if (selector is None) == (ratings is None):
        raise UsageError("give either --selector, to score new images, or --ratings with the sets that they rate")
    if (ratings is None) != (not sets):
        raise UsageError("SET and --ratings belong together: the sets are those that the ratings are about")
    if reference is None:
        raise UsageError("give --reference SET, real images that bound how far the model may move")
    if selector is None:
        given.warn_unused(("weak",), "without --selector")
    if isinstance(options, DDPOOptions):
        given.warn_unused(("sampler", "noise_range"), "with --method ddpo")
    console, wish = console_of(context), Wish(changes, finish)
    run = Run(
        "align", str(reference), output, resolve_device(device), console, log, tensorboard,
        force=force, fresh=fresh, wish=wish,
    )  # fmt: skip
    align(run, Task(model, vae, Judgement(selector, ratings, sets or []), conditions), options)
