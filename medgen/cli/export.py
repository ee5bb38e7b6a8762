"""`medgen export`: a set -> DICOM, NIfTI or PNG files, or the folder that nnU-Net reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgen.cli.console import Console
from medgen.cli.flags import Given, takes
from medgen.cli.options import Force, InputSet, console_of
from medgen.errors import UsageError
from medgen.imaging.writing.options import ExportOptions


@takes(ExportOptions)
def command(
    context: typer.Context,
    given: Given,
    source: InputSet = "-",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The folder to make.  [required]")
    ] = None,
    force: Force = False,
) -> None:
    """Write a set as DICOM, NIfTI or PNG files or as a folder for nnU-Net, or an adapter as a folder for peft.

    A case is a file or folder named after its id; conditions.csv lists the slices with their conditions. DICOM is
    marked as derived, gets new UIDs, and bears no patient; images that a model made are marked as synthetic. Masks lie
    beside their images, as CASE_mask and in DICOM as segmentations; classes.json names their values. For nnU-Net cases
    of the test split go to imagesTs, all others to imagesTr.

    Examples:
      medgen export samples.h5 --to dicom -o samples/
      medgen export thin.h5 --to nifti --split test -o volumes/
      medgen export adapter.safetensors --to peft -o adapter/
      medgen generate siamese.safetensors --mask masks/ | medgen export --to nnunet -o Dataset501_Polyp

    """
    options = given.resolve(ExportOptions)
    if output is None:
        raise UsageError("give -o DIR, the folder to make")
    if options.to == "peft":
        _export_adapter(source, output, console_of(context), force=force)
        return

    from medgen.artifacts.outputs.whole import atomic_folder
    from medgen.artifacts.sets import open_set
    from medgen.imaging.writing.exporting import export_cases

    console = console_of(context)
    with (
        atomic_folder(output, force=force) as folder,
        open_set(source) as reader,
        console.progress(None, "cases") as advance,
    ):
        cases, slices = export_cases(reader.header, reader, folder, options, advance)
    console.say(f"{cases} cases, {slices} slices as {options.to} in {output}")
    console.report.update(cases=cases, slices=slices)


def _export_adapter(source: str, output: Path, console: Console, *, force: bool) -> None:
    from medgen.artifacts.outputs.whole import atomic_folder
    from medgen.models.adapters import Adapter
    from medgen.models.peft_folder import write_peft_folder

    adapter = Adapter.open(source)
    changes = {
        name: change._replace(scale=adapter.strength * change.scale) for name, change in adapter.changes().items()
    }
    with atomic_folder(output, force=force) as folder:
        write_peft_folder(folder, changes)
    console.say(f"{len(changes)} layers as peft in {output}")
    console.report.update(layers=len(changes))
