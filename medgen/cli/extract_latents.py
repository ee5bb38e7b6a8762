"""`medgen extract-latents`: image set -> latent set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgen.cli.options import (
    CaseSplit,
    ConfigFile,
    Device,
    Force,
    InputSet,
    KeepGoing,
    OutputSet,
    Preset,
    PrintConfig,
    Seed,
    Sets,
    Shard,
    SliceBatch,
    configure,
)
from medgen.cli.set_maker import SetMaker, no_case

NAMED = 10  # outliers that are named one by one


def command(
    context: typer.Context,
    vae: Annotated[Path, typer.Option("--vae", metavar="FILE", help="The VAE, from train-vae.")],
    source: InputSet = "-",
    output: OutputSet = "-",
    sample: Annotated[
        bool | None, typer.Option("--sample/--mean", help="A draw from the posterior, or its mean.  [default: mean]")
    ] = None,
    split: CaseSplit = None,
    batch_size: SliceBatch = None,
    precision: Annotated[
        str | None, typer.Option("--precision", metavar="auto|float32|bfloat16", help="Of the network.")
    ] = None,
    seed: Seed = None,
    device: Device = "auto",
    shard: Shard = None,
    keep_going: KeepGoing = False,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    print_config: PrintConfig = False,
    force: Force = False,
) -> None:
    """Encode an image set into a latent set, case by case, in constant memory.

    Everything but the images is carried over. The latents are stored as the VAE gives them; scale and shift stand in
    the set's header.
    """
    from medgen.inference.encode import EncodeOptions

    flags = {"sample": sample, "split": split, "batch_size": batch_size, "precision": precision, "seed": seed}
    options = configure(context, EncodeOptions, flags, preset, config, sets, print_config)

    from contextlib import closing

    from medgen.artifacts.provenance import derive
    from medgen.artifacts.sets import open_set
    from medgen.config import plain
    from medgen.inference.encode import Encoder, check_window, latent_header
    from medgen.inference.outliers import find_outliers, overall
    from medgen.models.trained import FrozenVAE
    from medgen.nets.compute import resolve_device
    from medgen.read_ahead import read_ahead

    maker = SetMaker.of(context, output, force=force, shard=shard, keep_going=keep_going)
    target = resolve_device(device)
    autoencoder = FrozenVAE.load(vae, target, maker.precision(options.precision, target))
    with open_set(source) as reader:
        intensity = check_window(reader.header, autoencoder.facts)
        settings = plain(options) | {"precision": maker.settled(autoencoder)}
        del settings["batch_size"], settings["outliers"]
        inputs = [reader, autoencoder.model]
        provenance = derive("extract-latents", settings, seed=options.seed if options.sample else None, inputs=inputs)
        header = latent_header(reader.header, autoencoder.facts, autoencoder.model.digest, provenance)
        encoder = Encoder(autoencoder, intensity, options, maker.leave_out)
        chosen = (case for case in maker.take(reader) if options.split in (None, case.split))
        nothing = no_case("encoded", chosen=bool(options.split))
        with maker.console.progress(None, "slices") as advance, closing(read_ahead(chosen)) as cases:
            done = maker.write(encoder.encode(cases), header, inputs, advance, nothing=nothing)
    tail = done.tail({})
    mean, std = overall(tail.latent_mean, tail.latent_std)
    told = f"; scaled latents: mean {mean:+.3f}, std {std:.3f}" if tail.slices else ""
    maker.console.say(f"{tail.slices} slices of {tail.cases} cases{told}")
    outliers = find_outliers(encoder.summaries, options.outliers)
    for outlier in outliers[:NAMED]:
        maker.console.warn(
            f"case {outlier.case} is an outlier: the {outlier.measure} of its latents, {outlier.value:.3g}, lies "
            f"{outlier.deviations:.0f} robust deviations from the median; look at it before training on it"
        )
    if len(outliers) > NAMED:
        maker.console.warn(f"{len(outliers) - NAMED} more outliers are in the report")
    maker.finish(
        cases=tail.cases,
        slices=tail.slices,
        latent_mean=mean,
        latent_std=std,
        latent_mean_by_channel=list(tail.latent_mean),
        latent_std_by_channel=list(tail.latent_std),
        outliers=[outlier._asdict() for outlier in outliers],
    )
