"""Panoramic X-rays: the files are what an independent reader expects, and the truth agrees with the pixels."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec
import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image
from scipy import ndimage

from medgen.errors import ConfigError
from medgen.phantoms.dental.dental_xray import FOLDERS, LABEL_FIELDS, LESION_FIELDS, draw, write_case
from medgen.phantoms.dental.dentition import Dentition
from medgen.phantoms.dental.files import MAKERS, image_file
from medgen.phantoms.dental.teeth import maps_of
from medgen.phantoms.options import DentalOptions
from medgen.phantoms.pictures import Rows

KINDS = ("caries", "periapical", "bone-loss", "fracture")
SMALL = DentalOptions(size=96, view="half", healthy_fraction=0.0)


def make(folder: Path, index: int = 0, options: DentalOptions = SMALL) -> Rows:
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    return write_case(options, index, folder)


def pixels_of(file: Path) -> np.ndarray:
    """As SimpleITK reads it: it turns MONOCHROME1 over."""
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file))).squeeze().astype(np.float64)


def test_same_seed_same_bytes_whatever_else_is_made(tmp_path: Path) -> None:
    rows = make(tmp_path / "a", 3)
    make(tmp_path / "b", 1)
    assert make(tmp_path / "b", 3) == rows
    for name in ("dicom/case-0003.dcm", "masks/case-0003.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    make(tmp_path / "c", 3, msgspec.structs.replace(SMALL, seed=1))
    assert (tmp_path / "a/dicom/case-0003.dcm").read_bytes() != (tmp_path / "c/dicom/case-0003.dcm").read_bytes()


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.model)
def test_an_independent_reader_gets_the_grey_values_of_every_maker(maker: object, tmp_path: Path) -> None:
    image = np.linspace(0.0, 1.0, 48 * 64, dtype=np.float32).reshape(48, 64)
    for seed in range(4):  # each of its transfer syntaxes
        content = image_file(np.random.default_rng(seed), maker, "PHANTOM-0000", ("x", seed), image, 0.4)  # type: ignore[arg-type]
        (tmp_path / "x.dcm").write_bytes(content)
        header = pydicom.dcmread(tmp_path / "x.dcm")
        stored = header.pixel_array.astype(np.float64) / (2**header.BitsStored - 1)
        grey = 1.0 - stored if header.PhotometricInterpretation == "MONOCHROME1" else stored
        np.testing.assert_allclose(grey, image, atol=0.51 / (2**header.BitsStored - 1) + 1e-6)
        assert header.Modality in ("PX", "DX")
        assert [float(value) for value in header.ImagerPixelSpacing] == [0.4, 0.4]
        shown = pixels_of(tmp_path / "x.dcm") / (2**header.BitsStored - 1)
        np.testing.assert_allclose(shown, grey, atol=1e-9)


def test_both_photometric_interpretations_and_all_depths_occur() -> None:
    assert {maker.inverted for maker in MAKERS} == {True, False}
    assert {maker.bits for maker in MAKERS} == {8, 12, 14, 16}


@pytest.mark.parametrize("kind", KINDS)
def test_a_lesion_darkens_its_mask_and_nothing_far_away(kind: str) -> None:
    """The healthy case of the same seed is the same person and the same noise."""
    options = msgspec.structs.replace(SMALL, size=160, lesions=(kind,), severity=(0.6, 1.0))
    seen = 0
    for index in range(4):
        ill = draw(options, index)
        well = draw(msgspec.structs.replace(options, healthy_fraction=1.0), index)
        assert ill.kind == kind
        assert (well.kind, len(well.lesions), int(well.mask.sum())) == ("normal", 0, 0)
        change = ndimage.gaussian_filter(well.image - ill.image, 0.7)
        assert change[ill.mask].mean() > 0.02
        far = ~ndimage.binary_dilation(ill.mask, iterations=int(16.0 / ill.pixel if kind == "fracture" else 8))
        assert np.abs(change[far]).max(initial=0.0) < 1e-3
        seen += int(ill.mask.sum())
    assert 0.0003 < seen / 4 / ill.image.size < 0.1


def test_severity_makes_lesions_larger() -> None:
    areas = [
        np.mean([draw(msgspec.structs.replace(SMALL, severity=(s, s), count=(1, 1)), i).mask.sum() for i in range(8)])
        for s in (0.0, 1.0)
    ]
    assert areas[1] > 1.3 * areas[0]


def test_tables_agree_with_the_masks(tmp_path: Path) -> None:
    options = msgspec.structs.replace(SMALL, healthy_fraction=0.4)
    kinds = set()
    for index in range(10):
        rows = make(tmp_path, index, options)
        mask = np.asarray(Image.open(tmp_path / f"masks/case-{index:04d}.png"))
        assert set(np.unique(mask)) <= {0, 255}
        (label,) = rows["labels.csv"]
        assert label[2] == int(mask.any()) == int(label[1] != "normal")
        assert label[3] == len(rows["lesions.csv"])
        kinds.add(label[1])
        union = np.zeros(mask.shape, bool)
        for row in rows["lesions.csv"]:
            lesion = dict(zip(LESION_FIELDS, row, strict=True))
            x, y, width, height = (float(str(lesion[name])) * 96 for name in ("x", "y", "width", "height"))
            box = np.s_[round(y - height / 2) : round(y + height / 2), round(x - width / 2) : round(x + width / 2)]
            assert mask[box].any(axis=1).all()
            assert mask[box].any(axis=0).all()
            assert lesion["kind"] == label[1]
            union[box] = True
        assert not mask[~union].any()
    assert "normal" in kinds
    assert len(kinds) > 2


def test_files_are_read_with_dense_bright_whatever_the_maker(tmp_path: Path) -> None:
    for index in range(6):
        make(tmp_path, index)
        header = pydicom.dcmread(tmp_path / f"dicom/case-{index:04d}.dcm")
        stored = header.pixel_array.astype(np.float64)
        sign = -1.0 if header.PhotometricInterpretation == "MONOCHROME1" else 1.0
        assert sign * np.corrcoef(stored.ravel(), draw(SMALL, index).image.ravel())[0, 1] > 0.999


@pytest.mark.parametrize(("view", "shape"), [("full", (64, 128)), ("half", (64, 64))])
def test_views_have_square_pixels_over_the_same_height(view: str, shape: tuple[int, int]) -> None:
    panoramic = draw(DentalOptions(size=64, view=view), 0)  # type: ignore[arg-type]
    assert panoramic.image.shape == shape
    assert panoramic.pixel == pytest.approx(105.0 / 64)
    assert 0.0 <= panoramic.image.min() < panoramic.image.max() <= 1.0


def test_one_person_at_any_size() -> None:
    small, large = (draw(DentalOptions(size=size, healthy_fraction=1.0, seed=4), 2).image for size in (64, 256))
    merged = large.reshape(64, 4, 128, 4).mean(axis=(1, 3))
    assert np.corrcoef(small.ravel(), merged.ravel())[0, 1] > 0.97


def test_people_and_their_teeth_differ() -> None:
    images = [draw(DentalOptions(size=64, healthy_fraction=1.0), index).image for index in range(4)]
    for first in range(4):
        for second in range(first):
            assert np.abs(images[first] - images[second]).mean() > 0.02
    rows = [Dentition.draw(np.random.default_rng(seed)) for seed in range(60)]
    repairs = {repair for row in rows for tooth in row.present for repair in tooth.repairs}
    assert repairs == {"amalgam", "composite", "crown", "root-canal"}
    assert any(tooth.screw for row in rows for tooth in row.present)
    assert any(tooth.absent for row in rows for tooth in row.teeth)
    assert all(
        {tooth.number for tooth in row.teeth} == {q * 10 + n for q in range(1, 5) for n in range(1, 9)} for row in rows
    )


def test_a_tooth_has_its_crown_in_the_mouth_and_its_pulp_inside() -> None:
    for tooth in Dentition.draw(np.random.default_rng(1)).present:
        places = np.arange(-32.0, 32.0, 0.25, dtype=np.float32)
        x, y = np.broadcast_arrays(places[None, :] + np.float32(tooth.x), places[:, None] + np.float32(tooth.y))
        maps = maps_of(tooth, x, y)
        inside = maps.whole < 0
        assert maps.t[inside].min() > -0.5
        assert maps.t[inside].max() == pytest.approx(tooth.length, abs=1.0)
        crown = (maps.crown < 0) & (maps.t < tooth.crown - 0.5)
        assert inside[crown].mean() > 0.99
        assert inside[(maps.pulp < 0) & (maps.t > 0.3 * tooth.crown)].mean() > 0.9
        end = tooth.place(0.0, tooth.length)
        assert np.sign(end[1] - tooth.y) == tooth.up


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="smaller number first"):
        DentalOptions(severity=(0.8, 0.2))
    with pytest.raises(ConfigError, match="at least one kind"):
        DentalOptions(lesions=())


def test_columns_are_the_contract() -> None:
    assert next(csv.reader([",".join(LABEL_FIELDS)])) == ["case", "label", "abnormal", "lesions"]
