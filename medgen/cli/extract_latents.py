"""`medgen extract-latents`: image set -> latent set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgen.cli.options import (
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
    configure,
    console_of,
    parse_shard,
)

NAMED = 10  # outliers that are named one by one
VAEFile = Annotated[Path, typer.Option("--vae", metavar="FILE", help="The VAE, from train-vae.")]


def command(
    context: typer.Context,
    vae: VAEFile,
    source: InputSet = "-",
    output: OutputSet = "-",
    sample: Annotated[
        bool | None, typer.Option("--sample/--mean", help="A draw from the posterior, or its mean.  [default: mean]")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="Only the cases of this split (train, val, test).")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", metavar="N", help="Slices at once.")] = None,
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

    options = configure(
        context,
        EncodeOptions,
        preset=preset,
        config=config,
        sets=sets,
        print_config=print_config,
        flags={"sample": sample, "split": split, "batch_size": batch_size, "precision": precision, "seed": seed},
    )
    part, parts = parse_shard(shard)

    from contextlib import closing

    from medgen.artifacts.atomic import check_output
    from medgen.artifacts.provenance import derive
    from medgen.artifacts.sets import create_set, open_set, refuse_terminal
    from medgen.artifacts.sharding import mark_shard, take_shard
    from medgen.config import plain
    from medgen.errors import DataError, SomeItemsFailed
    from medgen.inference.encode import Encoder, check_window, latent_header
    from medgen.inference.models import load_vae
    from medgen.inference.outliers import find_outliers, overall
    from medgen.inference.read_ahead import read_ahead
    from medgen.nets.compute import resolve_device

    console = console_of(context)
    if output == "-":
        refuse_terminal()
    else:
        check_output(Path(output), force=force)
    autoencoder = load_vae(vae, resolve_device(device), options.precision)
    left_out: list[str] = []

    def leave_out(error: DataError) -> None:
        left_out.append(str(error))
        console.warn(f"left out: {error}")

    with open_set(source) as reader:
        intensity = check_window(reader.header, autoencoder.facts)
        settings = plain(options) | {"precision": str(autoencoder.dtype).removeprefix("torch.")}
        del settings["batch_size"], settings["outliers"]
        inputs = [reader, autoencoder.model]
        provenance = derive("extract-latents", settings, seed=options.seed if options.sample else None, inputs=inputs)
        header = latent_header(reader.header, autoencoder.facts, autoencoder.model.digest, provenance)
        encoder = Encoder(autoencoder, intensity, options, leave_out if keep_going else None)
        header = mark_shard(header, part, parts)
        chosen = (case for case in take_shard(reader, part, parts) if options.split in (None, case.split))
        with (
            create_set(output, header, inputs=inputs, force=force) as writer,
            console.progress(None, "slices") as advance,
            closing(read_ahead(chosen)) as cases,
        ):
            for case in encoder.encode(cases):
                writer.write(case)
                advance(len(case))
            if writer.digest.cases == 0 and parts == 1:  # a shard may be empty
                raise DataError(
                    f"no case was encoded: {len(left_out)} left out, "
                    f"{'the rest not in this split' if options.split else 'the set has no other'}"
                )
        done = writer.digest
    tail = done.tail({})
    mean, std = overall(tail.latent_mean, tail.latent_std)
    told = f"; scaled latents: mean {mean:+.3f}, std {std:.3f}" if tail.slices else ""
    console.say(f"{tail.slices} slices of {tail.cases} cases{told}")
    outliers = find_outliers(encoder.summaries, options.outliers)
    for outlier in outliers[:NAMED]:
        console.warn(
            f"case {outlier.case} is an outlier: the {outlier.measure} of its latents, {outlier.value:.3g}, lies "
            f"{outlier.deviations:.0f} robust deviations from the median; look at it before training on it"
        )
    if len(outliers) > NAMED:
        console.warn(f"{len(outliers) - NAMED} more outliers are in the report")
    console.report.update(
        cases=tail.cases,
        slices=tail.slices,
        latent_mean=mean,
        latent_std=std,
        latent_mean_by_channel=list(tail.latent_mean),
        latent_std_by_channel=list(tail.latent_std),
        outliers=[outlier._asdict() for outlier in outliers],
        left_out=left_out,
    )
    if left_out:
        raise SomeItemsFailed(f"{len(left_out)} cases were left out; the rest is in the output")
