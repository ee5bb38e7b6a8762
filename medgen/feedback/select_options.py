"""Options of `medgen select`."""

from __future__ import annotations

from typing import Annotated

from medgen.config import Options, option
from medgen.errors import UsageError
from medgen.evaluation.agreement.declaration import ProbeOptions
from medgen.evaluation.masks.declaration import MasksOptions
from medgen.evaluation.segmentation.options import SegmenterOptions


class SelectOptions(Options, frozen=True):
    """Which cases `select` keeps."""

    keep: (
        Annotated[
            float,
            option("The best share of all cases; the set is first read to its end.", metavar="SHARE", gt=0, le=1),
        ]
        | None
    ) = None
    min_score: (
        Annotated[float, option("Cases that score so much at least, from 1 to 5.", metavar="X", ge=1, le=5)] | None
    ) = None
    aspect: Annotated[
        str, option("Score by one aspect that was rated.", metavar="NAME", default="all that the selector can tell")
    ] = ""
    segmenter: SegmenterOptions = MasksOptions().segmenter
    """Of --verify, for masks."""
    probe: ProbeOptions = ProbeOptions()
    """Of --verify, for texts."""
    seed: Annotated[int, option("Seed of what --verify learns.", ge=0)] = 0
    weak: Annotated[bool, option("Take a selector that says nothing.")] = False

    def __post_init__(self) -> None:
        if self.keep is not None and self.min_score is not None:
            raise UsageError("--keep and --min-score exclude each other; give one")
