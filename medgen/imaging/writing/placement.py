"""Positions of the slices of a case, as far as a file format can express them; what it cannot is an error."""

from __future__ import annotations

from medgen.artifacts.schema import Case
from medgen.artifacts.stacks import Positions
from medgen.errors import DataError

UNPLACED = "no positions"


def slice_places(case: Case) -> Positions | None:
    """(D, 3) centre of each slice's first voxel, LPS mm; None if they are not known.

    DataError for a set that knows of slices off the even grid, but not where they are.
    """
    if UNPLACED in case.flaws:
        return None
    if case.flaws and not case.origins and len(case) > 1:
        raise DataError(
            f"case {case.id}: {case.flaws}, and this set does not say where each slice lies (it was made before sets "
            "did so); preprocess its source again"
        )
    return case.slice_origins


def check_even(case: Case) -> None:
    """DataError unless the slices of a case are on an even grid, the only kind that NIfTI can express."""
    if case.uneven in ("", UNPLACED):
        return
    remedy = "preprocess with --mend, or export DICOM" if case.mendable else "export DICOM"
    raise DataError(f"case {case.id}: {case.uneven}, which NIfTI cannot hold; {remedy}")
