"""`medgen train-diffusion`: latent or image set -> diffusion model."""

from __future__ import annotations

import typer

from medgen.cli.flags import Given, takes
from medgen.cli.options import (
    ContinueWith,
    Device,
    Finish,
    Force,
    Fresh,
    InputSet,
    LogFile,
    OutputFile,
    TensorBoard,
    changes_of,
    console_of,
)
from medgen.training.learners.diffusion_options import LEARNER_OPTIONS


@takes(*LEARNER_OPTIONS)
def command(
    context: typer.Context,
    given: Given,
    output: OutputFile,
    source: InputSet = "-",
    log: LogFile = None,
    tensorboard: TensorBoard = None,
    device: Device = "auto",
    finish: Finish = False,
    continue_with: ContinueWith = None,
    fresh: Fresh = False,
    force: Force = False,
) -> None:
    """Train the diffusion model on a latent (or image) set.

    The model is conditioned on the set's vectors, if there are any, and on its texts and modalities if the network has
    a text encoder, as in the preset text-to-image.

    If it is stopped at any moment, the same command continues from the state in OUTPUT.resume. With --continue-with
    loop.learning_rate=1e-4, for example, it continues at another rate; with --finish it writes the model as it stands.

    Examples:
      medgen train-diffusion latents.h5 --preset lidc-nodule -o model.safetensors
      medgen train-diffusion latents.h5 --steps 200000 --batch-size 32 --log log.jsonl -o model.safetensors

    """
    changes = changes_of(continue_with)
    changed = {key: value for key, value in changes.items() if key != "processes"}
    options = given.resolve(LEARNER_OPTIONS, changed)

    from medgen.nets.compute import resolve_device
    from medgen.training.learners.diffusion import train_diffusion
    from medgen.training.loop.continuation import Wish
    from medgen.training.loop.run import Run

    target, console, wish = resolve_device(device), console_of(context), Wish(changes, finish)
    run = Run("train-diffusion", source, output, target, console, log, tensorboard, force=force, fresh=fresh, wish=wish)
    train_diffusion(run, options)
