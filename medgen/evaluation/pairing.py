"""Which cases of two sets show the same thing: by id or frame of reference, or as the user says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from medgen.artifacts.stored import CaseRow
from medgen.config import did_you_mean
from medgen.errors import DataError, UsageError
from medgen.imaging.cases.identity import patient_in
from medgen.imaging.labels.names import CaseNames, called, stem_of
from medgen.imaging.labels.rows import read_rows
from medgen.imaging.reading.series import SliceStack

MEASURED, REFERENCE, THICK = "measured", "reference", "thick slices"
"""Parts in an evaluation."""
COLUMNS = {"set": MEASURED, "reference": REFERENCE, "thick": THICK}
"""Of a file of pairs."""
WAYS = ("case", "patient", "path")


@dataclass(frozen=True)
class Side:
    """The cases of one part, and the names of the files that any were read from."""

    part: str
    cases: Sequence[CaseRow]
    files: Sequence[tuple[str, SliceStack]] = ()
    """Case ids, each with its stack; none of a set, which knows no names."""


@dataclass(frozen=True)
class Pairing:
    """Cases that share a name show the same; without names, those of the same id, or else frame of reference."""

    names: Mapping[tuple[str, str], frozenset[str]] | None = None
    """Names by part and case id; a case may have several, or none where nothing is known of it."""

    def partners(self, row: CaseRow, part: str, others: Sequence[CaseRow], other: str) -> list[CaseRow]:
        """The cases among `others`, of part `other`, that show the same as the case `row` of `part`."""
        if self.names is not None:
            ours = self.names.get((part, row.id), frozenset())
            return [one for one in others if ours & self.names.get((other, one.id), frozenset())]
        same = [one for one in others if one.id == row.id]
        return same or [one for one in others if one.frame and one.frame == row.frame]


UNNAMED = Pairing()


def pairing_of(by: str, sides: Sequence[Side]) -> Pairing:
    """The pairing that `by` asks for: "" for none, one of `WAYS`, or a CSV file with two of `COLUMNS`.

    A case not read from a file takes the name of the case with the same id in another part.
    UsageError where `by` is none of these, or needs facts that a whole part lacks; DataError for a faulty file.
    """
    if not by:
        return UNNAMED
    names: dict[tuple[str, str], set[str]] = defaultdict(set)
    if by.lower().endswith(".csv"):
        _read_pairs(Path(by), sides, names)
    elif by == "case":
        for side in sides:
            for row in side.cases:
                names[side.part, row.id].add(row.id)
    elif by in WAYS:
        for side in sides:
            for case, name in _patients(side) if by == "patient" else _paths(side):
                names[side.part, case].add(name)
    else:
        hint = did_you_mean(by, WAYS, f"expected {', '.join(WAYS)} or a CSV file")
        raise UsageError(f"--pair-by {by}{hint}")
    known = {key: frozenset(found) for key, found in names.items()}
    for side in sides:
        for row in side.cases:
            if (side.part, row.id) not in known:
                found = frozenset().union(*(names for (_, case), names in known.items() if case == row.id))
                known |= {(side.part, row.id): found} if found else {}
        if not any((side.part, row.id) in known for row in side.cases):
            raise UsageError(
                f"--pair-by {by}: nothing is known of the cases of the {side.part}: a set holds no names, and its ids "
                "show the patient only where MEDGEN_ID_KEY was set; give its files, or name the pairs in a CSV"
            )
    return Pairing(known)


def _patients(side: Side) -> Iterator[tuple[str, str]]:
    """The patient in DICOM, else the file's name. Ids made with a secret key tell the patient for sets too."""
    for case, stack in side.files:
        yield case, stack.patient or stem_of(stack.first.entry.within)
    for row in side.cases:
        if person := patient_in(row.id):
            yield row.id, person


def _paths(side: Side) -> Iterator[tuple[str, str]]:
    """The name, without its ending, of the file, or of the outermost folder or ZIP that holds this case alone."""
    inside: dict[PurePosixPath, set[str]] = defaultdict(set)
    for case, stack in side.files:
        for item in stack.slices:
            for place in (PurePosixPath(item.entry.within), *PurePosixPath(item.entry.within).parents):
                inside[place].add(case)
    for case, stack in side.files:
        path = PurePosixPath(stack.first.entry.within)
        alone = [place for place in path.parents if place.name and inside[place] == {case}]
        shared = len({item.entry.within for item in stack.slices}) == 1
        place = path if shared or not alone else alone[-1]
        yield case, str(place.with_name(called(place, is_file=place == path)[-1]))


def _read_pairs(file: Path, sides: Sequence[Side], names: Mapping[tuple[str, str], set[str]]) -> None:
    """Each row names cases that show the same: by id, series, patient or path, in the column of their part."""
    read = read_rows(file)
    if len(read.columns) < 2 or not set(read.columns) <= set(COLUMNS):
        told = ", ".join(read.columns.values())
        raise DataError(f"{file}: has the columns {told}; expected two of {', '.join(COLUMNS)}")
    if read.faults:
        raise DataError(read.faults[0][1])
    for number, row in read.rows:
        for column, name in row.items():
            part = COLUMNS[column]
            of_part = [side for side in sides if side.part == part]
            if name and of_part:
                for case in _named(name, of_part, file, number):
                    names[part, case].add(f"row {number}")


def _named(name: str, sides: Sequence[Side], file: Path, number: int) -> set[str]:
    """Ids of the cases that a cell refers to, in all sets of its part; DataError if there is none."""
    found: set[str] = set()
    reason = ""
    for side in sides:
        if any(row.id == name for row in side.cases):
            found.add(name)
        elif side.files:
            cases, stacks = [case for case, _ in side.files], [stack for _, stack in side.files]
            known = CaseNames(stacks, cases.copy)
            try:
                found.add(cases[known.stack(name)])
            except DataError:
                try:
                    found.add(cases[known.path(name, file.parent)[0]])
                except DataError as error:
                    reason = str(error)
    if not found:
        hint = did_you_mean(name, [row.id for side in sides for row in side.cases])
        raise DataError(f"{file}, row {number}: {reason or f'no case {name!r} in the {sides[0].part}{hint}'}")
    return found
