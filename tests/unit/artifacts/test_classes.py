"""Whoever asks which slices are normal gets one answer, or one error."""

from __future__ import annotations

import pytest

from medgen.artifacts.classes import normal_class
from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import SetHeader
from medgen.errors import DataError


def header(*names: str) -> SetHeader:
    return SetHeader("image", derive("preprocess", {}), label_names=names)


def test_the_normal_class_is_found_by_its_name_or_its_number() -> None:
    assert normal_class(header("ill", "normal")) == 1
    assert normal_class(header("ill", "fine"), "fine") == 1
    assert normal_class(header(), "3") == 3
    assert normal_class(header("3", "normal"), "3") == 0


@pytest.mark.parametrize(
    ("names", "wanted", "told"),
    [
        (("ill", "sick"), "normal", "its classes are ill, sick; give normal ones the label 'normal'"),
        ((), "normal", "its classes have no names"),
        (("ill", "normal"), "1", "its classes are ill, normal"),
        ((), "-1", "its classes have no names"),
    ],
)
def test_a_set_without_that_class_is_refused(names: tuple[str, ...], wanted: str, told: str) -> None:
    with pytest.raises(DataError, match=f"does not say which cases are normal: no class is called '{wanted}', {told}"):
        normal_class(header(*names), wanted)
