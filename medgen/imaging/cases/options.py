"""Options of `medgen preprocess`, and of every command that reads images."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from medgen.config import Options, option

GEOMETRY, VALUES, CHOICE, LABELS, SPLITS = "Geometry", "Values", "Choice", "Labels", "Splits"
WINDOWS = {
    "lung": (-1000.0, 400.0),
    "soft-tissue": (-160.0, 240.0),  # centre 40, width 400
    "bone": (-450.0, 1050.0),
    "brain": (0.0, 80.0),
}
"""In HU, by name."""


def asks_for(series: Collection[str], modality: str) -> bool:
    """Whether --series names this modality, in whatever case."""
    return modality.casefold() in {name.casefold() for name in series}


class SourceOptions(Options, frozen=True):
    """Which files are read, and how. `size` in pixels."""

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
    mend: Annotated[
        bool, option("Resample unevenly spaced slices (gantry tilt, gaps) onto an even grid.", group=GEOMETRY)
    ] = False
    channels: Annotated[Literal["auto", "1", "3"], option("Grey or colour.", group=VALUES)] = "auto"
    modality: Annotated[
        str,
        option(
            "What NIfTI, PNG and JPG files show, such as CT.", metavar="NAME", group=VALUES, default="as they state"
        ),
    ] = ""
    mask_background: Annotated[bool, option("Set everything outside the lungs to -1000 HU.", group=VALUES)] = False
    series: Annotated[
        tuple[str, ...],
        option("Only these modalities; repeatable.", metavar="MODALITY", group=CHOICE, default="all", repeat=True),
    ] = ()
    min_slices: Annotated[int, option("Skip shorter stacks, such as localizers.", group=CHOICE, ge=1)] = 1
    keep_going: Annotated[bool, option("Leave out what fails, name each, and exit 1 at the end.")] = False
    workers: Annotated[int, option("Reading processes; 0: one per core.", ge=0)] = 0

    def changed(self) -> list[str]:
        """Names of the options that change what is read, and are not at their defaults."""
        default = type(self)()
        names = [name for name in self.__struct_fields__ if name not in ("keep_going", "workers")]
        return [name for name in names if getattr(self, name) != getattr(default, name)]


class ReadingOptions(SourceOptions, frozen=True):
    """How files become images on a grid, in values. Lengths in mm, intensities in the unit of the source."""

    spacing: (
        Annotated[float, option("Resample slices to pixels of this size.", metavar="MM", group=GEOMETRY, gt=0)] | None
    ) = None
    thickness: (
        Annotated[float, option("Resample to slices this far apart.", metavar="MM", group=GEOMETRY, gt=0)] | None
    ) = None
    window: Annotated[
        str,
        option(
            f"Values from black to white: auto, {', '.join(WINDOWS)}, two numbers, or percentiles such as 1%,95%.",
            metavar="LOW,HIGH|NAME",
            group=VALUES,
        ),
    ] = "auto"


class PreprocessOptions(ReadingOptions, frozen=True):
    """How files become an image set."""

    drop_duplicates: Annotated[bool, option("Of cases with exactly the same pixels, keep the first.", group=CHOICE)] = (
        False
    )
    vector_fields: Annotated[
        tuple[str, ...],
        option("Columns of --labels that form the vector.", metavar="A,B,C", group=LABELS, default="those of nodules"),
    ] = ()
    mask_classes: Annotated[
        str,
        option(
            "Values of masks by class; names alone for SEG, RTSTRUCT or consecutive values; or a JSON or CSV file.",
            metavar="NAME=VALUE,...",
            group=LABELS,
            default="as the masks say",
        ),
    ] = ""
    masks_optional: Annotated[
        bool, option("Take images without a mask, and empty masks, as negatives, whatever their label.", group=LABELS)
    ] = False
    template: (
        Annotated[
            str,
            option(
                "Make each text from the table's columns with this template (see medgen presets --prompts).",
                metavar="[FILE.toml:]NAME",
                group=LABELS,
                default="the column text",
            ),
        ]
        | None
    ) = None
    encoding: (
        Annotated[
            str,
            option(
                "Encoding of the table.",
                metavar="NAME",
                group=LABELS,
                default="UTF-8, or UTF-16 with a byte order mark",
            ),
        ]
        | None
    ) = None
    healthy_slices: (
        Annotated[
            int,
            option("Keep at most N slices without a finding per case.", group=LABELS, default="all", ge=0),
        ]
        | None
    ) = None
    lidc_readers: Annotated[int, option("Fewest readers that must have marked a nodule.", group=LABELS, ge=1)] = 1
    split_fractions: Annotated[
        str, option("Shares of train, val, test, by patient.", metavar="A,B,C", group=SPLITS)
    ] = "0.8,0.1,0.1"
    split_name: Annotated[
        Literal["", "train", "val", "test"],
        option("Put all cases into this split.", group=SPLITS, default="by --split-fractions"),
    ] = ""
    train_only: Annotated[
        str,
        option(
            "Train only on this label: patients with another one go to val and test.", metavar="LABEL", group=SPLITS
        ),
    ] = ""

    @staticmethod
    def of(reading: SourceOptions, **more: Any) -> PreprocessOptions:
        """These options of reading, and `more`."""
        return PreprocessOptions(**{name: getattr(reading, name) for name in reading.__struct_fields__} | more)
