"""Each slice keeps its own place, in both encodings, and even slices need none."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medgen.artifacts.schema import Case
from medgen.artifacts.sets import create_set, open_set
from medgen.artifacts.stacks import uneven_origins
from medgen.artifacts.stored import StoredSet
from medgen.artifacts.stream import StreamReader, StreamWriter
from medgen.errors import DataError

MakeSet = Callable[..., Path]
TILTED = tuple((-10.0, 1.34 * i, 4.0 * i + 0.1) for i in range(3))


def mixed(cases: list[Case]) -> list[Case]:
    """The second and the fourth stand unevenly, one of them with a slice put into a gap."""
    cases[1] = replace(cases[1], origin=TILTED[0], origins=TILTED, flaws="gantry tilt")
    cases[3] = replace(cases[3], origins=TILTED, mended="uneven gaps", filled=(False, True, False))
    return cases


def test_places_survive_both_encodings(make_set: MakeSet, tmp_path: Path) -> None:
    path, stream = tmp_path / "uneven.h5", io.BytesIO()
    with open_set(make_set(count=5, depth=3)) as reader:
        cases, header = mixed(list(reader)), reader.header
    with create_set(path, header) as writer:
        for case in cases:
            writer.write(case)
    streamed = StreamWriter(stream, header)
    for case in cases:
        streamed.write(case)
    streamed.finish(streamed.digest.tail({}))
    with open_set(path) as reader:
        assert isinstance(reader, StoredSet)
        for ours, theirs, row in zip(cases, reader, reader.cases, strict=True):
            assert ours.facts() == theirs.facts()
            assert (row.origins, row.mended, row.filled) == (ours.origins, ours.mended, ours.filled)
            np.testing.assert_array_equal(row.positions, ours.positions)
            np.testing.assert_array_equal(row.slice_origins, ours.slice_origins)
        assert set(reader.arrays()) == set(cases[0].arrays)
        (tilted,) = [row for row in reader.only("train").cases if row.flaws]
        assert tilted.origins == TILTED
    stream.seek(0)
    assert [case.facts() for case in StreamReader(stream, "s")] == [case.facts() for case in cases]


def test_a_set_of_even_slices_is_as_it_was(make_set: MakeSet) -> None:
    import h5py

    with h5py.File(make_set()) as file:
        assert not {"origins", "filled"} & set(file)


def test_even_places_follow_from_the_first() -> None:
    case = Case(
        "c",
        {"image": np.zeros((3, 1, 2, 2), np.int16)},
        spacing=(2.0, 0.5, 0.25),
        origin=(1.0, 2.0, 3.0),
        direction=(0.0, 0.6, 0.8, 0.0, 0.8, -0.6, 1.0, 0.0, 0.0),
    )
    np.testing.assert_allclose(case.slice_origins, [[1, 2, 3], [1, 3.2, 4.6], [1, 4.4, 6.2]])
    np.testing.assert_allclose(case.positions, [3.6, 5.6, 7.6])
    assert uneven_origins(case.slice_origins, case.axes[0], 2.0) == ()
    moved = case.slice_origins.copy()
    moved[2] += 0.25 * case.axes[2] + 0.5 * case.axes[1] + case.axes[0]
    uneven = replace(case, origins=uneven_origins(moved, case.axes[0], 2.0))
    np.testing.assert_allclose(uneven.misplaced, [0.5, 1.0, 1.0])
    np.testing.assert_allclose(uneven.positions, [3.6, 5.6, 8.6])
    assert (case.uneven, uneven.uneven) == ("", "a slice lies 1.0 voxels off an even grid")
    assert replace(case, flaws="gantry tilt").uneven == "gantry tilt"
    for flaws, mendable in (("", True), ("uneven gaps, gantry tilt", True), ("gantry tilt, slices left out", False)):
        assert replace(uneven, flaws=flaws).mendable is mendable


@pytest.mark.parametrize("fact", [{"origins": TILTED[:2]}, {"filled": (True,)}])
def test_a_fact_of_each_slice_is_told_for_each(make_set: MakeSet, fact: dict[str, object]) -> None:
    with open_set(make_set(count=1, depth=3)) as reader:
        (case,) = reader
    with pytest.raises(DataError, match="entries for 3 slices"):
        replace(case, **fact).check()
