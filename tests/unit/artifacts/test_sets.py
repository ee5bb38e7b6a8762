"""Sets keep what they are given, in both encodings, and refuse what is not whole."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, ContentDigest, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.artifacts.stored import StoredSet
from medgen.artifacts.stream import StreamReader, StreamWriter
from medgen.errors import DataError, InputMissingError, OutputError


def as_stream(path: Path) -> bytes:
    """The set at `path` in the encoding of pipes."""
    buffer = io.BytesIO()
    with open_set(path) as reader:
        writer = StreamWriter(buffer, reader.header)
        for case in reader:
            writer.write(case)
        writer.finish(writer.digest.tail(reader.tail.inputs))
    return buffer.getvalue()


def assert_same_case(ours: Case, theirs: Case) -> None:
    assert ours.facts() == theirs.facts()
    assert set(ours.arrays) == set(theirs.arrays)
    for name in ours.arrays:
        assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_disk_to_stream_to_disk_gives_the_same_bytes(make_set: Callable[..., Path], tmp_path: Path) -> None:
    path = make_set(count=300)  # more than one flush of the case table
    reader = StreamReader(io.BytesIO(as_stream(path)), "stream")
    with create_set(tmp_path / "again.h5", reader.header) as writer:
        for case in reader:
            writer.write(case)
    assert (tmp_path / "again.h5").read_bytes() == path.read_bytes()


def test_random_access_equals_iteration_and_a_stream_file_spools(make_set: Callable[..., Path], tmp_path: Path) -> None:
    path = make_set(count=4, depth=3)
    (tmp_path / "set.stream").write_bytes(as_stream(path))
    with open_set(path, random_access=True) as stored, open_set(tmp_path / "set.stream", random_access=True) as spooled:
        whole = np.concatenate([case["image"] for case in stored])
        order = [7, 0, 3, 3]
        np.testing.assert_array_equal(stored.read("image", order), whole[order])
        np.testing.assert_array_equal(spooled.read("image", order), whole[order])
        plane = (slice(1, 3), slice(2, 5))
        np.testing.assert_array_equal(stored.read("image", order, plane), whole[order][(..., *plane)])
        assert stored.digests() == spooled.digests()
        assert [row.start for row in stored.cases] == [0, 3, 6, 9]
        for index, case in enumerate(stored):
            assert_same_case(case, spooled.case(index))


@settings(max_examples=30)
@given(
    images=st.lists(
        hnp.arrays(np.int16, st.tuples(st.integers(1, 3), st.just(1), st.just(4), st.just(5))), min_size=1, max_size=4
    ),
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
)
def test_any_content_survives_both_encodings(
    images: list[np.ndarray], text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    header = SetHeader(kind="image", provenance=derive("preprocess", {}, sources="s"), intensity=Intensity())
    cases = [
        Case(f"c{i}", {"image": image}, text=(text,) * len(image), spacing=(0.1 + i, 1 / 3, 2.0))
        for i, image in enumerate(images)
    ]
    path = tmp_path_factory.mktemp("any") / "set.h5"
    with create_set(path, header) as writer:
        for case in cases:
            writer.write(case)
    with open_set(path) as stored:
        for ours, theirs in zip(cases, stored, strict=True):
            if text:
                assert_same_case(ours, theirs)
            np.testing.assert_array_equal(ours["image"], theirs["image"])
    streamed = list(StreamReader(io.BytesIO(as_stream(path)), "stream"))
    for ours, theirs in zip(cases, streamed, strict=True):
        np.testing.assert_array_equal(ours["image"], theirs["image"])


def test_thickness_frame_and_flaws_survive_both_encodings(make_set: Callable[..., Path], tmp_path: Path) -> None:
    with open_set(make_set(count=1)) as reader:
        header, (case,) = reader.header, list(reader)
    told = replace(case, thickness=5.0, frame="f00d", flaws="uneven gaps")
    plain = replace(case, id="plain")  # none of it is known
    with create_set(tmp_path / "told.h5", header) as writer:
        writer.write(told)
        writer.write(plain)
    with open_set(tmp_path / "told.h5") as stored:
        assert [(row.thickness, row.frame, row.flaws) for row in stored.cases] == [
            (5.0, "f00d", "uneven gaps"),
            (0.0, "", ""),
        ]
        on_disk = list(stored)
    streamed = list(StreamReader(io.BytesIO(as_stream(tmp_path / "told.h5")), "stream"))
    for ours, disk, stream in zip((told, plain), on_disk, streamed, strict=True):
        assert_same_case(ours, disk)
        assert_same_case(ours, stream)


def test_a_set_written_before_thickness_was_kept_is_read_and_keeps_its_digest(make_set: Callable[..., Path]) -> None:
    path = make_set(count=2)
    with h5py.File(path, "a") as file:
        for name in ("thickness", "frame", "frame_ends", "flaws", "flaws_ends"):
            del file[f"case/{name}"]
    with open_set(path) as reader:
        digest = ContentDigest(reader.header)
        for case in reader:
            assert (case.thickness, case.frame, case.flaws) == (0.0, "", "")
            assert not {"thickness", "frame", "flaws"} & set(case.facts())
            digest.add(case)
        assert digest.tail(reader.tail.inputs) == reader.tail


def test_positions_run_along_the_normal() -> None:
    tilted = (0.0, -0.6, 0.8, 0.0, 0.8, 0.6, 1.0, 0.0, 0.0)
    case = Case("c", {"label": np.zeros(3)}, spacing=(2.5, 1, 1), origin=(7.0, -1.0, 2.0), direction=tilted)
    np.testing.assert_allclose(case.positions, [2.2, 4.7, 7.2])  # (-1)(-0.6) + 2 (0.8) = 2.2


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.7, 0.999])
def test_a_stream_cut_anywhere_is_truncated(make_set: Callable[..., Path], keep: float) -> None:
    data = as_stream(make_set())
    with pytest.raises(DataError, match=r"truncated|not a medgen set"):
        list(StreamReader(io.BytesIO(data[: int(len(data) * keep)]), "stream"))


def test_an_empty_pipe_is_called_empty() -> None:
    with pytest.raises(DataError, match="is empty; the command before it in the pipe may have failed"):
        StreamReader(io.BytesIO(b""), "standard input")


def test_an_hdf5_set_in_a_pipe_is_named_as_such(make_set: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="an HDF5 set, which no pipe can carry; give the name of its file"):
        StreamReader(io.BytesIO(make_set().read_bytes()), "standard input")


def test_two_streams_laid_end_to_end_are_refused(make_set: Callable[..., Path]) -> None:
    data = as_stream(make_set())
    with pytest.raises(DataError, match="medgen merge"):
        list(StreamReader(io.BytesIO(data + data), "stream"))


@pytest.mark.parametrize("garbage", [b"", b"abc", b"\x00" * 64, b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}", b"\x89PNG" * 9])
def test_garbage_is_named_not_believed(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "garbage"
    path.write_bytes(garbage)
    with pytest.raises(DataError, match="garbage"), open_set(path) as reader:
        list(reader)


def test_a_huge_stated_array_in_a_stream_is_an_error_not_an_allocation(make_set: Callable[..., Path]) -> None:
    data = as_stream(make_set(count=1))
    with pytest.raises(DataError):
        list(StreamReader(io.BytesIO(data.replace(b"[2,1,16,16]", b"[9,9,96,96]", 1)), "stream"))


def test_a_flipped_bit_on_disk_is_seen(make_set: Callable[..., Path]) -> None:
    path = make_set(count=1, depth=1, fields=0)
    with open_set(path) as reader:
        content = reader.case(0)["image"].tobytes()
    data = bytearray(path.read_bytes())
    place = data.find(content)
    assert place > 0
    data[place + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged"), open_set(path) as reader:
        list(reader)


def test_a_truncated_file_and_an_unfinished_one_are_refused(make_set: Callable[..., Path], tmp_path: Path) -> None:
    path = make_set()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="truncated"), open_set(path):
        pass
    path.write_bytes(whole)
    with h5py.File(path, "a") as file:
        del file.attrs["complete"]
    with pytest.raises(DataError, match="incomplete"), open_set(path):
        pass
    with pytest.raises(InputMissingError, match="no such file"), open_set(tmp_path / "missing.h5"):
        pass


def test_cases_of_another_shape_are_named(tmp_path: Path) -> None:
    header = SetHeader(kind="image", provenance=derive("preprocess", {}, sources="s"))
    with pytest.raises(DataError, match=r"case b: .*--size"), create_set(tmp_path / "set.h5", header) as writer:
        writer.write(Case("a", {"image": np.zeros((1, 1, 4, 4), np.int16)}))
        writer.write(Case("b", {"image": np.zeros((1, 1, 4, 5), np.int16)}))
    assert list(tmp_path.iterdir()) == []  # nothing half-written stays


def test_an_existing_output_is_kept(make_set: Callable[..., Path]) -> None:
    path = make_set()
    before = path.read_bytes()
    header = SetHeader(kind="image", provenance=derive("preprocess", {}, sources="s"))
    with pytest.raises(OutputError, match="--force"), create_set(path, header):
        pass
    assert path.read_bytes() == before


def test_text_that_begins_late_lands_on_its_own_slices(tmp_path: Path) -> None:
    header = SetHeader(kind="image", provenance=derive("preprocess", {}, sources="s"))
    image = np.zeros((2, 1, 4, 4), np.int16)
    with create_set(tmp_path / "set.h5", header) as writer:
        writer.write(Case("a", {"image": image}))
        writer.write(Case("b", {"image": image}, text=("one", "two")))
        writer.write(Case("c", {"image": image}))
    with open_set(tmp_path / "set.h5", random_access=True) as stored:
        assert isinstance(stored, StoredSet)
        assert stored.texts("text") == ["", "", "one", "two", "", ""]
        assert [case.text for case in stored] == [(), ("one", "two"), ()]


@given(st.floats(-1, 1), st.integers(0, 3))
def test_intensity_goes_there_and_back(value: float, which: int) -> None:
    intensity = [
        Intensity(),
        Intensity(scale=1.0, offset=0.0, unit="intensity", window=(0.0, 255.0)),
        Intensity(scale=0.5, offset=-1024.0, window=(-160.0, 240.0)),
        Intensity(scale=2.0, offset=100.0, window=(100.0, 3000.0)),
    ][which]
    stored = intensity.stored(np.array([value]), np.int16)
    step = 2 * intensity.scale / (intensity.window[1] - intensity.window[0])
    assert abs(float(intensity.normalized(stored)[0]) - value) <= step / 2 + 1e-5


def test_provenance_forgets_nothing_and_knows_no_clock() -> None:
    first = derive("preprocess", {"size": 64}, seed=1, sources="source-1")

    class Input:
        provenance = first

        def digests(self) -> dict[str, str]:
            return {first.id: "d"}

    second = derive("extract-latents", {}, inputs=[Input()])
    assert [step.command for step in second.steps] == ["preprocess", "extract-latents"]
    assert second.steps[-1].inputs == (first.id,)
    assert derive("preprocess", {"size": 64}, seed=1, sources="source-1") == first
    assert derive("preprocess", {"size": 65}, seed=1, sources="source-1").id != first.id


def test_one_split_is_a_set_of_its_own(make_set: Callable[..., Path]) -> None:
    with open_set(make_set(count=7, depth=2), random_access=True) as stored:
        view = stored.only("val")  # every third case
        assert [row.id for row in view.cases] == ["case2", "case5"]
        assert (len(view), view.slices, [row.start for row in view.cases]) == (2, 4, [0, 2])
        np.testing.assert_array_equal(view.read("image", [3, 0]), stored.read("image", [11, 4]))
        np.testing.assert_array_equal(view.column("vector"), stored.column("vector")[[4, 5, 10, 11]])
        assert_same_case(view.case(1), stored.case(5))
        assert view.digests() == stored.digests()
        with pytest.raises(DataError, match="no case in split 'test'"):
            stored.only("test")
