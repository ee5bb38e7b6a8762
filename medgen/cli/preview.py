"""`medgen preview`: a labelled contact sheet of a set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgen.cli.options import (
    ConfigFile,
    Force,
    InputSet,
    Preset,
    PrintConfig,
    Sets,
    ShownSplit,
    check_destination,
    configure,
    console_of,
)


def command(
    context: typer.Context,
    source: InputSet = "-",
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE.png", help="Where the sheet goes; - is standard output.")
    ] = "-",
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="At most N tiles.  [default: 32]")] = None,
    columns: Annotated[int | None, typer.Option("--columns", metavar="N", help="Tiles in a row.")] = None,
    scale: Annotated[
        float | None, typer.Option("--scale", metavar="F", help="Screen pixels a pixel.  [default: tiles of about 192]")
    ] = None,
    split: ShownSplit = None,
    marks: Annotated[
        bool | None,
        typer.Option("--marks/--no-marks", help="Draw where conditions put findings, and masks.  [default: marks]"),
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    print_config: PrintConfig = False,
    force: Force = False,
) -> None:
    """Draw a labelled contact sheet of a set, as PNG.

    Images are shown in the set's window, latents by their first channels as colours. Of stacks, slices with findings
    come first; else they are spread evenly. Of anomaly maps six tiles a slice: original, normal version, differences
    in pixels, gradients and Laplacians, and the map.
    """
    from medgen.imaging.pictures.preview import PreviewOptions, make_tiles, title

    flags = {"limit": limit, "columns": columns, "scale": scale, "split": split, "marks": marks}
    options = configure(context, PreviewOptions, flags, preset, config, sets, print_config)

    import sys

    from medgen.artifacts.outputs.whole import atomic_file
    from medgen.artifacts.sets import open_set
    from medgen.imaging.pictures.contact_sheet import Scale, draw_sheet
    from medgen.imaging.pictures.preview_maps import LEGEND, PALETTE, PANELS, make_map_tiles

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
