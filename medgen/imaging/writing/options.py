"""Options of `medgen export`."""

from __future__ import annotations

from typing import Annotated, Literal

from medgen.config import Options, option


class ExportOptions(Options, frozen=True):
    """What is exported and how."""

    to: Annotated[Literal["dicom", "nifti", "png", "nnunet", "peft", "diffusers"], option("The format.")]
    split: Annotated[Literal["train", "val", "test"], option("Only the cases of this split.", default="all")] | None = (
        None
    )
    limit: Annotated[int, option("At most N cases.", default="all", ge=1)] | None = None
    bits: Annotated[Literal[8, 16], option("Bits of PNG files: 8 shows the window, 16 keeps stored values.")] = 8
