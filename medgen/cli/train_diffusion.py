"""`medgen train-diffusion`: latent or image set -> diffusion model."""

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
        Path | None, typer.Option("--init", metavar="MODEL", help="Begin from this model, of the same shape.")
    ] = None,
    learner: Annotated[
        str | None,
        typer.Option("--learner", metavar="NAME", help="denoiser (the default), interpolator or normalizer."),
    ] = None,
    vae: Annotated[
        Path | None, typer.Option("--vae", metavar="FILE", help="The VAE, for learners that look through it.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option("--objective", metavar="eps|x0|v|flow", help="What the network predicts.")
    ] = None,
    condition_dropout: Annotated[
        float | None,
        typer.Option("--condition-dropout", metavar="P", help="Share of samples trained without their condition."),
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
    """Train the diffusion model on a latent (or image) set, under its condition vectors if it has them.

    Stopped at any moment, the same command goes on from the state in OUTPUT.resume. With --continue-with
    loop.learning_rate=1e-4, say, it goes on at another rate; with --finish it makes a model of what there is.
    """
    from medgen.training.learners.diffusion import train_diffusion
    from medgen.training.learners.diffusion_options import TrainDiffusionOptions

    changes = changes_of(continue_with)
    flags = {
        "init": str(init) if init else None,
        "learner": learner,
        "vae": str(vae) if vae else None,
        "objective": objective,
        "condition_dropout": condition_dropout,
        "loop.steps": steps,
        "loop.batch_size": batch_size,
        "loop.learning_rate": learning_rate,
        "seed": seed,
    }
    changed = {key: value for key, value in changes.items() if key != "processes"}
    options = configure(context, TrainDiffusionOptions, flags | changed, preset, config, sets, print_config)
    from medgen.nets.compute import resolve_device
    from medgen.training.loop.continuation import Wish
    from medgen.training.loop.run import Run

    target, console, wish = resolve_device(device), console_of(context), Wish(changes, finish)
    run = Run("train-diffusion", source, output, target, console, log, tensorboard, force=force, fresh=fresh, wish=wish)
    train_diffusion(run, options)
