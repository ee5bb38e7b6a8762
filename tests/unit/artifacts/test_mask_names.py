"""Names of mask values belong to a set: they count for its digest where there are any, and every value has one."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from medgen.artifacts.label_maps import BINARY
from medgen.artifacts.merging import join
from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, ContentDigest, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.errors import DataError

NAMES = ("background", "polyp")


def case(value: int, channels: int = 1) -> Case:
    mask = np.zeros((2, channels, 4, 4), np.uint8)
    mask[1, 0, 1, 2] = value
    return Case(f"case{value}", {"image": np.zeros((2, 1, 4, 4), np.int16), "mask": mask})


def test_a_set_without_names_keeps_its_digest_and_does_not_tell_of_them() -> None:
    header = SetHeader("image", derive("x", {}), label_names=("ill", "normal"))
    before = {name: value for name, value in msgspec.to_builtins(header).items() if name != "mask_names"}
    assert header.facts() == before
    old = hashlib.sha256(msgspec.json.encode(before, order="sorted"))
    old.update(msgspec.json.encode({}, order="sorted"))
    assert ContentDigest(header).tail({}).digest == old.hexdigest()
    named = msgspec.structs.replace(header, mask_names=NAMES)
    assert ContentDigest(named).tail({}).digest != old.hexdigest()


@pytest.mark.parametrize("suffix", [".h5", ".stream"])
def test_names_are_kept_and_sets_that_differ_in_them_are_not_joined(tmp_path: Path, suffix: str) -> None:
    for name, names in (("a", NAMES), ("b", ("background", "vessel")), ("c", ())):
        header = SetHeader("image", derive("x", {"name": name}), mask_names=names)
        with create_set(tmp_path / (name + suffix), header) as writer:
            writer.write(case(1))
    with (
        open_set(tmp_path / f"a{suffix}") as first,
        open_set(tmp_path / f"b{suffix}") as second,
        open_set(tmp_path / f"c{suffix}") as third,
    ):
        assert (first.header.mask_names, third.header.mask_names) == (NAMES, ())
        for other in (second, third):
            with pytest.raises(DataError, match="its mask_names"):
                join([first, other], ["a", "other"])


def test_masks_without_names_are_background_and_foreground(tmp_path: Path) -> None:
    """As sets have them that were made before there were names."""
    for name, names in (("a", BINARY), ("b", ())):
        with create_set(tmp_path / name, SetHeader("image", derive("x", {"name": name}), mask_names=names)) as writer:
            writer.write(replace(case(1), id=name))
    with open_set(tmp_path / "a") as first, open_set(tmp_path / "b") as second:
        header, _, cases = join([first, second], ["a", "b"])
        assert header.mask_names == BINARY
        assert len(list(cases)) == 2


@pytest.mark.parametrize(
    ("wrong", "told"), [(case(2), "holds 2, which is not a class"), (case(1, 2), "uint8 .D, 1, H, W")]
)
def test_a_mask_with_a_value_without_name_is_not_written(tmp_path: Path, wrong: Case, told: str) -> None:
    header = SetHeader("image", derive("x", {}), mask_names=NAMES)
    with pytest.raises(DataError, match=told), create_set(tmp_path / "a.h5", header) as writer:
        writer.write(wrong)
