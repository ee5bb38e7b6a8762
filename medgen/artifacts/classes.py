"""What the classes of a labelled set are called, and which is the normal one."""

from __future__ import annotations

from medgen.artifacts.schema import SetHeader
from medgen.errors import DataError

NORMAL = "normal"
"""The name of the class of cases without a finding."""


def class_called(header: SetHeader, label: int) -> str:
    """The name of the class with this number; the number where it has none."""
    return header.label_names[label] if 0 <= label < len(header.label_names) else str(label)


def normal_class(
    header: SetHeader,
    name: str = NORMAL,
    remedy: str = f"give normal ones the label '{NORMAL}' in the CSV for preprocess --labels",
) -> int:
    """The label of normal slices: the number of the class called `name`, which is a number if classes have no names.

    DataError with the `remedy` if there is no such class.
    """
    names = header.label_names
    if name in names:
        return names.index(name)
    if not names and name.isdecimal():
        return int(name)
    told = f"its classes are {', '.join(names)}" if names else "its classes have no names"
    raise DataError(f"the set does not say which cases are normal: no class is called '{name}', {told}; {remedy}")
