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
            option("Keep the best share of all cases; the whole set is read first.", metavar="SHARE", gt=0, le=1),
        ]
        | None
    ) = None
    min_score: (
        Annotated[float, option("Keep cases with at least this score, from 1 to 5.", metavar="X", ge=1, le=5)] | None
    ) = None
    aspect: Annotated[
        str, option("Score by one of the rated aspects.", metavar="NAME", default="all that the selector can judge")
    ] = ""
    segmenter: SegmenterOptions = MasksOptions().segmenter
    """Of --verify, for masks."""
    probe: ProbeOptions = ProbeOptions()
    """Of --verify, for texts."""
    seed: Annotated[int, option("Seed of the networks that --verify trains.", ge=0)] = 0
    weak: Annotated[bool, option("Use a selector even if its scores mean nothing.")] = False

    def __post_init__(self) -> None:
        if self.keep is not None and self.min_score is not None:
            raise UsageError("--keep and --min-score exclude each other; give one")
