"""`medgen normalize`: image set -> image set of the nearest normal versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgen.cli.flags import Given, takes
from medgen.cli.options import Device, Force, InputSet, KeepGoing, OutputSet, Shard
from medgen.cli.set_maker import SetMaker, no_case
from medgen.inference.normalize_options import NormalizeOptions

if TYPE_CHECKING:
    from medgen.inference.normalize import Version


@takes(NormalizeOptions)
def command(
    context: typer.Context,
    given: Given,
    source: InputSet = "-",
    output: OutputSet = "-",
    model: Annotated[Path | None, typer.Option(metavar="FILE", help="The normalizer, from train-diffusion.")] = None,
    vae: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The VAE that encodes and decodes the model's latents.")
    ] = None,
    device: Device = "auto",
    shard: Shard = None,
    keep_going: KeepGoing = False,
    force: Force = False,
) -> None:
    """Make the nearest normal version of every image.

    Each image is noised part of the way and denoised by a model that knows only normal images, case by case, in
    constant memory. Ids, labels, masks and geometry are carried over. The noise of a slice depends only on the seed,
    the case and the slice: it is the same at any batch size and shard count. 'medgen anomaly-map' compares the result
    with the original.

    Examples:
      medgen normalize images.h5 --model normalizer.safetensors --vae vae.safetensors -o normal.h5
      medgen normalize images.h5 --model m.safetensors --vae vae.safetensors --split test --noise-level 0.3 -o n.h5

    """
    options = given.resolve(NormalizeOptions)
    given.warn_unused(options.unused, f"with --method {options.method}")

    import time
    from contextlib import closing

    from medgen.artifacts.provenance import derive
    from medgen.artifacts.sets import open_set
    from medgen.inference.normalize import normalize, normalized_header
    from medgen.models.facts import check_images, check_intensity
    from medgen.read_ahead import read_ahead

    maker = SetMaker.of(context, output, force=force, shard=shard, keep_going=keep_going)
    version = _version(options, model, vae, device, maker)
    with open_set(source) as reader:
        check_images(reader.header, "normalize")
        intensity = check_intensity(reader.header, version.parts[0].facts)
        inputs = [reader, *(network.model for network in version.parts)]
        settings = options.settings() | {"precision": maker.settled(*version.parts)}
        provenance = derive("normalize", settings, seed=options.seed if options.heads else None, inputs=inputs)
        header = normalized_header(reader.header, options.method, provenance)
        nothing = no_case("normalized", chosen=bool(options.splits))
        began = time.monotonic()
        with (
            maker.console.progress(None, "slices") as advance,
            closing(read_ahead(maker.take(options.chosen(reader)))) as cases,
        ):
            made = normalize(cases, version, intensity, options.batch_size, maker.leave_out)
            done = maker.write(made, header, inputs, advance, nothing=nothing)
        rate = done.slices / max(time.monotonic() - began, 1e-9)
    maker.console.say(f"{done.slices} slices of {done.cases} cases by {options.told()}; {rate:.3g} slices/s")
    maker.finish(cases=done.cases, slices=done.slices, slices_per_second=rate)


def _version(options: NormalizeOptions, model: Path | None, vae: Path | None, device: str, maker: SetMaker) -> Version:
    """Load what the method needs."""
    from medgen.errors import UsageError
    from medgen.inference.normalize import Normalizer, VAEReconstruction
    from medgen.models.trained import FrozenVAE, NormalizerNetwork
    from medgen.nets.compute import resolve_device

    target = resolve_device(device)
    if options.heads and model is None:
        raise UsageError(f"--method {options.method} needs the normalizer: give --model FILE")
    precision = maker.precision(options.precision, target)
    autoencoder = FrozenVAE.load(vae, target, precision) if vae is not None else None
    if options.heads and model is not None:
        network = NormalizerNetwork.load(model, target, precision, ema=options.ema)
        return Normalizer(network, autoencoder, options)
    if model is not None or autoencoder is None:
        raise UsageError("--method vae needs --vae FILE and no --model")
    return VAEReconstruction(autoencoder)
