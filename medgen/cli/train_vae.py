"""`medgen train-vae`: image set -> VAE."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgen.cli.options import (
    BatchSize,
    ConfigFile,
    ContinueWith,
    Device,
    Finish,
    Force,
    Fresh,
    InputSet,
    LearningRate,
    LogFile,
    OutputFile,
    Preset,
    PrintConfig,
    Seed,
    Sets,
    TensorBoard,
    TrainingSteps,
    changes_of,
    configure,
    console_of,
)


def command(
    context: typer.Context,
    output: OutputFile,
    source: InputSet = "-",
    init: Annotated[
        Path | None,
        typer.Option("--init", metavar="VAE", help="Begin from this VAE: a model file, or a diffusers folder."),
    ] = None,
    decoder_only: Annotated[
        bool | None, typer.Option("--decoder-only", help="Train only what comes after the latent (with --init).")
    ] = None,
    steps: TrainingSteps = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    log: LogFile = None,
    tensorboard: TensorBoard = None,
    seed: Seed = None,
    device: Device = "auto",
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    print_config: PrintConfig = False,
    finish: Finish = False,
    continue_with: ContinueWith = None,
    fresh: Fresh = False,
    force: Force = False,
) -> None:
    """Train the autoencoder that compresses images to latents.

    Stopped at any moment, the same command goes on from the state in OUTPUT.resume. With --continue-with
    loop.learning_rate=1e-4, say, it goes on at another rate; with --finish it makes a model of what there is.
    """
    from medgen.training.learners.vae import TrainVAEOptions, train_vae

    changes = changes_of(continue_with)
    flags = {
        "init": str(init) if init else None,
        "decoder_only": decoder_only,
        "loop.steps": steps,
        "loop.batch_size": batch_size,
        "loop.learning_rate": learning_rate,
        "seed": seed,
    }
    changed = {key: value for key, value in changes.items() if key != "processes"}
    options = configure(context, TrainVAEOptions, flags | changed, preset, config, sets, print_config)
    from medgen.nets.compute import resolve_device
    from medgen.training.loop.continuation import Wish
    from medgen.training.loop.run import Run

    target, console, wish = resolve_device(device), console_of(context), Wish(changes, finish)
    run = Run("train-vae", source, output, target, console, log, tensorboard, force=force, fresh=fresh, wish=wish)
    train_vae(run, options)
