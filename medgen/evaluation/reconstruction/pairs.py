"""Cases of two sets that should equal each other."""

from __future__ import annotations

from medgen.artifacts.stored import CaseRow, StoredSet
from medgen.errors import DataError
from medgen.evaluation.pairing import MEASURED, REFERENCE, Pairing


def pairs_of(stored: StoredSet, reference: StoredSet, pairing: Pairing) -> list[tuple[CaseRow, CaseRow]]:
    """Cases of both sets; DataError where several could be meant."""
    paired = []
    for row in stored.cases:
        partners = pairing.partners(row, MEASURED, reference.cases, REFERENCE)
        if pairing.names is None:  # series of one frame of reference show the same patient, but not the same slices
            partners = [one for one in partners if one.id == row.id]
        if len(partners) > 1:
            raise DataError(
                f"case {row.id}: pairs with {len(partners)} cases of the reference, such as {partners[0].id} and "
                f"{partners[1].id}; name the pairs in a CSV for --pair-by"
            )
        paired += [(row, one) for one in partners]
    return paired
