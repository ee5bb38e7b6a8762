"""PNG and JPG of every mode become grey or RGB, upright."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medgen.errors import DataError
from medgen.imaging.reading import raster
from medgen.imaging.reading.archive import Entry
from medgen.imaging.reading.formats import read, scan

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)


def load(path: Path) -> tuple[str, bool, np.ndarray]:
    entry = Entry(str(path), "", path.stat().st_size, 0, path.name)
    (facts,) = scan(entry, "", named=True)
    values = read(entry, "raster", (0,), hu=False)
    assert values.shape[:3] == (1, facts.rows, facts.columns)
    assert values.shape[3] == (3 if facts.colour else 1)
    return facts.kind, facts.colour, values[0]


def test_grey_and_colour(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "l.png")
    Image.fromarray(RGB).save(tmp_path / "rgb.png")
    assert np.array_equal(load(tmp_path / "l.png")[2][:, :, 0], GREY)
    kind, colour, values = load(tmp_path / "rgb.png")
    assert (kind, colour) == ("byte", True)
    assert np.array_equal(values, RGB)


def test_transparency_lies_on_black(tmp_path: Path) -> None:
    alpha = np.full((6, 8, 1), 255, np.uint8)
    alpha[0] = 0
    Image.fromarray(np.concatenate([RGB, alpha], axis=2)).save(tmp_path / "rgba.png")
    values = load(tmp_path / "rgba.png")[2]
    assert (values[0] == 0).all()
    assert np.array_equal(values[1:], RGB[1:])


def test_palettes_of_greys_stay_grey(tmp_path: Path) -> None:
    image = Image.fromarray(GREY).convert("P")
    image.putpalette([value for level in range(256) for value in (level, level, level)])
    image.save(tmp_path / "p.png")
    _, colour, values = load(tmp_path / "p.png")
    assert not colour
    assert np.array_equal(values[:, :, 0], GREY)
    image.putpalette([value for level in range(256) for value in (level, 0, 255 - level)])
    image.save(tmp_path / "c.png")
    assert load(tmp_path / "c.png")[1]


def test_16_and_1_bit(tmp_path: Path) -> None:
    wide = GREY.astype(np.uint16) * 250
    Image.fromarray(wide).save(tmp_path / "wide.png")
    kind, _, values = load(tmp_path / "wide.png")
    assert kind == "other"
    assert np.array_equal(values[:, :, 0], wide)
    Image.fromarray(GREY > 100).save(tmp_path / "bits.png")
    assert np.array_equal(load(tmp_path / "bits.png")[2][:, :, 0], (GREY > 100) * 255)


def test_the_orientation_tag_is_obeyed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    Image.fromarray(GREY).save(tmp_path / "turned.png", exif=exif)
    values = load(tmp_path / "turned.png")[2][:, :, 0]
    assert np.array_equal(values, np.rot90(GREY, -1))


def test_too_many_pixels_and_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[:-40])
    with pytest.raises(DataError, match=r"cut\.png"):
        load(tmp_path / "cut.png")
    (tmp_path / "text.png").write_bytes(b"no image" * 40)
    with pytest.raises(DataError, match=r"text\.png: not a readable image"):
        load(tmp_path / "text.png")
    monkeypatch.setattr(raster, "MAX_PIXELS", 40)
    with pytest.raises(DataError, match="too many"):
        load(tmp_path / "a.png")
