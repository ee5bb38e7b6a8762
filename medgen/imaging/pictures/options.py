"""Options of `medgen preview`."""

from __future__ import annotations

from typing import Annotated, Literal

from medgen.config import Options, option


class PreviewOptions(Options, frozen=True):
    """What a contact sheet shows."""

    limit: Annotated[int, option("At most N tiles.", ge=1, le=1000)] = 32
    columns: Annotated[int, option("Tiles in a row.", default="to suit their number", ge=1, le=100)] | None = None
    scale: (
        Annotated[
            float, option("Screen pixels per image pixel.", metavar="F", default="tiles of about 192", gt=0, le=32)
        ]
        | None
    ) = None
    split: Annotated[Literal["train", "val", "test"], option("Only the cases of this split.", default="all")] | None = (
        None
    )
    marks: Annotated[bool, option("Mark where conditions place findings, and outline masks.")] = True
