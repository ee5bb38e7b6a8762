"""Options of `medgen preprocess`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from medgen.config import Options

Positive = Annotated[float, msgspec.Meta(gt=0)]


class PreprocessOptions(Options, frozen=True):
    """How files become an image set. Lengths in mm, `size` in pixels, intensities in the unit of the source."""

    size: Annotated[str, msgspec.Meta(pattern=r"^(\d+(x\d+)?)?$")] = ""  # "256", "256x192" (width x height), "": as is
    keep_aspect: bool = True  # pad to `size`; False stretches
    spacing: Positive | None = None  # in-plane pixel size
    thickness: Positive | None = None  # distance between slices
    window: str = "auto"  # auto, lung, soft-tissue, bone, "LOW,HIGH", or each case's own percentiles: "1%,95%"
    channels: Literal["auto", "1", "3"] = "auto"  # auto: 3 as soon as one image has colour
    modality: str = ""  # of files that do not tell (NIfTI, PNG, JPG)
    series: tuple[str, ...] = ()  # keep only DICOM series of these modalities; empty: all
    min_slices: Annotated[int, msgspec.Meta(ge=1)] = 1  # leave out shorter stacks, such as localizers
    vector_fields: tuple[str, ...] = ()  # columns of the labels that make the vector; empty: all known ones
    healthy_slices: Annotated[int, msgspec.Meta(ge=0)] | None = None  # unlabelled slices kept a case; None: all
    lidc_readers: Annotated[int, msgspec.Meta(ge=1)] = 1  # least number of readers who marked a nodule
    split: str = "0.8,0.1,0.1"  # fractions of train, val, test
    split_name: Literal["", "train", "val", "test"] = ""  # all cases into this split
    train_only: str = ""  # the label of the only cases that may train; patients with others go to val and test
    mask_background: bool = False  # set everything outside the lungs to -1000 HU
    drop_duplicates: bool = False  # of cases that show exactly the same pixels keep the first
    keep_going: bool = False
    workers: Annotated[int, msgspec.Meta(ge=0)] = 0  # reading processes; 0: one a core
