"""`medgen phantom`: procedural images with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgen.cli.options import ConfigFile, Force, Preset, PrintConfig, Seed, Sets, configure, console_of, listed


def command(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="What to make: chest-ct, dental.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to make.")],
    count: Annotated[int, typer.Option("-n", "--count", min=1, metavar="N", help="How many cases.")] = 1,
    size: Annotated[
        int | None,
        typer.Option(
            "--size", metavar="PIXELS", help="Rows and columns; a full dental view is twice as wide.  [default: 512]"
        ),
    ] = None,
    slices: Annotated[int | None, typer.Option("--slices", metavar="N", help="Slices a case.  [default: 24]")] = None,
    thickness: Annotated[
        float | None, typer.Option("--thickness", metavar="MM", help="Thickness of a slice.  [default: 5]")
    ] = None,
    spacing: Annotated[
        float | None, typer.Option("--spacing", metavar="MM", help="From slice to slice.  [default: the thickness]")
    ] = None,
    thick: Annotated[
        float | None,
        typer.Option("--thick", metavar="MM", help="Add a second series in slices this thick, of the same scan."),
    ] = None,
    nodules: Annotated[
        str | None,
        typer.Option("--nodules", metavar="LOW,HIGH", help="Nodules in a case that has any.  [default: 1,3]"),
    ] = None,
    diameter: Annotated[
        str | None, typer.Option("--nodule-diameter", metavar="LOW,HIGH", help="In mm.  [default: 6,30]")
    ] = None,
    healthy_fraction: Annotated[
        float | None,
        typer.Option(
            "--healthy-fraction", metavar="F", help="Cases without nodules or lesions.  [default: 0.2; dental 0.5]"
        ),
    ] = None,
    view: Annotated[
        str | None, typer.Option("--view", metavar="full|half", help="Both jaws, or one side.  [default: full]")
    ] = None,
    lesions: Annotated[
        str | None,
        typer.Option(
            "--lesions", metavar="A,B,...", help="Of caries, periapical, bone-loss, fracture.  [default: all of them]"
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=0, metavar="N", help="Processes; 0: one a core.")] = 0,
    seed: Seed = None,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    print_config: PrintConfig = False,
    force: Force = False,
) -> None:
    """Make procedural images with known truth, as a hospital would hand them over.

    chest-ct: dicom/ (series in ZIPs), labels.csv (a row a slice with a nodule), nodules.csv (mm), masks/ (NIfTI).
    dental: dicom/ (panoramic X-rays), labels.csv (a row a case), lesions.csv (a row a lesion), masks/ (PNG).
    The same seed gives the same bytes, and case i does not depend on N. A chest is the same in slices of any thickness
    as long as they cover the same extent; a healthy dental case is the ill one of the same seed without its lesions.
    """
    import os

    from medgen.phantoms.folder import make_folder, options_of

    flags = {
        "seed": seed,
        "size": size,
        "slices": slices,
        "thickness": thickness,
        "spacing": spacing,
        "thick": thick,
        "nodules": _range(nodules, "--nodules", int),
        "diameter": _range(diameter, "--nodule-diameter", float),
        "healthy_fraction": healthy_fraction,
        "view": view,
        "lesions": listed(lesions),
    }
    options = configure(context, options_of(kind), flags, preset, config, sets, print_config)
    console = console_of(context)
    with console.progress(count, "cases") as advance:
        rows = make_folder(
            kind,
            options,
            count,
            output,
            workers=workers or len(os.sched_getaffinity(0)),
            force=force,
            advance=advance,
        )
    console.say(
        f"{count} cases of {kind} in {output}, "
        + ", ".join(f"{number} rows in {name}" for name, number in rows.items())
    )
    console.report.update(cases=count, rows=rows)


def _range(text: str | None, flag: str, number: type[int] | type[float]) -> list[int | float] | None:
    """`LOW,HIGH`, or one number for both."""
    from medgen.errors import UsageError

    if text is None:
        return None
    try:
        values = [number(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2):
        raise UsageError(f"{flag} {text}: expected LOW,HIGH")
    return [values[0], values[-1]]
