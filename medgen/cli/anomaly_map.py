"""`medgen anomaly-map`: images and their normal versions -> maps and scores."""

from __future__ import annotations

from typing import Annotated

import typer

from medgen.cli.options import (
    ConfigFile,
    Force,
    OutputSet,
    Preset,
    PrintConfig,
    Sets,
    Shard,
    configure,
)
from medgen.cli.set_maker import SetMaker


def command(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SET", help="The images, or - for standard input.")],
    normalized: Annotated[
        str, typer.Argument(metavar="[NORMALIZED]", help="Their normal versions, from normalize.")
    ] = "-",
    output: OutputSet = "-",
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="P,G,L",
            help="Of the differences in pixels, gradients and Laplacians.  [default: 1,0.5,0.3]",
        ),
    ] = None,
    blur: Annotated[
        float | None,
        typer.Option("--blur", metavar="PIXELS", help="Sigma of a Gaussian over both images beforehand."),
    ] = None,
    smoothing: Annotated[
        float | None, typer.Option("--smoothing", metavar="PIXELS", help="Sigma of a Gaussian over the maps.")
    ] = None,
    foreground: Annotated[
        float | None,
        typer.Option("--foreground", metavar="F", help="Leave out what is below this share of the window."),
    ] = None,
    calibrate_by: Annotated[
        str | None,
        typer.Option(
            "--calibrate",
            metavar="MAPS",
            help="Give deviations from the normal images among these maps, pixel by pixel.",
        ),
    ] = None,
    calibration_split: Annotated[
        str | None,
        typer.Option("--calibration-split", metavar="NAME", help="Of those normal images.  [default: val]"),
    ] = None,
    score: Annotated[
        str | None,
        typer.Option("--score", metavar="top|quantile|mean", help="How a slice is scored.  [default: top]"),
    ] = None,
    score_share: Annotated[
        float | None,
        typer.Option("--score-share", metavar="F", help="Share of pixels for top and quantile.  [default: 0.01]"),
    ] = None,
    shard: Shard = None,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    print_config: PrintConfig = False,
    force: Force = False,
) -> None:
    """Map where images differ from their normal versions, and score each slice.

    Both sets are read side by side, case by case: 'medgen normalize x.h5 ... | medgen anomaly-map x.h5 - -o maps.h5'.
    SET may hold more cases than NORMALIZED. The maps are the differences in pixels, gradients and Laplacians and their
    weighted sum; images, masks and labels are carried over.
    """
    from medgen.inference.anomaly import AnomalyOptions

    flags = {
        **_weights(weights),
        "blur": blur,
        "smoothing": smoothing,
        "foreground": foreground,
        "score": score,
        "score_share": score_share,
        "calibration.split": calibration_split,
    }
    options = configure(context, AnomalyOptions, flags, preset, config, sets, print_config)

    from contextlib import ExitStack

    from medgen.artifacts.provenance import Identified, derive
    from medgen.artifacts.sets import open_set
    from medgen.config import plain
    from medgen.errors import DataError, UsageError
    from medgen.inference.anomaly import map_cases, map_header, normal_maps, pairs
    from medgen.inference.calibration import calibrate

    if [source, normalized, calibrate_by].count("-") > 1:
        raise UsageError("only one set can come from standard input; name the files of the others")
    maker = SetMaker.of(context, output, force=force, shard=shard)
    with ExitStack() as stack:
        images = stack.enter_context(open_set(source))
        made = stack.enter_context(open_set(normalized))
        if images.header.kind != "image" or made.header.kind != "image":
            kinds = f"'{images.header.kind}' and '{made.header.kind}'"
            raise DataError(f"the sets are of kinds {kinds}; anomaly-map needs images and their normal versions")
        intensity = images.header.intensity
        if intensity is None or made.header.intensity != intensity:
            raise DataError("the two sets do not agree in what their values mean; normalize that very set")
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
    """`1,0.5,0.3` -> the option of each component."""
    from medgen.errors import UsageError

    if text is None:
        return {}
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 3:
        raise UsageError(f"--weights {text}: expected three numbers, of pixels, gradients and Laplacians")
    return dict(zip(("pixel", "gradient", "laplacian"), values, strict=True))
