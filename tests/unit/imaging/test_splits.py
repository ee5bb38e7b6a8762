"""Splits belong to the patient and do not change when others come."""

from __future__ import annotations

import pytest

from medgen.errors import ConfigError
from medgen.imaging.cases.identity import split_key
from medgen.imaging.cases.splits import parse_fractions, split_of


def test_fractions_are_met_and_do_not_depend_on_who_else_is_there() -> None:
    key = split_key(None)
    fractions = parse_fractions("0.8,0.1,0.1")
    before = {name: split_of(key, name, fractions) for name in (f"patient {i}" for i in range(4000))}
    after = {name: split_of(key, name, fractions) for name in (f"patient {i}" for i in range(6000))}
    assert all(after[name] == split for name, split in before.items())
    shares = [list(after.values()).count(name) / 6000 for name in ("train", "val", "test")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_a_larger_first_fraction_only_adds_to_it() -> None:
    key = split_key(None)
    some, more = parse_fractions("0.5,0.5"), parse_fractions("0.7,0.3")
    names = [f"p{i}" for i in range(500)]
    train = {name for name in names if split_of(key, name, some) == "train"}
    assert train <= {name for name in names if split_of(key, name, more) == "train"}


def test_no_patient_falls_into_a_split_of_nothing() -> None:
    key = split_key(None)
    fractions = parse_fractions("0.3,0,0.7")
    assert {split_of(key, f"p{i}", fractions) for i in range(300)} == {"train", "test"}


@pytest.mark.parametrize("text", ["0.8,0.1", "1,1", "a,b", "-1,1,1", "0.25,0.25,0.25,0.25", "nan,0,1"])
def test_wrong_fractions_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_fractions(text)
