"""Where the slices of a case stand, as far as a file format can say it; what it cannot is refused, not made up."""

from __future__ import annotations

from medgen.artifacts.schema import Case
from medgen.artifacts.stacks import MENDABLE, Positions
from medgen.errors import DataError

UNPLACED = "no positions"
OFF_GRID = 0.5
"""Voxels by which a slice may lie off an even grid where a format knows no other."""


def slice_places(case: Case) -> Positions | None:
    """(D, 3) centre of each slice's first voxel, LPS mm; None where nobody knows them.

    DataError for a set that knows of slices off the even grid, but not where they are.
    """
    flaws = _flaws(case)
    if UNPLACED in flaws:
        return None
    if flaws and not case.origins and len(case) > 1:
        raise DataError(
            f"case {case.id}: {case.flaws}, and this set does not tell where each slice lies (it was made before sets "
            "did so); preprocess its source anew"
        )
    return case.slice_origins


def check_even(case: Case, name: str) -> None:
    """DataError unless the slices of a case stand on an even grid, the only one that the format `name` knows."""
    flaws = _flaws(case) - {UNPLACED}
    aside = float(case.misplaced.max())
    if not flaws and aside <= OFF_GRID:
        return
    reason = case.flaws or f"a slice lies {aside:.1f} voxels off its place on an even grid"
    remedy = "preprocess with --mend, or export DICOM" if flaws <= set(MENDABLE) else "export DICOM"
    raise DataError(f"case {case.id}: {reason}, which {name} cannot hold; {remedy}")


def _flaws(case: Case) -> set[str]:
    return set(filter(None, case.flaws.split(", ")))
