"""`medgen preprocess`: DICOM, NIfTI, PNG/JPG -> image set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgen.cli.flags import Given, takes
from medgen.cli.options import Force, OutputSet, Shard, check_destination, console_of, parse_shard
from medgen.imaging.cases.options import LABELS, PreprocessOptions


@takes(PreprocessOptions)
def command(
    context: typer.Context,
    given: Given,
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Files, folders, ZIPs of DICOM, NIfTI, PNG, JPG; or a CSV of paths."),
    ],
    output: OutputSet = "-",
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Table of labels: rows by case, path or series; columns give the vector.",
            rich_help_panel=LABELS,
        ),
    ] = None,
    lidc_xml: Annotated[
        list[Path] | None,
        typer.Option(metavar="PLACE", help="LIDC-IDRI readings, a file or folder; repeatable.", rich_help_panel=LABELS),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="Masks: a folder, ZIP, SEG, RTSTRUCT or NIfTI file, or a pattern such as masks/{stem}_m.png.",
            rich_help_panel=LABELS,
        ),
    ] = None,
    shard: Shard = None,
    force: Force = False,
) -> None:
    """Turn DICOM, NIfTI or PNG/JPG files, folders and ZIPs into an image set.

    Slices are sorted into series and ordered by position. Files that show no patient (reports, plans, segmentations,
    files named like masks) are skipped unless you name them. A set has one intensity scale; --series chooses between
    several. No name, id, date or UID of a patient reaches the set: case ids come from the pixels, and with a secret in
    MEDGEN_ID_KEY also from a keyed hash of the patient. Splits are by patient and do not change when data is added.
    Masks become label maps with named classes. Each image needs a mask, from --masks or a column 'mask' of the labels,
    unless its label is 'normal' or masks are optional. A CSV of path and text is read row by row, in constant memory;
    each row that cannot be used is named by its number.

    Examples:
      medgen preprocess phantoms/dicom --labels phantoms/labels.csv --size 128 --window lung -o images.h5
      medgen preprocess pairs.csv --size 256 -o pairs.h5
      medgen preprocess photos/ --size 256 --masks masks/ --split-fractions 0.9,0.05,0.05 -o images.h5

    """
    options = given.resolve(PreprocessOptions)
    part = parse_shard(shard)
    if not lidc_xml:
        given.warn_unused(("lidc_readers",), "without --lidc-xml")
    if labels is None and not any(source.lower().endswith((".csv", ".tsv")) for source in sources):
        given.warn_unused(("vector_fields", "encoding"), "without a table")
        if not masks:
            given.warn_unused(("masks_optional",), "without masks")
    if not options.size:
        given.warn_unused(("keep_aspect",), "without --size")
    if options.split_name:
        given.warn_unused(("split_fractions",), "with --split-name")

    from medgen.imaging.cases.workers import prepare

    prepare()

    from medgen.errors import SomeItemsFailed
    from medgen.imaging.cases.planning import SourceInputs
    from medgen.imaging.cases.preprocessing import preprocess
    from medgen.imaging.pairs.preprocessing import preprocess_pairs
    from medgen.imaging.pairs.table import pair_table

    console = console_of(context)
    check_destination(output, force=force)
    inputs = SourceInputs(tuple(sources), labels, tuple(lidc_xml or ()), masks)
    if pairs := pair_table(inputs, options):
        done = preprocess_pairs(pairs, output, options, console, shard=part, force=force)
    else:
        done = preprocess(inputs, output, options, console, shard=part, force=force)
    console.report.update(
        cases=done.cases, slices=done.slices, left_out=list(done.places), duplicates=list(done.duplicates)
    )
    console.say(f"{done.slices} slices of {done.cases} cases")
    if done.left_out:
        raise SomeItemsFailed(f"{len(done.left_out)} items were left out, each named above; the rest is in the output")
