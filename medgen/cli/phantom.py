"""`medgen phantom`: procedural images with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgen.cli.flags import Given, takes
from medgen.cli.options import Force, console_of
from medgen.phantoms.options import KINDS, options_of


@takes(*KINDS.values(), names=KINDS)
def command(
    context: typer.Context,
    given: Given,
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"What to make: {', '.join(KINDS)}.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to make.")],
    count: Annotated[int, typer.Option("-n", "--count", min=1, metavar="N", help="How many cases.")] = 1,
    workers: Annotated[int, typer.Option("--workers", min=0, metavar="N", help="Processes; 0: one per core.")] = 0,
    force: Force = False,
) -> None:
    """Make procedural images with known truth, as a hospital would hand them over.

    chest-ct: dicom/ (series in ZIPs), labels.csv (one row a slice with a nodule), nodules.csv (mm), masks/ (NIfTI),
    captions.csv and truth.csv (one row a slice: its caption, and what the caption says, field by field).
    dental: dicom/ (panoramic X-rays), labels.csv (one row a case), lesions.csv (one row a lesion), masks/ (PNG).
    All others: images/ and masks/ (PNG; classes.csv names the values of masks), labels.csv (one row an image, with
    patient and caption), truth.csv (what the caption says), findings.csv (one row a finding).
    The same seed gives the same bytes, and case i does not depend on N. A chest is the same in slices of any thickness
    that cover the same extent. For all other kinds, a healthy case is the diseased one of the same seed without its
    lesions.

    Examples:
      medgen phantom chest-ct -n 20 --size 128 -o phantoms/
      medgen phantom dental -n 100 --lesions caries,fracture --healthy-fraction 0.7 -o xrays/
      medgen phantom endoscopy -n 200 --size 256 -o polyps/

    """
    from medgen.phantoms.folder import make_folder
    from medgen.processors import processors

    options, console = given.resolve(options_of(kind)), console_of(context)
    with console.progress(count, "cases") as advance:
        rows = make_folder(
            kind,
            options,
            count,
            output,
            workers=workers or processors(),
            force=force,
            advance=advance,
        )
    console.say(
        f"{count} cases of {kind} in {output}, "
        + ", ".join(f"{number} rows in {name}" for name, number in rows.items())
    )
    console.report.update(cases=count, rows=rows)
