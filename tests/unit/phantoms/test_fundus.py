"""Photographs of the retina: the truth agrees with the pixels, and the anatomy with that of eyes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medgen.errors import ConfigError
from medgen.phantoms.fundus.eye import Eye, FundusView
from medgen.phantoms.fundus.fundus import CLASSES, FOLDERS, draw, write_case
from medgen.phantoms.options import FundusOptions
from medgen.phantoms.pictures import BOX_FIELDS, Rows

SMALL = FundusOptions(size=96, healthy_fraction=0.0)
HEALTHY = msgspec.structs.replace(SMALL, healthy_fraction=1.0)
NEIGHBOURS = np.ones((3, 3), int)


def make(folder: Path, index: int, options: FundusOptions = SMALL) -> Rows:
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    return write_case(options, index, folder)


def test_same_seed_same_bytes_whatever_else_is_made(tmp_path: Path) -> None:
    rows = make(tmp_path / "a", 3)
    make(tmp_path / "b", 1)
    assert make(tmp_path / "b", 3) == rows
    for folder in FOLDERS:
        name = f"{folder}/patient-0001_00003.png"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    make(tmp_path / "c", 3, msgspec.structs.replace(SMALL, seed=1))
    name = "images/patient-0001_00003.png"
    assert (tmp_path / "a" / name).read_bytes() != (tmp_path / "c" / name).read_bytes()


@pytest.mark.parametrize("size", [64, 160])
def test_every_vessel_comes_from_the_disc(size: int) -> None:
    for index in range(6):
        labels = draw(msgspec.structs.replace(SMALL, size=size), index).labels
        vessels = labels == CLASSES.index("vessel")
        _, parts = ndimage.label(vessels | (labels == CLASSES.index("disc")), NEIGHBOURS)
        assert parts == 1
        assert 0.02 < vessels.mean() < 0.3


@pytest.mark.parametrize(
    ("kind", "sign"), [("microaneurysm", -1), ("haemorrhage", -1), ("exudate", 1), ("scar", 1), ("naevus", -1)]
)
def test_a_lesion_changes_its_mask_and_nothing_else(kind: str, sign: int) -> None:
    """The healthy photograph of the same seed is the same eye, exposure and noise."""
    options = msgspec.structs.replace(SMALL, size=160, lesions=(kind,))
    for index in range(5):
        ill = draw(options, index)
        well = draw(msgspec.structs.replace(options, healthy_fraction=1.0), index)
        assert (well.label, well.findings, ill.label) == ("normal", (), kind)
        mask = ill.labels == CLASSES.index(kind)
        np.testing.assert_array_equal(ill.labels[~mask], well.labels[~mask])
        change = (ill.image - well.image)[..., 1]  # in green, where blood is dark
        assert sign * change[mask].mean() > 0.02
        assert np.abs(change[~ndimage.binary_dilation(mask | (ill.labels == 2), NEIGHBOURS, 4)]).max() < 1e-3


def test_lesions_are_one_finding_each_and_the_caption_counts_them(tmp_path: Path) -> None:
    for index in range(8):
        picture, rows = draw(SMALL, index), make(tmp_path, index)
        (label,), (truth,), found = rows["labels.csv"], rows["truth.csv"], rows["findings.csv"]
        stored = np.asarray(Image.open(tmp_path / str(label[0]).replace("images", "masks")))
        np.testing.assert_array_equal(stored, picture.labels)
        patient = f"patient-{index // 2:04d}"
        assert label[:3] == (f"images/{patient}_{index:05d}.png", patient, picture.label)
        assert truth[1:5] == ("fundus", "eye", "left" if index % 2 else "right", picture.label)
        assert truth[6] == len(found) > 0
        union = np.zeros(stored.shape, bool)
        for row, finding in zip(found, picture.findings, strict=True):
            assert not (finding.mask & (stored != CLASSES.index(finding.kind))).any()
            union |= finding.mask
            assert finding.mask.any()
            assert float(str(row[2 + BOX_FIELDS.index("area")])) == pytest.approx(finding.mask.mean(), abs=1e-6)
        np.testing.assert_array_equal(union, stored > CLASSES.index("vessel"))


def test_the_disc_has_the_area_of_its_ellipse() -> None:
    for seed in range(5):
        eye = Eye.draw(np.random.default_rng(seed))
        grid = FundusView(eye.disc[0], eye.disc[1], 3.0, 0.9).grid(200)
        area = (eye.disc_distance(grid) < 0).sum() * grid.pixel**2
        assert area == pytest.approx(np.pi * eye.disc_radii[0] * eye.disc_radii[1], rel=0.02)


def test_the_disc_lies_nasally_which_is_right_in_a_right_eye() -> None:
    options = FundusOptions(size=64)
    columns = [np.nonzero(draw(options, index).labels == CLASSES.index("disc"))[1].mean() / 63 for index in range(16)]
    assert np.mean(columns[0::2]) > 0.55
    assert np.mean(columns[1::2]) < 0.45
    assert min(columns[0::2]) > 0.3
    assert max(columns[1::2]) < 0.7


def test_a_photograph_is_centred_on_what_is_asked() -> None:
    for centre, least, most in (("macula", 0.6, 1.0), ("disc", 0.3, 0.7)):
        options = FundusOptions(size=32, centre=centre)  # type: ignore[arg-type]
        discs = [draw(options, 2 * index).labels == CLASSES.index("disc") for index in range(4)]
        assert all(least < np.nonzero(disc)[1].mean() / 31 < most for disc in discs)


def test_one_eye_at_any_size() -> None:
    small, large = (draw(msgspec.structs.replace(HEALTHY, size=size), 5).image for size in (64, 256))
    merged = large.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(small - merged).mean() < 0.01


def test_outside_the_circle_all_is_black() -> None:
    picture = draw(SMALL, 0)
    assert picture.image[:4, :4].max() < 0.02
    assert not picture.labels[:4, :4].any()
    assert picture.image[40:56, 40:56, 0].mean() > 0.3
    assert 0.0 <= picture.image.min() < picture.image.max() <= 1.0


def test_no_kind_of_lesion_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one kind"):
        FundusOptions(lesions=())
