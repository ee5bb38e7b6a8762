from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import GENERATED, SPACING_NOTE, Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.errors import DataError
from medgen.evaluation.conditioning.declaration import FIELDS
from medgen.evaluation.conditioning.metric import observe
from medgen.evaluation.conditioning.nodules import Spot
from medgen.evaluation.conditioning.rule import Measured, NoduleRule, best_cut, calibrate, hits
from medgen.evaluation.conditioning.scores import evaluate, rates_of_like, score, weights_of_like
from medgen.evaluation.statistics import correlation, mean_of_results


def made(count: int = 200, found: float = 1.0, seed: int = 0, noise: float = 0.005) -> Measured:
    """Slices, every other with a nodule, whose spots show it in a share `found` of them; each has a weak vessel too."""
    random = np.random.default_rng(seed)
    asked = np.zeros((count, 4))
    spots = []
    for row in range(count):
        vessel = Spot(random.uniform(0.1, 0.9), random.uniform(0.1, 0.9), 0.03, random.uniform(200, 400), 0.03)
        spots.append([vessel])
        if row % 2 == 0:
            x, y, size = random.uniform(0.1, 0.9), random.uniform(0.1, 0.9), random.uniform(0.06, 0.2)
            asked[row] = 1, x, y, size
            if random.random() < found:
                shift = random.normal(0, noise, 2)
                spots[-1].append(Spot(x + shift[0], y + shift[1], size * 1.1, random.uniform(500, 800), size * 1.1))
    return Measured(spots, asked, np.arange(count) // 4, np.full(count, 350.0))


def test_perfect_samples_hit_and_shuffled_ones_do_not() -> None:
    result, _ = evaluate(made(seed=1), made(seed=2))
    assert result["samples"]["hit_rate"]["value"] == 1.0
    assert result["samples"]["hit_rate_with_size"]["value"] == 1.0
    assert result["ceiling"]["hit_rate"]["value"] == 1.0
    assert result["chance"]["hit_rate"]["value"] < 0.15
    assert result["rule"]["fitted_to"] == "one half of the reference"
    assert result["samples"]["position_error_percent"] < 1.5
    assert result["samples"]["position_error_mm"] == pytest.approx(
        3.5 * result["samples"]["position_error_percent"], rel=1e-9
    )
    assert result["samples"]["size_error_percent"] < 0.1  # the rule learned that all measure a tenth too much
    assert result["rule"]["size_slope"] == pytest.approx(1.1)
    assert result["ceiling_of_like_size"]["hit_rate"]["value"] == 1.0
    for name in ("x", "y", "size"):
        assert result["samples"]["correlation"][name]["pearson"] > 0.95
    for name in ("x", "y"):
        assert abs(result["chance"]["correlation"][name]["pearson"]) < 0.1
    json.dumps(result, allow_nan=False)


def test_the_hit_rate_is_the_share_of_samples_that_show_their_nodule() -> None:
    result, _ = evaluate(made(400, found=0.5, seed=1), made(seed=2))
    rate = result["samples"]["hit_rate"]
    assert rate["low"] < 0.5 < rate["high"]
    confusion = result["samples"]["confusion"]
    assert confusion["true_positive"] == pytest.approx(100, abs=15)
    assert confusion["false_negative"] == 200 - confusion["true_positive"]
    assert (confusion["false_positive"], confusion["true_negative"]) == (0, 200)


def test_a_model_that_ignores_its_condition_scores_as_chance() -> None:
    samples = made(400, seed=1).shuffled(np.random.default_rng(0))
    result, _ = evaluate(samples, made(seed=2))
    assert result["samples"]["hit_rate"]["low"] <= result["chance"]["hit_rate"]["value"] + 0.05
    assert abs(result["samples"]["correlation"]["x"]["pearson"]) < 0.25


def test_calibration_parts_nodules_from_vessels() -> None:
    rule = calibrate(made(), np.random.default_rng(0))
    vessel, nodule = Spot(0.5, 0.5, 0.03, 400, 0.03), Spot(0.5, 0.5, 0.06, 500, 0.06)
    assert rule.strength(vessel) < rule.anywhere <= rule.strength(nodule)
    assert calibrate(made()[np.arange(1, 200, 2)], np.random.default_rng(0)) == NoduleRule()  # healthy only


def test_without_a_reference_the_built_in_rule_is_used_and_said() -> None:
    result, _ = evaluate(made(), None)
    assert result["rule"]["fitted_to"] == "built in"
    assert result["ceiling"] is None


def test_no_spots_and_no_nodules_are_no_failure() -> None:
    empty = Measured(
        [[], []], np.array([[1, 0.5, 0.5, 0.1], [0, 0, 0, 0]], float), np.array([0, 1]), np.full(2, np.nan)
    )
    result = score(empty, NoduleRule())
    assert result["hit_rate"]["value"] == 0
    assert result["position_error_percent"] is None
    assert result["correlation"]["x"] is None
    assert score(empty[np.array([1])], NoduleRule())["hit_rate"] is None
    json.dumps(evaluate(empty, empty)[0], allow_nan=False)


def test_tolerance_is_the_radius_but_never_too_strict() -> None:
    spot = Spot(0.5, 0.5, 0.1, 500, 0.1)
    assert hits(spot, np.array([1, 0.54, 0.5, 0.02]))
    assert not hits(spot, np.array([1, 0.56, 0.5, 0.02]))
    assert hits(spot, np.array([1, 0.56, 0.5, 0.2]))
    assert not hits(None, np.array([1, 0.5, 0.5, 0.2]))


def test_best_cut_separates() -> None:
    assert best_cut(np.array([3.0, 4, 5]), np.array([0.0, 1, 2])) == 2.5
    assert best_cut(np.array([1.0, 4, 5, 6]), np.array([0.0, 1, 2, 2])) == 3


def test_small_statistics() -> None:
    a = np.array([1.0, 2, 3, 4])
    assert correlation(a, a**3) == {"pearson": pytest.approx(np.corrcoef(a, a**3)[0, 1]), "spearman": pytest.approx(1)}
    assert correlation(a, np.ones(4)) is None
    assert mean_of_results([{"a": 1, "b": None}, {"a": 3, "b": None}]) == {"a": 2.0, "b": None}


def test_a_millimetre_is_a_spacing_like_any_other(tmp_path: Path) -> None:
    """Only samples that have no spacing of their own are without one: their pixels are as large as nobody knows."""
    image = np.full((1, 1, 32, 32), -1000, np.int16)
    arrays = {"image": image, "vector": np.array([[1, 0.5, 0.5, 0.1]], np.float32)}
    expected = []
    for number, (spacing, made, notes) in enumerate(
        [
            ((1.0, 1.0, 1.0), "", {}),
            ((2.5, 1.0, 1.0), GENERATED, {}),
            ((1.0, 1.0, 1.0), GENERATED, {SPACING_NOTE: "of all training cases"}),
            ((1.0, 1.0, 1.0), GENERATED, {}),
        ]
    ):
        header = SetHeader("image", derive("preprocess", {}), Intensity(), vector_fields=FIELDS, notes=notes)
        with create_set(tmp_path / f"{number}.h5", header) as writer:
            writer.write(Case("a", arrays, spacing=spacing, synthetic=made))
        with open_set(tmp_path / f"{number}.h5", random_access=True) as stored:
            expected.append(float(observe(stored).widths[0]))
    np.testing.assert_array_equal(expected, [32, 32, 32, np.nan])


def test_an_image_without_a_number_is_not_one_without_a_nodule(tmp_path: Path) -> None:
    header = SetHeader("image", derive("preprocess", {}), Intensity(), vector_fields=FIELDS)
    arrays = {"image": np.full((1, 1, 32, 32), np.nan, np.float32), "vector": np.zeros((1, 4), np.float32)}
    with create_set(tmp_path / "set.h5", header) as writer:
        writer.write(Case("a", arrays))
    with open_set(tmp_path / "set.h5", random_access=True) as stored, pytest.raises(DataError, match=r"case a: .* NaN"):
        observe(stored)


def test_sizes_are_told_as_the_labels_tell_them_and_wrong_spots_do_not_bend_the_line() -> None:
    known = made(200, seed=3)
    for row in range(0, 20, 2):  # of a tenth, a spot of another size is taken for the nodule
        known.spots[row][-1:] = [Spot(known.asked[row, 1], known.asked[row, 2], 0.1, 900.0, 0.3)]
    rule = calibrate(known, np.random.default_rng(0))
    assert rule.size(Spot(0.5, 0.5, 0.1, 500.0, 0.11)) == pytest.approx(0.1, abs=0.008)
    few = calibrate(made(20, seed=3), np.random.default_rng(0))
    assert (few.shortest, few.stretch) == (0.0, 1.0)


def test_known_nodules_count_by_the_sizes_asked_and_by_case() -> None:
    """Large nodules are found, small ones are not; case 0 has most of the slices."""
    sizes = np.array([0.2, 0.2, 0.2, 0.2, 0.05, 0.2, 0.05])
    cases = np.array([0, 0, 0, 0, 0, 1, 2])
    weights, matched = weights_of_like(sizes, cases, np.array([0.19, 0.21, 0.05, 0.4]))
    np.testing.assert_allclose(weights, [0.25, 0.25, 0.25, 0.25, 0.5, 1.0, 0.5])
    assert matched.tolist() == [True, True, True, False]
    assert weights.sum() == 3  # once each


def test_rates_of_known_nodules_are_of_the_sizes_asked() -> None:
    """Half of the known nodules are small and never found; samples are asked for large ones only."""
    known = made(400, seed=4)
    for row in range(0, 400, 2):
        if row % 4 == 0:
            known.asked[row, 3] = 0.03
            known.spots[row].pop()
    samples = made(100, seed=5)
    like, every = rates_of_like(known, samples, NoduleRule()), score(known, NoduleRule())
    assert like is not None
    assert like["hit_rate"]["value"] == 1.0
    assert every["hit_rate"]["value"] == pytest.approx(0.5, abs=0.1)
    assert like["asked_without_like"] == 0
    small = made(100, seed=6)
    small.asked[:, 3] = np.where(small.asked[:, 0] > 0, 0.9, 0)
    assert rates_of_like(known, small, NoduleRule()) is None


def test_slices_of_one_case_do_not_narrow_the_interval_of_known_nodules() -> None:
    one, many = made(100, found=0.5, seed=7), made(100, found=0.5, seed=7)
    many = Measured(many.spots * 4, np.tile(many.asked, (4, 1)), np.tile(many.cases, 4), np.tile(many.widths, 4))
    for figures in (lambda known: score(known, NoduleRule()), lambda known: rates_of_like(known, one, NoduleRule())):
        assert figures(many)["hit_rate"] == pytest.approx(figures(one)["hit_rate"])
