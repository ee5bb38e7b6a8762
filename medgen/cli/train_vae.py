"""`medgen train-vae`: image set -> VAE."""

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
from medgen.training.learners.vae_options import TrainVAEOptions


@takes(TrainVAEOptions)
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
    """Train the autoencoder that compresses images to latents.

    If it is stopped at any moment, the same command continues from the state in OUTPUT.resume. With --continue-with
    loop.learning_rate=1e-4, for example, it continues at another rate; with --finish it writes the model as it stands.

    Examples:
      medgen train-vae images.h5 --preset lidc-nodule -o vae.safetensors
      medgen train-vae images.h5 --init vae.safetensors --decoder-only --steps 20000 -o finetuned.safetensors

    """
    changes = changes_of(continue_with)
    changed = {key: value for key, value in changes.items() if key != "processes"}
    options = given.resolve(TrainVAEOptions, changed)

    from medgen.nets.compute import resolve_device
    from medgen.training.learners.vae import train_vae
    from medgen.training.loop.continuation import Wish
    from medgen.training.loop.run import Run

    target, console, wish = resolve_device(device), console_of(context), Wish(changes, finish)
    run = Run("train-vae", source, output, target, console, log, tensorboard, force=force, fresh=fresh, wish=wish)
    train_vae(run, options)
