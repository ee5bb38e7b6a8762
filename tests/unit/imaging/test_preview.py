"""Which slices a contact sheet shows, that they are shown as they are, and where the marks stand."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.artifacts.stored import CaseRow
from medgen.errors import DataError
from medgen.imaging.pictures.contact_sheet import GAP, MARK, OUTLINE, Mark, Tile, default_columns, draw_sheet
from medgen.imaging.pictures.options import PreviewOptions
from medgen.imaging.pictures.preview import (
    captions,
    choose,
    images_as_shown,
    latents_as_colours,
    make_tiles,
    mark_of,
    title,
)

NODULE = ("has_nodule", "x", "y", "size", "malignancy", "texture")


def rows_of(*counts: int, split: str = "train") -> list[CaseRow]:
    starts = np.cumsum([0, *counts])
    straight = (0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0)
    return [
        CaseRow(f"c{i}", split, int(start), count, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), straight)
        for i, (start, count) in enumerate(zip(starts, counts, strict=False))
    ]


def write(path: Path, *cases: Case, kind: Any = "image", fields: tuple[str, ...] = ()) -> Path:
    intensity = None if kind == "latent" else Intensity()
    with create_set(path, SetHeader(kind, derive("generate", {}, seed=0), intensity, vector_fields=fields)) as writer:
        for case in cases:
            writer.write(case)
    return path


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 40))
def test_never_more_than_the_limit_never_twice_always_in_order(counts: list[int], limit: int) -> None:
    spots = choose(rows_of(*counts), PreviewOptions(limit=limit))
    indices = [spot.index for spot in spots]
    assert len(spots) <= limit
    assert indices == sorted(set(indices))
    assert bool(spots) == any(counts)
    for spot in spots:
        assert 0 <= spot.slice < spot.row.count
        assert spot.index == spot.row.start + spot.slice


def test_every_case_is_seen_and_the_middle_is_what_one_tile_shows() -> None:
    spots = choose(rows_of(9, 5, 21), PreviewOptions(limit=3))
    assert [(spot.row.id, spot.slice) for spot in spots] == [("c0", 4), ("c1", 2), ("c2", 10)]
    many = choose(rows_of(*[3] * 100), PreviewOptions(limit=10))
    assert [spot.row.id for spot in many] == [f"c{i}" for i in range(5, 100, 10)]


def test_slices_with_findings_come_first() -> None:
    findings = np.zeros(20, bool)
    findings[[3, 4, 5, 6]] = True
    assert [spot.slice for spot in choose(rows_of(20), PreviewOptions(limit=2), findings)] == [4, 6]
    six = [spot.slice for spot in choose(rows_of(20), PreviewOptions(limit=6), findings)]
    assert set(six) > {3, 4, 5, 6}
    assert len(six) == 6
    assert [spot.slice for spot in choose(rows_of(20), PreviewOptions(limit=1), np.zeros(20, bool))] == [10]


def test_images_are_windowed_and_latents_centred() -> None:
    hu = np.array([-2000, -1000, -300, 400, 3000], np.int16).reshape(1, 1, 1, 5)
    assert images_as_shown(hu, Intensity())[0, 0].tolist() == [0, 0, 128, 255, 255]
    assert images_as_shown(np.array([[[[2.0, 4.0, np.nan]]]]), None)[0, 0].tolist() == [0, 255, 0]
    latents = np.random.default_rng(0).normal(3.0, 2.0, (4, 8, 16, 16)).astype(np.float32)
    colours = latents_as_colours(latents)
    assert colours.shape == (4, 16, 16, 3)
    assert np.abs(colours.mean(axis=(0, 1, 2)) - 127.5).max() < 3
    one = latents_as_colours(latents[:, :1])
    assert (one[..., 0] == one[..., 1]).all()


def test_marks_and_captions_follow_the_vector() -> None:
    vector = np.array([1, 0.25, 0.5, 0.1, 0.75, 1.0], np.float32)
    assert mark_of(NODULE, vector) == Mark(0.25, 0.5, pytest.approx(0.1))
    assert mark_of(NODULE, np.zeros(6, np.float32)) is None
    assert mark_of(("age",), np.ones(1, np.float32)) is None
    spot = choose(rows_of(9), PreviewOptions(limit=1))[0]
    assert captions(spot, NODULE, vector, "") == ["c0  slice 4", "x 0.25 y 0.50 size 0.10", "mal 0.75 tex 1.00"]
    assert captions(spot, NODULE, np.zeros(6, np.float32), "") == ["c0  slice 4", "healthy"]
    assert captions(choose(rows_of(1), PreviewOptions())[0], (), None, "a caption") == ["c0", "a caption"]


def sheet_of(tiles: list[Tile], columns: int | None = None) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(draw_sheet(tiles, "a title", columns))))


def test_pictures_stand_on_the_sheet_pixel_for_pixel() -> None:
    rng = np.random.default_rng(0)
    tiles = [Tile(rng.integers(0, 256, (40, 50), dtype=np.uint8), ["one", "two"]) for _ in range(5)]
    sheet = sheet_of(tiles, columns=3)
    grey = sheet[..., 0].astype(int)
    for tile in tiles:
        spots = [
            (y, x)
            for y in range(sheet.shape[0] - 40)
            for x in range(GAP, sheet.shape[1] - 50, 58)
            if (grey[y : y + 40, x : x + 50] == tile.picture).all()
        ]
        assert len(spots) == 1


def test_the_mark_surrounds_its_place_and_the_outline_is_drawn() -> None:
    outline = np.zeros((100, 100), bool)
    outline[10, 10:20] = True
    tile = Tile(np.zeros((100, 100), np.uint8), outline=outline, mark=Mark(0.7, 0.4, 0.2))
    sheet = sheet_of([tile])
    rows, columns = np.nonzero((sheet == MARK).all(axis=2))
    cyan_rows, cyan_columns = np.nonzero((sheet == OUTLINE).all(axis=2))
    assert len(cyan_rows) == 10
    top, left = int(cyan_rows.min()) - 10, int(cyan_columns.min()) - 10
    assert (columns.min() + columns.max()) / 2 - left == pytest.approx(70, abs=1)
    assert (rows.min() + rows.max()) / 2 - top == pytest.approx(40, abs=1)
    assert columns.max() - columns.min() == pytest.approx(20 + 8, abs=2)  # the box, and 4 pixels of air to each side
    inside = (np.abs(columns - left - 70) < 12) & (np.abs(rows - top - 40) < 12)
    assert not inside.any()


def test_columns_keep_cases_together() -> None:
    def tiles(cases: int, each: int) -> list[Tile]:
        return [Tile(np.zeros((4, 4), np.uint8), case=str(case)) for case in range(cases) for _ in range(each)]

    assert default_columns(tiles(6, 5)) % 5 == 0
    assert default_columns(tiles(4, 4)) == 4
    assert 5 <= default_columns(tiles(32, 1)) <= 8
    assert default_columns(tiles(1, 1)) == 1


def test_a_whole_set_becomes_tiles(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vector = np.zeros((6, 6), np.float32)
    vector[2] = [1, 0.5, 0.5, 0.25, 0.5, 0.5]
    mask = np.zeros((6, 1, 32, 32), np.uint8)
    mask[2, 0, 12:20, 12:20] = 1
    arrays = {"image": rng.integers(-1000, 400, (6, 1, 32, 32)).astype(np.int16), "vector": vector, "mask": mask}
    path = write(tmp_path / "set.h5", Case("case", arrays, spacing=(5.0, 2.0, 1.0)), fields=NODULE)
    with open_set(path, random_access=True) as stored:
        (tile,) = make_tiles(stored, PreviewOptions(limit=1, scale=2.0))
        assert tile.picture.shape == (128, 64)  # pixels twice as high as wide
        assert tile.mark == Mark(0.5, 0.5, 0.25)
        assert tile.outline is not None
        ys, xs = np.nonzero(tile.outline)
        assert (ys.min(), ys.max(), xs.min(), xs.max()) == (47, 80, 23, 40)  # just outside rows 48-79, columns 24-39
        assert tile.lines[0] == "case  slice 2"
        (bare,) = make_tiles(stored, PreviewOptions(limit=1, marks=False))
        assert (bare.mark, bare.outline) == (None, None)
        assert title(stored) == "image set by generate · 1 case, 6 slices · window -1000 to 400 HU"
        with pytest.raises(DataError, match="no case is in split 'test'"):
            make_tiles(stored, PreviewOptions(split="test"))


def test_latents_are_shown_too(tmp_path: Path) -> None:
    latent = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
    path = write(tmp_path / "z.h5", Case("case", {"latent": latent}), kind="latent")
    with open_set(path, random_access=True) as stored:
        tiles = make_tiles(stored, PreviewOptions())
        assert [tile.picture.shape for tile in tiles] == [(192, 192, 3)] * 2
        assert "red, green, blue" in title(stored)
