"""`medgen extract-latents`: image set -> latent set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgen.cli.flags import Given, takes
from medgen.cli.options import Device, Force, InputSet, KeepGoing, OutputSet, Shard
from medgen.cli.set_maker import SetMaker, no_case
from medgen.inference.encode_options import EncodeOptions

NAMED = 10  # outliers that are named one by one


@takes(EncodeOptions)
def command(
    context: typer.Context,
    given: Given,
    vae: Annotated[Path, typer.Option(metavar="PLACE", help="The VAE: a file from train-vae, or a diffusers folder.")],
    source: InputSet = "-",
    output: OutputSet = "-",
    device: Device = "auto",
    shard: Shard = None,
    keep_going: KeepGoing = False,
    force: Force = False,
) -> None:
    """Encode an image set into a latent set.

    It works case by case, in constant memory. Everything but the images is carried over. The latents are stored as the
    VAE gives them; the set's header holds scale and shift. The VAE of a diffusers folder, such as Stable Diffusion's,
    takes a grey image as three equal channels.

    Examples:
      medgen extract-latents images.h5 --vae vae.safetensors -o latents.h5
      medgen preprocess scans/ | medgen extract-latents --vae vae.safetensors -o latents.h5

    """
    options = given.resolve(EncodeOptions)

    from contextlib import closing
    from itertools import chain, islice

    from medgen.artifacts.provenance import derive
    from medgen.artifacts.sets import open_set
    from medgen.config import plain
    from medgen.inference.encode import SetEncoder, check_window, latent_header
    from medgen.inference.outliers import find_outliers, overall
    from medgen.models.opening import open_vae
    from medgen.models.trained import FrozenVAE
    from medgen.nets.compute import resolve_device
    from medgen.read_ahead import read_ahead

    maker = SetMaker.of(context, output, force=force, shard=shard, keep_going=keep_going)
    target = resolve_device(device)
    with open_set(source) as reader:
        images = iter(reader)
        first = list(islice(images, 1))  # which says whether they are grey
        channels = first[0]["image"].shape[1] if first and reader.header.kind == "image" else 0
        autoencoder = FrozenVAE.load(
            open_vae(vae, channels=channels), target, maker.precision(options.precision, target)
        )
        intensity = check_window(reader.header, autoencoder.facts)
        settings = plain(options) | {"precision": maker.settled(autoencoder)}
        del settings["batch_size"], settings["outliers"]
        inputs = [reader, autoencoder.model]
        provenance = derive("extract-latents", settings, seed=options.seed if options.sample else None, inputs=inputs)
        header = latent_header(reader.header, autoencoder.facts, autoencoder.model.digest, provenance)
        encoder = SetEncoder(autoencoder, intensity, options, maker.leave_out)
        chosen = maker.take(case for case in chain(first, images) if options.split in (None, case.split))
        nothing = no_case("encoded", chosen=bool(options.split))
        with maker.console.progress(None, "slices") as advance, closing(read_ahead(chosen)) as cases:
            done = maker.write(encoder.encode(cases), header, inputs, advance, nothing=nothing)
    tail = done.tail({})
    mean, std = overall(tail.latent_mean, tail.latent_std)
    told = f"; scaled latents: mean {mean:+.3f}, std {std:.3f}" if tail.slices else ""
    maker.console.say(f"{tail.slices} slices of {tail.cases} cases{told}")
    outliers = find_outliers(encoder.summaries, options.outliers)
    for outlier in outliers[:NAMED]:
        maker.console.warn(outlier.warning())
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
