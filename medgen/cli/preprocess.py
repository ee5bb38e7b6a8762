"""`medgen preprocess`: DICOM, NIfTI, PNG/JPG -> image set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgen.cli.options import (
    ConfigFile,
    Force,
    KeepGoing,
    OutputSet,
    Preset,
    PrintConfig,
    Sets,
    Shard,
    check_destination,
    configure,
    console_of,
    listed,
    parse_shard,
)


def command(
    context: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Files, folders, ZIPs of DICOM, NIfTI, PNG, JPG; or a CSV of paths."),
    ],
    output: OutputSet = "-",
    size: Annotated[
        str | None, typer.Option("--size", metavar="W[xH]", help="Pixels of every slice.  [default: as they are]")
    ] = None,
    keep_aspect: Annotated[
        bool | None, typer.Option("--keep-aspect/--stretch", help="Pad to --size, or stretch.  [default: keep-aspect]")
    ] = None,
    spacing: Annotated[
        float | None, typer.Option("--spacing", metavar="MM", help="Resample slices to pixels of this size.")
    ] = None,
    thickness: Annotated[
        float | None, typer.Option("--thickness", metavar="MM", help="Resample to slices this far apart.")
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            "--window",
            metavar="LOW,HIGH|NAME",
            help="auto, lung, soft-tissue, bone, brain, two numbers, or percentiles: 1%,95%.  [default: auto]",
        ),
    ] = None,
    channels: Annotated[
        str | None, typer.Option("--channels", metavar="auto|1|3", help="Grey or colour.  [default: auto]")
    ] = None,
    modality: Annotated[
        str | None, typer.Option("--modality", metavar="NAME", help="What NIfTI, PNG and JPG files show, such as CT.")
    ] = None,
    series: Annotated[
        list[str] | None, typer.Option("--series", metavar="MODALITY", help="Only these modalities; repeatable.")
    ] = None,
    min_slices: Annotated[
        int | None, typer.Option("--min-slices", metavar="N", help="Pass over shorter stacks, such as localizers.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="FILE.csv", help="Rows by case, path, series; columns make the vector."),
    ] = None,
    vector_fields: Annotated[
        str | None, typer.Option("--vector-fields", metavar="A,B,C", help="Columns of --labels that make the vector.")
    ] = None,
    healthy_slices: Annotated[
        int | None,
        typer.Option(
            "--healthy-slices", metavar="N", help="Keep at most N slices without a finding a case.  [default: all]"
        ),
    ] = None,
    lidc_xml: Annotated[
        list[Path] | None,
        typer.Option("--lidc-xml", metavar="PLACE", help="LIDC-IDRI readings, a file or folder; repeatable."),
    ] = None,
    lidc_readers: Annotated[
        int | None,
        typer.Option("--lidc-readers", metavar="N", help="Least number of readers for a nodule.  [default: 1]"),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(
            "--masks", metavar="PLACE", help="Folder or ZIP of masks, or a pattern such as masks/{stem}_m.png."
        ),
    ] = None,
    mask_background: Annotated[
        bool | None, typer.Option("--mask-background", help="Set everything outside the lungs to -1000 HU.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split", metavar="A,B,C", help="Fractions of train, val, test, by patient.  [default: 0.8,0.1,0.1]"
        ),
    ] = None,
    split_name: Annotated[
        str | None, typer.Option("--split-name", metavar="NAME", help="Put all cases into this split.")
    ] = None,
    drop_duplicates: Annotated[
        bool | None,
        typer.Option("--drop-duplicates", help="Of cases that show exactly the same pixels keep the first."),
    ] = None,
    train_only: Annotated[
        str | None,
        typer.Option(
            "--train-only",
            metavar="LABEL",
            help="Only these may train: patients with another label go to val and test.",
        ),
    ] = None,
    id_key: Annotated[
        str | None,
        typer.Option(
            "--id-key", metavar="TEXT", envvar="MEDGEN_ID_KEY", help="Secret that case ids and splits are hashed with."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", help="Reading processes.  [default: one a core]")
    ] = None,
    shard: Shard = None,
    keep_going: KeepGoing = False,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    print_config: PrintConfig = False,
    force: Force = False,
) -> None:
    """Turn DICOM, NIfTI or PNG/JPG files, folders and ZIPs into an image set.

    Slices are sorted into series and ordered by position. No name, id, date or UID of a patient reaches the set: case
    ids are keyed hashes. Splits are by patient and do not change when data is added.
    """
    from medgen.imaging.cases.options import PreprocessOptions

    flags = {
        "size": size,
        "keep_aspect": keep_aspect,
        "spacing": spacing,
        "thickness": thickness,
        "window": window,
        "channels": channels,
        "modality": modality,
        "series": series or None,
        "min_slices": min_slices,
        "vector_fields": listed(vector_fields),
        "healthy_slices": healthy_slices,
        "lidc_readers": lidc_readers,
        "mask_background": mask_background,
        "split": split,
        "split_name": split_name,
        "train_only": train_only,
        "drop_duplicates": drop_duplicates,
        "workers": workers,
        "keep_going": keep_going or None,
    }
    options = configure(context, PreprocessOptions, flags, preset, config, sets, print_config)
    part = parse_shard(shard)

    from medgen.imaging.cases.workers import prepare

    prepare()

    from medgen.errors import SomeItemsFailed
    from medgen.imaging.cases.planning import Inputs
    from medgen.imaging.cases.preprocessing import preprocess

    console = console_of(context)
    check_destination(output, force=force)
    done = preprocess(
        Inputs(tuple(sources), labels, tuple(lidc_xml or ()), masks),
        output,
        options,
        console,
        id_key=id_key,
        shard=part,
        force=force,
        progress=lambda total: console.progress(total, "slices"),
    )
    console.report.update(
        cases=done.cases, slices=done.slices, left_out=list(done.left_out), duplicates=list(done.duplicates)
    )
    console.say(f"{done.slices} slices of {done.cases} cases")
    if done.left_out:
        raise SomeItemsFailed(f"{len(done.left_out)} items were left out, each named above; the rest is in the output")
