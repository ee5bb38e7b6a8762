"""Names of classes belong to a set: they count for its digest where there are any, and sets cannot differ in them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from medgen.artifacts.merging import join
from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, ContentDigest, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.errors import DataError


def test_a_set_without_names_keeps_the_digest_it_had_before_there_were_names() -> None:
    header = SetHeader("image", derive("x", {}))
    before = {name: value for name, value in header.facts().items() if name != "label_names"}
    old = hashlib.sha256(msgspec.json.encode(before, order="sorted"))
    old.update(msgspec.json.encode({}, order="sorted"))
    assert ContentDigest(header).tail({}).digest == old.hexdigest()
    named = msgspec.structs.replace(header, label_names=("ill", "normal"))
    other = msgspec.structs.replace(header, label_names=("normal", "ill"))
    assert len({ContentDigest(one).tail({}).digest for one in (header, named, other)}) == 3


def test_sets_with_other_names_cannot_be_joined(tmp_path: Path) -> None:
    for name, names in (("a", ("ill", "normal")), ("b", ("normal", "ill"))):
        header = SetHeader("image", derive("x", {"name": name}), label_names=names)
        with create_set(tmp_path / name, header) as writer:
            writer.write(Case(name, {"image": np.zeros((1, 1, 4, 4), np.int16), "label": np.array([0])}))
    with open_set(tmp_path / "a") as first, open_set(tmp_path / "b") as second:
        assert first.header.label_names == ("ill", "normal")
        with pytest.raises(DataError, match="its label_names"):
            join([first, second], ["a", "b"])
