"""Options of `medgen preprocess`, and of every command that reads images."""

from __future__ import annotations

from typing import Annotated, Literal

from medgen.config import Options, option

GEOMETRY, VALUES, CHOICE, LABELS, SPLITS = "Geometry", "Values", "Choice", "Labels", "Splits"


class ReadingOptions(Options, frozen=True):
    """How files become images. Lengths in mm, `size` in pixels, intensities in the unit of the source."""

    size: Annotated[
        str,
        option(
            "Pixels of every slice.",
            metavar="W[xH]",
            group=GEOMETRY,
            default="as they are",
            pattern=r"^(\d+(x\d+)?)?$",
        ),
    ] = ""
    keep_aspect: Annotated[
        bool, option("Pad to --size, or stretch.", flag="--keep-aspect/--stretch", group=GEOMETRY)
    ] = True
    spacing: (
        Annotated[float, option("Resample slices to pixels of this size.", metavar="MM", group=GEOMETRY, gt=0)] | None
    ) = None
    thickness: (
        Annotated[float, option("Resample to slices this far apart.", metavar="MM", group=GEOMETRY, gt=0)] | None
    ) = None
    mend: Annotated[
        bool, option("Resample slices that stand unevenly (gantry tilt, gaps) onto an even grid.", group=GEOMETRY)
    ] = False
    window: Annotated[
        str,
        option(
            "auto, lung, soft-tissue, bone, brain, two numbers, or percentiles: 1%,95%.",
            metavar="LOW,HIGH|NAME",
            group=VALUES,
        ),
    ] = "auto"
    channels: Annotated[Literal["auto", "1", "3"], option("Grey or colour.", group=VALUES)] = "auto"
    modality: Annotated[
        str, option("What NIfTI, PNG and JPG files show, such as CT.", metavar="NAME", group=VALUES)
    ] = ""
    mask_background: Annotated[bool, option("Set everything outside the lungs to -1000 HU.", group=VALUES)] = False
    series: Annotated[
        tuple[str, ...], option("Only these modalities; repeatable.", metavar="MODALITY", group=CHOICE, repeat=True)
    ] = ()
    min_slices: Annotated[int, option("Pass over shorter stacks, such as localizers.", group=CHOICE, ge=1)] = 1
    drop_duplicates: Annotated[
        bool, option("Of cases that show exactly the same pixels keep the first.", group=CHOICE)
    ] = False
    keep_going: Annotated[bool, option("Leave out what fails, name each, and exit 1 at the end.")] = False
    workers: Annotated[int, option("Reading processes; 0: one a core.", ge=0)] = 0


class PreprocessOptions(ReadingOptions, frozen=True):
    """How files become an image set."""

    vector_fields: Annotated[
        tuple[str, ...],
        option("Columns of --labels that make the vector.", metavar="A,B,C", group=LABELS, default="those of nodules"),
    ] = ()
    healthy_slices: (
        Annotated[
            int,
            option("Keep at most N slices without a finding a case.", group=LABELS, default="all", ge=0),
        ]
        | None
    ) = None
    lidc_readers: Annotated[int, option("Least number of readers for a nodule.", group=LABELS, ge=1)] = 1
    split: Annotated[str, option("Fractions of train, val, test, by patient.", metavar="A,B,C", group=SPLITS)] = (
        "0.8,0.1,0.1"
    )
    split_name: Annotated[
        Literal["", "train", "val", "test"], option("Put all cases into this split.", group=SPLITS)
    ] = ""
    train_only: Annotated[
        str,
        option("Only these may train: patients with another label go to val and test.", metavar="LABEL", group=SPLITS),
    ] = ""
