"""`medgen export`: a set -> DICOM, NIfTI or PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgen.cli.options import ConfigFile, Force, InputSet, Preset, PrintConfig, Sets, ShownSplit, configure, console_of


def command(
    context: typer.Context,
    source: InputSet = "-",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The folder to make.  [required]")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="dicom|nifti|png", help="The format.  [required]")] = None,
    split: ShownSplit = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="At most N cases.")] = None,
    bits: Annotated[
        int | None,
        typer.Option(
            "--bits", metavar="8|16", help="Of PNG: 8 shows the window, 16 keeps stored values.  [default: 8]"
        ),
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    print_config: PrintConfig = False,
    force: Force = False,
) -> None:
    """Write a set as DICOM, NIfTI or PNG files.

    A case is a file or folder named after its id; conditions.csv lists the slices with their conditions. DICOM is
    marked as derived, gets new UIDs, and bears no patient; images that a model made are marked as synthetic.
    """
    from medgen.errors import UsageError
    from medgen.imaging.writing.exporting import ExportOptions, export_cases

    if to is None and not (preset or config or sets):
        raise UsageError("give --to dicom, --to nifti or --to png")
    flags = {"to": to, "split": split, "limit": limit, "bits": bits}
    options = configure(context, ExportOptions, flags, preset, config, sets, print_config)
    if output is None:
        raise UsageError("give -o DIR, the folder to make")

    from medgen.artifacts.outputs.whole import atomic_folder
    from medgen.artifacts.sets import open_set

    console = console_of(context)
    with (
        atomic_folder(output, force=force) as folder,
        open_set(source) as reader,
        console.progress(None, "cases") as advance,
    ):
        cases, slices = export_cases(reader.header, reader, folder, options, advance)
    console.say(f"{cases} cases, {slices} slices as {options.to} in {output}")
    console.report.update(cases=cases, slices=slices)
