"""What a worker makes of the slices of a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medgen.errors import DataError
from medgen.imaging.cases.intensity import plan_encoding
from medgen.imaging.cases.work import Piece, ReadTask, Slab, read
from medgen.imaging.geometry import PlaneMap, plan_plane
from medgen.imaging.reading.archive import enumerate_sources
from medgen.imaging.reading.formats import scan

WriteSlice = Callable[..., Path]
HU = np.array([[-1000, 0, 40], [300, 700, -1000]], np.int16)


def task_of(path: Path, **changes: object) -> ReadTask:
    (entry,) = enumerate_sources([str(path)]).entries
    (facts,) = scan(entry, "")
    size = facts.rows, facts.columns
    task = ReadTask(
        case=0,
        last=True,
        pieces=(Piece(entry, facts.format, (0,), (), facts.plain),),
        plane=plan_plane(size, (1.0, 1.0), size=None, keep_aspect=True, spacing=None),
        spacing=(1.0, 1.0),
        encoding=plan_encoding(facts.kind, "auto"),
        channels=1,
        hu=facts.kind == "hu",
        mask_classes=None,
        mask_background=False,
        keep_physical=False,
        nameless=False,
    )
    return replace(task, **changes)  # type: ignore[arg-type]


def test_equal_values_have_one_digest_and_are_stored_alike_however_they_were_written(
    write_slice: WriteSlice, tmp_path: Path
) -> None:
    shifted = write_slice(tmp_path / "a.dcm", (HU + 1024).astype(np.uint16), RescaleIntercept=-1024)
    halved = write_slice(tmp_path / "b.dcm", HU * 2, RescaleSlope=0.5)
    padded = write_slice(tmp_path / "c.dcm", np.where(HU == -1000, -2000, HU).astype(np.int16), PixelPaddingValue=-2000)
    shown_inverted = write_slice(tmp_path / "d.dcm", HU, PhotometricInterpretation="MONOCHROME1")  # HU all the same
    other = write_slice(tmp_path / "e.dcm", HU + 1)
    slabs = [read(task_of(path)) for path in (shifted, halved, padded, shown_inverted)]
    for slab in slabs:
        assert slab.values.dtype == np.int16
        assert np.array_equal(slab.values[0, 0], HU)
        assert (slab.digests, slab.identity) == (slabs[0].digests, b"")
    assert read(task_of(other)).digests != slabs[0].digests


def test_values_beyond_16_bits_are_clipped_and_told_apart(write_slice: WriteSlice, tmp_path: Path) -> None:
    high = write_slice(tmp_path / "a.dcm", np.array([[65535, 40000]], np.uint16))
    higher = write_slice(tmp_path / "b.dcm", np.array([[65535, 40001]], np.uint16))
    slabs = [read(task_of(path)) for path in (high, higher)]
    assert all(slab.values.tolist() == [[[[32767, 32767]]]] for slab in slabs)
    assert slabs[0].digests != slabs[1].digests


def test_what_needs_the_whole_case_stays_float(write_slice: WriteSlice, tmp_path: Path) -> None:
    slab = read(task_of(write_slice(tmp_path / "a.dcm", HU), keep_physical=True))
    assert slab.values.dtype == np.float32
    assert np.array_equal(slab.values[0, 0], HU)


@pytest.mark.parametrize("nameless", [False, True])
def test_pixels_stand_for_the_patient_only_where_nobody_tells(tmp_path: Path, nameless: bool) -> None:
    one, same, other = (tmp_path / name for name in ("a.png", "b.bmp", "c.png"))
    for path, value in ((one, 7), (same, 7), (other, 8)):
        Image.fromarray(np.full((4, 5), value, np.uint8)).save(path)
    slabs: list[Slab] = [read(task_of(path, nameless=nameless)) for path in (one, same, other)]
    assert slabs[0].digests == slabs[1].digests != slabs[2].digests
    assert (slabs[0].identity == slabs[1].identity != slabs[2].identity) == nameless


def test_a_slice_too_large_for_the_memory_is_a_fault_of_its_file(
    write_slice: WriteSlice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(write_slice(tmp_path / "a.dcm", HU))

    def exhaust(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(PlaneMap, "image", exhaust)
    with pytest.raises(DataError, match=r"a\.dcm: too large for the memory that is free \(no room\)"):
        read(task)
