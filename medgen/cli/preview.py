"""`medgen preview`: a labelled contact sheet of a set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgen.cli.flags import Given, takes
from medgen.cli.options import Force, InputSet, check_destination, check_picture, console_of
from medgen.imaging.pictures.options import PreviewOptions


@takes(PreviewOptions)
def command(
    context: typer.Context,
    given: Given,
    source: InputSet = "-",
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE.png", help="Where the sheet goes; - is standard output.")
    ] = "-",
    force: Force = False,
) -> None:
    """Draw a labelled contact sheet of a set.

    The sheet is a PNG. Images are shown in the set's window, latents with their first channels as colours. From stacks,
    slices with findings come first; otherwise slices are spread evenly. An anomaly map has six tiles a slice: original,
    normal version, differences in pixels, gradients and Laplacians, and the map.

    Examples:
      medgen preview images.h5 -o sheet.png
      medgen generate model.safetensors --vae vae.safetensors -n 16 | medgen preview --columns 4 -o sheet.png

    """
    options = given.resolve(PreviewOptions)

    import sys

    from medgen.artifacts.outputs.whole import atomic_file
    from medgen.artifacts.sets import open_set
    from medgen.imaging.pictures.contact_sheet import Scale, draw_sheet
    from medgen.imaging.pictures.preview import make_tiles, title
    from medgen.imaging.pictures.preview_maps import LEGEND, PALETTE, PANELS, make_map_tiles

    check_picture(output, "--output")
    check_destination(output, force=force)
    with open_set(source, random_access=True) as stored:
        if stored.header.kind == "map":
            tiles = make_map_tiles(stored, options)
            sheet = draw_sheet(tiles, title(stored), options.columns or PANELS, Scale(LEGEND, PALETTE))
        else:
            tiles = make_tiles(stored, options)
            sheet = draw_sheet(tiles, title(stored), options.columns)
    if output == "-":
        sys.stdout.buffer.write(sheet)
    else:
        with atomic_file(Path(output), force=force) as temporary:
            temporary.write_bytes(sheet)
    console = console_of(context)
    console.say(f"{len(tiles)} tiles" + ("" if output == "-" else f" in {output}"))
    console.report.update(tiles=len(tiles))
