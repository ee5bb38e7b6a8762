from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.evaluation.conditioning.declaration import FIELDS
from medgen.evaluation.conditioning.patches import RINGS, NodulePatches, patch_of, rate, rings_of
from medgen.evaluation.conditioning.probe import agreement, evaluate_ratings, fit, held_out, ridge


def test_the_ridge_is_the_closed_form_at_its_penalty() -> None:
    random = np.random.default_rng(0)
    features, ratings = random.normal(size=(60, 8)), random.normal(size=60)
    probe = fit(features, ratings, np.arange(60))
    standard = (features - features.mean(0)) / features.std(0)
    solved = np.linalg.solve(standard.T @ standard + probe.penalty * np.eye(8), standard.T @ (ratings - ratings.mean()))
    assert probe(features) == pytest.approx(standard @ solved + ratings.mean(), abs=1e-6)


def test_the_penalty_follows_the_noise() -> None:
    random = np.random.default_rng(1)
    features = random.normal(size=(80, 60))
    signal = features @ random.normal(size=60) / 8
    clean, noisy = fit(features, signal, np.arange(80)), fit(features, random.normal(size=80), np.arange(80))
    assert clean.penalty < noisy.penalty
    assert np.ptp(noisy(features)) < 0.7 * np.ptp(clean(features))


def rated(count: int, strength: float, seed: int) -> NodulePatches:
    """Slices of cases of two, of whose 30 features the first follows the first rating; the second rating is blind."""
    random = np.random.default_rng(seed)
    ratings = np.repeat(random.choice([0.0, 0.25, 0.5, 0.75, 1.0], size=(count // 2, 2)), 2, axis=0)
    features = random.normal(size=(count, 30))
    features[:, 0] += strength * ratings[:, 0]
    return NodulePatches(features, features[:, :16], ratings, np.full(count, 0.1), np.arange(count) // 2)


def test_a_rating_that_shows_is_measured_and_a_blind_one_is_not() -> None:
    result = evaluate_ratings(rated(200, 6.0, 2), rated(200, 6.0, 3), ("seen", "blind"))
    for part in ("samples", "held_out_real"):
        assert result["seen"][part]["pearson"]["low"] > 0.7
        assert result["blind"][part]["pearson"]["low"] < 0.05
        assert abs(result["blind"][part]["spearman"]["value"]) < 0.3
    assert (result["seen"]["probe_works"], result["blind"]["probe_works"]) == (True, False)


def test_samples_that_ignore_the_rating_score_nothing_though_the_probe_works() -> None:
    result = evaluate_ratings(rated(200, 0.0, 2), rated(200, 6.0, 3), ("seen", "blind"))
    assert result["seen"]["held_out_real"]["pearson"]["low"] > 0.7
    assert abs(result["seen"]["samples"]["pearson"]["value"]) < 0.25


def test_held_out_ratings_come_from_probes_that_did_not_see_the_case() -> None:
    """Each case is marked by a feature of its own and rated at random: whoever saw the case knows its rating."""
    cases = np.repeat(np.arange(40), 3)
    ratings = np.random.default_rng(4).random(40)[cases][:, None]
    marks = np.eye(40)[cases]
    real = NodulePatches(marks, marks, ratings, np.full(120, 0.1), cases)
    assert np.corrcoef(ridge(marks, ratings[:, 0])(0.1)(marks), ratings[:, 0])[0, 1] > 0.9
    assert np.corrcoef(held_out(real, 0), ratings[:, 0])[0, 1] < 0.3


def test_few_cases_or_equal_ratings_give_no_probe() -> None:
    real = rated(200, 6.0, 5)
    flat = NodulePatches(real.features, real.rings, np.full_like(real.ratings, 0.5), real.sizes, real.cases)
    assert evaluate_ratings(real, flat, ("a", "b")) == {"a": None, "b": None}
    assert evaluate_ratings(real, real[np.arange(12)], ("a", "b")) == {"a": None, "b": None}
    equal = agreement(np.arange(9.0), np.ones(9), np.arange(9))
    assert equal["pearson"] is None


def test_a_patch_is_centred_on_the_nodule_and_scales_with_it() -> None:
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(128.0), indexing="ij")
    image = torch.stack([columns, rows])[None] + 0.5  # each pixel holds its own place
    patch = patch_of(image, x=0.5, y=0.5, size=0.125)
    assert patch.shape == (1, 2, 48, 48)
    assert patch[0, 0].mean() == pytest.approx(64, abs=1e-3)
    assert patch[0, 1].mean() == pytest.approx(32, abs=1e-3)
    side = 2.0 * 0.125 * 128
    for band, axis in ((0, 1), (1, 0)):
        assert patch[0, band].diff(dim=axis).mean() == pytest.approx(side / 48, rel=1e-3)


def test_only_slices_with_a_nodule_and_finite_values_are_rated(tmp_path: Path) -> None:
    fields = (*FIELDS, "malignancy")
    header = SetHeader("image", derive("preprocess", {}), intensity=Intensity(), vector_fields=fields)
    random = np.random.default_rng(6)
    with create_set(tmp_path / "a.h5", header) as writer:
        for case in range(3):
            image = random.normal(-500, 100, (2, 1, 32, 32)).astype(np.float32)
            if case == 2:
                image[1, 0, 0, 0] = np.nan
            vector = np.array([[0, 0, 0, 0, 0], [1, 0.5, 0.5, 0.2, case / 4]], np.float32)
            writer.write(Case(f"c{case}", {"image": image, "vector": vector}))
    with open_set(tmp_path / "a.h5", random_access=True) as stored:
        seen = rate(stored, FIELDS, ["malignancy"])
    assert seen.ratings[:, 0].tolist() == [0.0, 0.25]
    np.testing.assert_allclose(seen.sizes, 0.2)
    assert seen.cases.tolist() == [0, 1]
    assert seen.features.shape[0] == 2


def test_rings_are_means_and_spreads_by_distance() -> None:
    rows, columns = torch.meshgrid(torch.arange(48.0) - 23.5, torch.arange(48.0) - 23.5, indexing="ij")
    radius = torch.hypot(rows, columns) / 24
    rings = rings_of(torch.stack([radius, (radius < 0.5).float()])[:, None])
    assert rings.shape == (2, 2 * RINGS)
    middles = (torch.arange(RINGS) + 0.5) / RINGS
    torch.testing.assert_close(rings[0, ::2], middles.double(), atol=0.03, rtol=0)
    assert rings[1].tolist() == [1, 0] * 4 + [0, 0] * 4  # a flat disc of half the side
