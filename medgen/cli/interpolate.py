"""`medgen interpolate`: thick image set (or DICOM, NIfTI) -> thin image set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgen.cli.flags import Given, takes
from medgen.cli.options import Device, Force, OutputSet, Shard
from medgen.cli.set_maker import SetMaker
from medgen.inference.interpolate_options import InterpolateOptions

if TYPE_CHECKING:
    from medgen.artifacts.provenance import Identified

SPLINE = ("spacing", "thickness", "profile", "consistency", "split")
"""Settings that matter without a model."""
MODEL_ONLY = ("sampler", "steps", "times", "eta", "samples", "depth", "overlap", "ema")
"""Options that nothing reads without one."""


@takes(InterpolateOptions)
def command(
    context: typer.Context,
    given: Given,
    source: Annotated[
        str, typer.Argument(metavar="SET", help="A set, - for standard input; or a DICOM or NIfTI file, folder, ZIP.")
    ] = "-",
    output: OutputSet = "-",
    model: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The interpolator, from train-diffusion.  [default: a spline]"),
    ] = None,
    vae: Annotated[Path | None, typer.Option(metavar="FILE", help="The VAE that the model was trained with.")] = None,
    no_consistency: Annotated[bool, typer.Option("--no-consistency", help="The same as --consistency none.")] = False,
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only the cases of this split (train, val, test).  [default: all]"),
    ] = None,
    device: Device = "auto",
    shard: Shard = None,
    force: Force = False,
) -> None:
    """Make thin slices of thick ones, at any smaller spacing.

    Files are preprocessed on the way, to the size of the model's slices and to --window or the model's window. Averaged
    over the profile of the thick slices, the result reproduces them. Values outside the model's window, and without a
    model all values, are interpolated by a spline.

    Examples:
      medgen interpolate thick.h5 --model model.safetensors --vae vae.safetensors --spacing 1 -o thin.h5
      medgen interpolate scan.nii.gz --spacing 1 -o spline.h5

    """
    options = given.resolve(InterpolateOptions, {"consistency": "none" if no_consistency else None})

    from medgen.artifacts.provenance import derive
    from medgen.config import plain
    from medgen.errors import UsageError
    from medgen.imaging.image_source import is_set
    from medgen.inference.interpolate import (
        Interpolation,
        Spline,
        interpolate,
        interpolated_header,
        model_intensity,
    )
    from medgen.inference.thick_images import open_thick
    from medgen.models.facts import check_images
    from medgen.models.trained import FrozenVAE, Interpolator
    from medgen.nets.compute import resolve_device

    maker = SetMaker.of(context, output, force=force, shard=shard, keep_going=options.reading.keep_going)
    if options.spacing is None:
        raise UsageError("the spacing of the thin slices is missing; give it with --spacing MM")
    if options.window and not options.window[0] < options.window[1]:
        raise UsageError("--window {:g},{:g}: LOW must be below HIGH".format(*options.window))
    target = resolve_device(device)
    if (model is None) != (vae is None):
        raise UsageError("--model and --vae go together; leave out both to interpolate by a spline")
    if model is None:
        given.warn_unused(MODEL_ONLY + ("window",) * is_set(source), "without --model")
    denoiser, autoencoder = None, None
    if model and vae:
        settled = maker.precision(options.precision, target)
        denoiser = Interpolator.load(model, target, settled, ema=options.ema)
        autoencoder = FrozenVAE.load(vae, target, settled)
    facts = denoiser.facts if denoiser else None
    with open_thick(source, facts, options, maker.console) as reader:
        settings = plain(options)
        del settings["batch_size"], settings["reading"]
        if split:
            settings["split"] = split
        inputs: list[Identified] = [reader]
        interpolation: Interpolation | Spline
        if denoiser is None or autoencoder is None:
            interpolation = Spline(options, check_images(reader.header, "interpolate"))
            settings = {name: settings[name] for name in SPLINE if name in settings}
        else:
            intensity = model_intensity(reader.header, denoiser, options.window)
            interpolation = Interpolation(denoiser, autoencoder, options, intensity)
            settings["precision"] = maker.settled(denoiser, autoencoder)
            inputs += [denoiser.model, autoencoder.model]
        provenance = derive("interpolate", settings, seed=options.seed if denoiser else None, inputs=inputs)
        header = interpolated_header(reader.header, options, provenance, model=denoiser is not None)

        with maker.console.progress(None, "slices") as advance:
            nothing = "no case was interpolated ({left_out} left out)"
            chosen = maker.take(case for case in reader.on_disk() if split in (None, case.split))
            thin = interpolate(chosen, interpolation, maker.leave_out, advance)
            done = maker.write(thin, header, inputs, nothing=nothing)
    way = options.told() if denoiser else "by a cubic spline"
    maker.console.say(f"{done.slices} thin slices of {done.cases} cases, {way}")
    maker.finish(cases=done.cases, slices=done.slices)
