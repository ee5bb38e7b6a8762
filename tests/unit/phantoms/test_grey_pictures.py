"""Chest X-rays, OCT and brain MRI: images, masks and captions say the same."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
from scipy import ndimage

from medgen.errors import ConfigError
from medgen.phantoms.folder import MODULES
from medgen.phantoms.oct import Retina
from medgen.phantoms.options import KINDS, ChestXrayOptions, OCTOptions, PictureOptions
from medgen.phantoms.pictures import LabelledPicture, box

GREY = ("chest-xray", "oct", "brain-mri")


def kind_of(kind: str, size: int = 64, healthy: float = 0.0) -> tuple[ModuleType, PictureOptions]:
    name, options = MODULES[kind], KINDS[kind]
    made = options(size=size, healthy_fraction=healthy)  # type: ignore[call-arg]
    assert isinstance(made, PictureOptions)
    return importlib.import_module(name), made


def middle(picture: LabelledPicture) -> float:
    """Where the findings are across the picture: 0 left, 1 right."""
    mask = np.any([finding.mask for finding in picture.findings], axis=0)
    return float(np.nonzero(mask)[1].mean()) / (mask.shape[1] - 1)


@pytest.mark.parametrize("kind", GREY)
def test_findings_change_what_they_cover_and_the_caption_names_them(kind: str) -> None:
    module, options = kind_of(kind)
    labels = set()
    for index in range(3):
        ill = module.draw(options, index)
        well = module.draw(msgspec.structs.replace(options, healthy_fraction=1.0), index)
        assert (well.label, well.findings, well.caption.finding) == ("normal", (), "")
        assert ill.image.shape == ill.labels.shape == (64, 64)
        assert 0.0 <= ill.image.min() < ill.image.max() <= 1.0
        assert ill.label == ill.caption.finding
        labels.add(ill.label)
        mask = ill.labels == module.CLASSES.index(ill.label)
        np.testing.assert_array_equal(mask, np.any([finding.mask for finding in ill.findings], axis=0) & mask)
        change = ndimage.uniform_filter(np.abs(ill.image - well.image), 3)
        assert change[mask].mean() > max(0.015, 2.0 * change[~ndimage.binary_dilation(mask, iterations=6)].mean())
    assert len(labels) > 1 or kind == "brain-mri"


@pytest.mark.parametrize("kind", GREY)
def test_same_seed_same_bytes_whatever_else_is_made(kind: str, tmp_path: Path) -> None:
    module, options = kind_of(kind, size=32)
    for place, indices in (("a", (1,)), ("b", (0, 1))):
        for name in module.FOLDERS:
            (tmp_path / place / name).mkdir(parents=True)
        for index in indices:
            rows = module.write_case(options, index, tmp_path / place)
    assert set(rows) == set(module.TABLES)
    for table, columns in module.TABLES.items():
        assert all(len(row) == len(columns) for row in rows[table])
    first, second = (sorted((tmp_path / place).rglob("*_00001.png")) for place in "ab")
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert len(first) == 2


@pytest.mark.parametrize("kind", ["chest-xray", "brain-mri"])
def test_the_patients_left_is_shown_on_the_right(kind: str) -> None:
    module, options = kind_of(kind, size=32)
    sides = set()
    for index in range(6):
        picture = module.draw(options, index)
        sides.add(picture.caption.side)
        assert (middle(picture) > 0.5) == (picture.caption.side == "left")
    assert sides == {"left", "right"}


def test_nerve_fibres_thicken_towards_the_nose_which_is_right_in_a_right_eye() -> None:
    x = np.linspace(-3.0, 3.0, 61, dtype=np.float32)[None, :]
    for seed in range(3):
        fibres = Retina.draw(np.random.default_rng(seed), x, x.T).shares[0][0]
        assert fibres[45:].min() > 4.0 * fibres[:16].max()
    module, options = kind_of("oct", size=128, healthy=1.0)
    for index in range(4):
        picture = module.draw(options, index)
        assert picture.caption.side == ("right" if index % 2 == 0 else "left")
        tops = (picture.labels == 1).argmax(axis=0)  # the bright first layer begins there
        bright = np.array([picture.image[top : top + 5, column].mean() for column, top in enumerate(tops)])
        assert (bright[88:116].mean() > bright[12:40].mean() + 0.02) == (index % 2 == 0)


def test_an_oct_has_as_many_findings_as_its_caption_counts() -> None:
    module, _ = kind_of("oct")
    for kind in ("cyst", "detachment", "druse"):
        for index in range(4):
            picture = module.draw(OCTOptions(size=128, healthy_fraction=0.0, lesions=(kind,)), index)
            assert len(picture.findings) == picture.caption.number


def test_a_tumour_has_about_the_area_its_size_says() -> None:
    module, options = kind_of("brain-mri", size=128)
    areas = {"small": [], "medium": [], "large": []}  # type: dict[str, list[float]]
    for index in range(24):
        picture = module.draw(options, index)
        areas[picture.caption.size].append(float(picture.findings[0].mask.sum()))
    means = [np.mean(areas[size]) for size in ("small", "medium", "large")]
    assert means[0] * 1.5 < means[1] < means[2] / 1.5


def test_a_box_is_a_fraction_of_the_picture() -> None:
    mask = np.zeros((10, 20), bool)
    mask[2:4, 5:15] = True
    assert [float(value) for value in box(mask)] == [0.5, 0.3, 0.5, 0.2, 0.1]


def test_no_kind_of_lesion_is_refused() -> None:
    for options in (ChestXrayOptions, OCTOptions):
        with pytest.raises(ConfigError, match="at least one kind"):
            options(lesions=())


@pytest.mark.parametrize("kind", ["chest-xray", "oct", "brain-mri", "fundus"])
def test_findings_are_as_severe_as_asked(kind: str) -> None:
    module, options = importlib.import_module(MODULES[kind]), KINDS[kind]
    areas = {}
    for severity in ((0.0, 0.1), (0.9, 1.0)):
        made = options(size=32, healthy_fraction=0.0, severity=severity)  # type: ignore[call-arg]
        pictures = [module.draw(made, index) for index in range(3)]
        areas[severity] = np.mean([finding.mask.mean() for one in pictures for finding in one.findings])
    assert areas[0.9, 1.0] > 1.4 * areas[0.0, 0.1]
    with pytest.raises(ConfigError, match=r"severity: 0\.9,0\.1 is not a range"):
        options(severity=(0.9, 0.1))  # type: ignore[call-arg]
