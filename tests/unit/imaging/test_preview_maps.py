"""Six panels a slice: what was there, what would be normal, and where they differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.errors import DataError
from medgen.imaging.pictures.contact_sheet import Scale, draw_sheet
from medgen.imaging.pictures.options import PreviewOptions
from medgen.imaging.pictures.preview_maps import LEGEND, PALETTE, PANELS, as_heat, make_map_tiles


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Nine cases with one lesion each, whose map is brighter from case to case."""
    path = tmp_path / "maps.h5"
    header = SetHeader(
        "map", derive("anomaly-map", {}), Intensity(window=(0.0, 100.0)), label_names=("caries", "normal")
    )
    with create_set(path, header) as writer:
        for number in range(9):
            mask = np.zeros((1, 1, 24, 24), np.uint8)
            mask[..., 8:14, 8:14] = 1
            image = np.full((1, 1, 24, 24), 50, np.int16)
            arrays = {
                "image": image - 40 * mask.astype(np.int16),
                "normalized": image,
                "map": np.repeat(mask, 4, axis=1)
                * np.float32(number + 1)
                * np.array([1, 2, 3, 4], np.float32)[:, None, None],
                "mask": mask,
                "label": np.array([number % 2]),
                "score": np.array([number / 4], np.float32),
            }
            writer.write(Case(f"case-{number}", arrays, "test" if number else "val"))
    return path


def test_colours_rise_in_brightness_from_zero_to_the_highest() -> None:
    brightness = PALETTE.astype(float) @ (0.299, 0.587, 0.114)
    assert (np.diff(brightness) > -1e-9).all()
    assert brightness[0] < 3
    assert brightness[-1] > 230
    heat = as_heat(np.array([[-5.0, 0.0, 1.0, 2.0, 9.0, np.nan]], np.float32), 2.0)
    np.testing.assert_array_equal(heat[0, [0, 1, 5]], np.repeat(PALETTE[:1], 3, axis=0))
    np.testing.assert_array_equal(heat[0, [3, 4]], np.repeat(PALETTE[-1:], 2, axis=0))
    np.testing.assert_array_equal(heat[0, 2], PALETTE[128])


def test_a_slice_has_its_six_panels_and_they_share_a_scale(maps: Path) -> None:
    with open_set(maps, random_access=True) as stored:
        tiles = make_map_tiles(stored, PreviewOptions(limit=20, scale=1.0))
    assert len(tiles) == 3 * PANELS
    original, version, pixel, gradient, laplacian, total = tiles[-PANELS:]
    assert original.lines[1] == "normal, score 1.75"
    assert original.picture[10, 10] < version.picture[10, 10] == version.picture[2, 2]
    assert [tile.lines[0] for tile in (version, pixel, gradient, laplacian, total)] == [
        "normal version", "pixels", "gradients", "Laplacians", "map",
    ]  # fmt: skip
    # The brightest of three cases, 1 + 7 in the last one, sets the scale of its channel for all.
    assert [tile.lines[1] for tile in (pixel, gradient, laplacian, total)] == [
        "0 to 8",
        "0 to 16",
        "0 to 24",
        "0 to 32",
    ]
    np.testing.assert_array_equal(pixel.picture[10, 10], PALETTE[-1])
    assert tiles[2].picture[10, 10].sum() < pixel.picture[10, 10].sum()
    assert original.outline is not None
    assert total.outline is not None
    assert pixel.outline is None
    assert original.outline.sum() == 24  # the pixels around 6 x 6, without the corners


def test_limit_split_and_marks_are_kept(maps: Path) -> None:
    with open_set(maps, random_access=True) as stored:
        few = make_map_tiles(stored, PreviewOptions(limit=1))
        assert len(few) == PANELS
        held_out = make_map_tiles(stored, PreviewOptions(limit=100, split="val", marks=False))
        assert [tile.case for tile in held_out] == ["case-0/0"] * PANELS
        assert all(tile.outline is None for tile in held_out)
        with pytest.raises(DataError, match="no case is in split 'train'"):
            make_map_tiles(stored, PreviewOptions(split="train"))
        sheets = [draw_sheet(few, "title", PANELS, scale) for scale in (None, Scale(LEGEND, PALETTE))]
    assert sheets[0] != sheets[1]
