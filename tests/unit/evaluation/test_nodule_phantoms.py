"""Phantoms of known truth: their nodules have the size that is measured, and flat discs are told apart from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.evaluation.conditioning.declaration import FIELDS
from medgen.evaluation.conditioning.metric import measure
from medgen.evaluation.conditioning.nodules import find_spots
from medgen.evaluation.conditioning.rule import NoduleRule
from medgen.evaluation.features.extractors import builtin_extractor
from medgen.evaluation.features.features import FeatureBank
from medgen.evaluation.inputs import Inputs
from medgen.evaluation.section import Section
from medgen.phantoms.chest.anatomy import ChestAnatomy
from medgen.phantoms.chest.nodule_placement import add_nodules
from medgen.phantoms.primitives import Grid
from medgen.reporting import Silent

SIDE = 64
HU = Intensity()


@dataclass(frozen=True)
class Phantom:
    """One person: a slice with a nodule, the same without it, and (has_nodule, x, y, size)."""

    image: npt.NDArray[np.float64]
    healthy: npt.NDArray[np.float64]
    vector: npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    """140 of 64 x 64, nodules of at least two pixels."""
    made = []
    for number in range(200):
        random = np.random.default_rng([17, number])
        chest = ChestAnatomy.draw(random)
        ill = add_nodules(random, chest, 1, (28.0, 64.0), (-40.0, 0.0))
        if not ill.nodules:
            continue
        nodule = ill.nodules[0]
        grid = Grid(2 * SIDE, chest.shapes.field_of_view(20.0) / (2 * SIDE), 0.0, 8.0)
        height = nodule.centre[2] + random.uniform(-0.48, 0.48) * nodule.diameter
        image, (cover,) = ill.plane(height, grid)
        rows, columns = np.nonzero(cover > 0.5)
        longest = max(np.ptp(rows), np.ptp(columns)) + 1 if len(rows) else 0
        if longest < 4:
            continue
        x, y = ((place.min() + place.max() + 1) / 2 / (2 * SIDE) for place in (columns, rows))
        noise = random.normal(0, 15, (SIDE, SIDE))
        pair = (_halved(one) + noise for one in (image, chest.plane(height, grid)[0]))
        made.append(Phantom(*pair, np.array([1.0, x, y, longest / (2 * SIDE)])))
        if len(made) == 140:
            break
    return made


def _halved(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return np.asarray(image.reshape(SIDE, 2, SIDE, 2).mean(axis=(1, 3)), np.float64)


def test_measured_sizes_are_the_true_ones(phantoms: list[Phantom]) -> None:
    rule, pairs = NoduleRule(), []
    for one in phantoms:
        spot = rule.at(find_spots(one.image.astype(np.float32)), one.vector)
        if spot is not None and rule.strength(spot) >= rule.near:
            off = np.hypot(spot.x - one.vector[1], spot.y - one.vector[2])
            pairs.append((off, one.vector[3], spot.size, spot.scale))
    off, true, measured, scale = np.array(
        [pair for pair in pairs if pair[0] < 2 / SIDE]
    ).T  # what lies beside it is not it
    assert len(true) > 0.9 * len(pairs)
    assert len(pairs) > 0.85 * len(phantoms)
    assert np.corrcoef(true, measured)[0, 1] >= 0.95
    assert np.polyfit(true, measured, 1)[0] == pytest.approx(1, abs=0.1)
    assert np.median(measured / true) == pytest.approx(1, abs=0.05)
    assert np.polyfit(true, scale, 1)[0] < 0.8  # what the detector answers to is no measure


def write(path: Path, images: list[npt.NDArray[np.float64]], phantoms: list[Phantom], name: str) -> Path:
    header = SetHeader("image", derive("preprocess", {"of": name}), HU, vector_fields=FIELDS)
    with create_set(path, header) as writer:
        for number, (image, one) in enumerate(zip(images, phantoms, strict=True)):
            arrays = {"image": image[None, None].astype(np.int16), "vector": one.vector[None].astype(np.float32)}
            writer.write(Case(f"{name}{number}", arrays))
    return path


def conditioning(samples: Path, reference: Path) -> Section:
    with open_set(samples, random_access=True) as stored, open_set(reference, random_access=True) as known:
        bank = FeatureBank(builtin_extractor())
        return measure(Inputs(stored, bank, Silent().progress, reference=known))


def pasted(one: Phantom) -> npt.NDArray[np.float64]:
    """A flat disc where the nodule was, of its size, upon the healthy slice."""
    y, x = (np.mgrid[: 4 * SIDE, : 4 * SIDE] + 0.5) / (4 * SIDE)
    inside = np.hypot(x - one.vector[1], y - one.vector[2]) <= one.vector[3] / 2
    share = inside.reshape(SIDE, 4, SIDE, 4).mean(axis=(1, 3))
    return one.healthy * (1 - share) + 30.0 * share


def test_pasted_discs_are_hits_and_no_nodules(phantoms: list[Phantom], tmp_path: Path) -> None:
    known, others = phantoms[:90], phantoms[90:]
    reference = write(tmp_path / "known.h5", [one.image for one in known], known, "known")
    real = conditioning(write(tmp_path / "real.h5", [one.image for one in others], others, "real"), reference)
    discs = conditioning(write(tmp_path / "discs.h5", [pasted(one) for one in others], others, "discs"), reference)
    assert discs.result["samples"]["hit_rate"]["value"] >= real.result["samples"]["hit_rate"]["value"]
    far = {}
    for name, section in (("real", real), ("discs", discs)):
        figure = section.result["patches"]["frechet_distance"]
        far[name] = figure["at_floor_size"]["mean"] / figure["floor"]["mean"]
    assert far["real"] < 1.3
    assert far["discs"] > 2
    assert discs.result["patches"]["kernel_distance"]["low"] > 0
    assert any("does not look like them" in told for told in discs.warnings)
    assert not any("does not look like them" in told for told in real.warnings)
    assert [table.title for table in discs.tables] == ["conditioning", "patches around nodules"]
