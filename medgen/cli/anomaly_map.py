"""`medgen anomaly-map`: images and their normal versions -> maps and scores."""

from __future__ import annotations

from typing import Annotated

import typer

from medgen.cli.flags import Given, takes
from medgen.cli.options import Force, OutputSet, Shard
from medgen.cli.set_maker import SetMaker
from medgen.inference.anomaly.options import CALIBRATION, MAPS, AnomalyOptions

WEIGHTS = ("pixel", "gradient", "laplacian")
"""Options that --weights gives at once."""


@takes(AnomalyOptions)
def command(
    context: typer.Context,
    given: Given,
    source: Annotated[str, typer.Argument(metavar="SET", help="The images, or - for standard input.")],
    normalized: Annotated[
        str, typer.Argument(metavar="NORMALIZED", help="Their normal versions, from normalize.")
    ] = "-",
    output: OutputSet = "-",
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="P,G,L",
            help="Weights of the differences in pixels, gradients and Laplacians.  "
            f"[default: {','.join(f'{getattr(AnomalyOptions(), name):g}' for name in WEIGHTS)}]",
            rich_help_panel=MAPS,
        ),
    ] = None,
    calibrate_by: Annotated[
        str | None,
        typer.Option(
            "--calibrate",
            metavar="MAPS",
            help="Give deviations from the normal images among these maps, pixel by pixel.",
            rich_help_panel=CALIBRATION,
        ),
    ] = None,
    shard: Shard = None,
    force: Force = False,
) -> None:
    """Map and score where images differ from their normal versions.

    Both sets are read side by side, case by case; SET may hold more cases than NORMALIZED. The maps are the differences
    in pixels, gradients and Laplacians and their weighted sum; images, masks and labels are carried over.

    Examples:
      medgen anomaly-map images.h5 normal.h5 -o maps.h5
      medgen normalize x.h5 --model m.safetensors --vae vae.safetensors | medgen anomaly-map x.h5 - -o maps.h5

    """
    options = given.resolve(AnomalyOptions, _weights(weights))
    if calibrate_by is None:
        given.warn_unused(("calibration",), "without --calibrate")
    if options.score == "mean":
        given.warn_unused(("score_share",), "with --score mean")

    from contextlib import ExitStack

    from medgen.artifacts.provenance import Identified, derive
    from medgen.artifacts.sets import open_set
    from medgen.config import plain
    from medgen.errors import UsageError
    from medgen.inference.anomaly.calibration import calibrate
    from medgen.inference.anomaly.maps import map_cases, map_header, normal_maps, pairs, shared_intensity

    if [source, normalized, calibrate_by].count("-") > 1:
        raise UsageError("only one set can come from standard input; name the files of the others")
    maker = SetMaker.of(context, output, force=force, shard=shard)
    with ExitStack() as stack:
        images = stack.enter_context(open_set(source))
        made = stack.enter_context(open_set(normalized))
        intensity = shared_intensity(images.header, made.header)
        inputs: list[Identified] = [images, made]
        calibration = None
        if calibrate_by is not None:
            normal = stack.enter_context(open_set(calibrate_by))
            calibration = calibrate(normal_maps(normal.header, normal, options), options.calibration)
            inputs.append(normal)
        settings = plain(options)
        if calibration is None:
            del settings["calibration"]
        provenance = derive("anomaly-map", settings, inputs=inputs)
        header = map_header(images.header, provenance, options, calibrated=calibration is not None)
        maps = map_cases(maker.take(pairs(images, made)), intensity, options, calibration)
        with maker.console.progress(None, "slices") as advance:
            nothing = "the normalized set holds no case, so there is nothing to map"
            done = maker.write(maps, header, inputs, advance, nothing=nothing)
    maker.console.say(f"maps of {done.slices} slices of {done.cases} cases")
    maker.console.report.update(cases=done.cases, slices=done.slices)


def _weights(text: str | None) -> dict[str, float]:
    """`1,0.5,0.3` -> the options of the components."""
    from medgen.errors import UsageError

    if text is None:
        return {}
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 3:
        raise UsageError(f"--weights {text}: expected three numbers, of pixels, gradients and Laplacians")
    return dict(zip(WEIGHTS, values, strict=True))
