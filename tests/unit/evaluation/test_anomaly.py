"""Anomaly maps held against the truth: perfect maps score 1, noise guesses, thresholds come from held-out normals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.artifacts.stored import StoredSet
from medgen.errors import DataError
from medgen.evaluation.anomaly.declaration import ANOMALY, AnomalyEvaluationOptions
from medgen.evaluation.anomaly.metric import measure
from medgen.evaluation.anomaly.sources import normal_rows
from medgen.evaluation.evaluate import choose
from medgen.evaluation.inputs import Inputs, Reconstructor
from medgen.inference.anomaly.calibration import calibrate
from medgen.inference.anomaly.comparable_maps import ComparableMaps
from medgen.inference.anomaly.maps import map_cases, map_header, normal_maps
from medgen.inference.anomaly.options import AnomalyOptions
from medgen.reporting import Silent

BYTES = Intensity(1.0, 0.0, "grey value", (0.0, 255.0))
NAMES = ("caries", "fracture", "normal")
SIDE = 24


def pictures(rng: np.random.Generator, kind: str, noise: float = 4.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image (1, 1, S, S), its normal version, and the mask: lesions are 60 grey values darker."""
    normal = 120 + 60 * np.sin(np.linspace(0, rng.uniform(2, 8), SIDE))[None, None, None] * np.ones((1, 1, SIDE, SIDE))
    mask = np.zeros((1, 1, SIDE, SIDE), np.uint8)
    if kind != "normal":
        y, x = rng.integers(2, 16, 2)
        high, wide = (6, 6) if kind == "caries" else (2, 7)
        mask[..., y : y + high, x : x + wide] = 1
    image = normal - 60 * mask + rng.normal(0, noise, normal.shape)
    stored = [np.clip(np.rint(part), 0, 255).astype(np.uint8) for part in (image, normal)]
    return stored[0], stored[1], mask


def make_maps(
    path: Path, *, seed: int = 0, count: int = 48, masks: bool = True, options: AnomalyOptions | None = None
) -> Path:
    """Maps of perfect normal versions: a third normal validation images, the others to be tested."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        fit = index % 3 == 0
        kind = "normal" if fit or index % 2 else ("caries", "fracture")[index // 2 % 2]
        image, normal, mask = pictures(rng, kind)
        arrays = {"image": image, "label": np.array([NAMES.index(kind)])}
        if masks:
            arrays["mask"] = mask
        case = Case(f"{index:04d}", arrays, "val" if fit else "test")
        found.append((case, Case(case.id, {"image": normal}, case.split)))
    chosen = options or AnomalyOptions()
    header = SetHeader("image", derive("preprocess", {}), BYTES, label_names=NAMES)
    header = map_header(header, derive("anomaly-map", {}), chosen, calibrated=False)
    with create_set(path, header) as writer:
        for case in map_cases(found, BYTES, chosen, None):
            writer.write(case)
    return path


OPTIONS = AnomalyEvaluationOptions()


def inputs_of(stored: StoredSet, **more: Any) -> Inputs:
    return Inputs(stored, None, Silent().progress, maps=ComparableMaps.like(stored.header), **more)  # type: ignore[arg-type]


def measured(path: Path, options: AnomalyEvaluationOptions = OPTIONS, **more: Any) -> dict[str, Any]:
    with open_set(path, random_access=True) as stored:
        return measure(inputs_of(stored, **more), options).result


def test_good_maps_find_what_is_ill(tmp_path: Path) -> None:
    result = measured(make_maps(tmp_path / "maps.h5"))
    assert (result["slices"], result["ill"], result["held_out_normal"]) == (32, 16, 16)
    found = result["detectors"]["normalizer_pixel"]
    assert found["pixel_auroc"]["value"] > 0.999
    assert found["pixel_average_precision"]["value"] > 0.99
    assert found["image_auroc"]["value"] == found["image_average_precision"]["value"] == 1.0
    assert found["lesion_recall"]["value"] == 1.0
    assert found["lesions"] == 16
    assert 0.7 < found["dice"]["value"] <= found["best_dice"]["value"] + 1e-9
    assert found["false_positive_rate"]["value"] == pytest.approx(0.01, abs=0.005)
    total = result["detectors"]["normalizer"]
    assert set(total["kinds"]) == {"caries", "fracture"}
    assert total["kinds"]["caries"]["slices"] + total["kinds"]["fracture"]["slices"] == 16
    assert "kinds" not in found


def test_numbers_are_those_of_the_pixels_themselves(tmp_path: Path) -> None:
    """Against torchmetrics on all tested pixels, and Dice with the threshold that quantiles give."""
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    path = make_maps(tmp_path / "maps.h5", seed=3)
    result = measured(path)["detectors"]["normalizer"]
    with open_set(path, random_access=True) as stored:
        splits = np.array([row.split for row in stored.cases])
        total, mask = stored.read("map", range(48))[:, 3], stored.read("mask", range(48))[:, 0] > 0
        scores, labels = stored.column("score"), stored.column("label") != NAMES.index("normal")
    test = splits == "test"
    told, truth = torch.from_numpy(total[test].reshape(-1)), torch.from_numpy(mask[test].reshape(-1)).long()
    told = told / told.max()
    assert result["pixel_auroc"]["value"] == pytest.approx(float(binary_auroc(told, truth)), abs=1e-4)
    expected = float(binary_average_precision(told, truth))
    assert result["pixel_average_precision"]["value"] == pytest.approx(expected, abs=1e-3)
    threshold = np.quantile(total[~test], 0.99)
    assert result["threshold"] == pytest.approx(threshold, rel=0.02)
    marked = total[test] >= result["threshold"]
    dice = 2 * (marked & mask[test]).sum() / (marked.sum() + mask[test].sum())
    assert result["dice"]["value"] == pytest.approx(dice, abs=1e-12)
    auroc = float(binary_auroc(torch.from_numpy(scores[test] / scores.max()), torch.from_numpy(labels[test]).long()))
    assert result["image_auroc"]["value"] == pytest.approx(auroc, abs=1e-6)


def test_the_threshold_never_sees_the_tested_images(tmp_path: Path) -> None:
    """Other test images, same held-out normal ones: the same threshold."""
    first = make_maps(tmp_path / "a.h5", seed=5)
    rng = np.random.default_rng(9)
    with open_set(first) as reader, create_set(tmp_path / "b.h5", reader.header) as writer:
        for case in reader:
            if case.split == "test":
                arrays = {**case.arrays, "map": case["map"] * np.float32(rng.uniform(0.2, 5.0))}
                case = Case(case.id, arrays, case.split)
            writer.write(case)
    a, b = (measured(tmp_path / name)["detectors"]["normalizer"] for name in ("a.h5", "b.h5"))
    assert a["threshold"] == b["threshold"]
    assert a["dice"] != b["dice"]


def test_maps_of_normal_images_may_come_as_reference(tmp_path: Path) -> None:
    held = make_maps(tmp_path / "held.h5", seed=11)
    test = make_maps(tmp_path / "test.h5", seed=12)
    with open_set(held) as reader, create_set(tmp_path / "other.h5", reader.header) as writer:
        for case in reader:
            writer.write(Case(f"held-{case.id}", case.arrays, case.split))
    with open_set(tmp_path / "other.h5", random_access=True) as reference:
        result = measured(test, reference=reference)
        assert result["held_out_normal"] == 32  # all normal ones of the reference
        assert result["slices"] == 32
    with open_set(held, random_access=True) as reference, pytest.raises(DataError, match="no slice is left to test"):
        measured(test, reference=reference)  # equal ids: the very images that fit the threshold


def test_a_chosen_split_is_tested_and_the_threshold_stays(tmp_path: Path) -> None:
    with open_set(make_maps(tmp_path / "maps.h5", seed=5), random_access=True) as stored:
        whole = measure(inputs_of(stored), OPTIONS).result
        part = measure(inputs_of(stored.only("test"), whole=stored), OPTIONS).result
    assert part["held_out_normal"] == whole["held_out_normal"] == 16
    assert part["detectors"] == whole["detectors"]
    with open_set(tmp_path / "maps.h5", random_access=True) as stored, pytest.raises(DataError, match="left to test"):
        measure(inputs_of(stored.only("val"), whole=stored), OPTIONS)


def test_baselines_stand_in_the_same_table_and_are_mapped_alike(tmp_path: Path) -> None:
    path = make_maps(tmp_path / "maps.h5", options=AnomalyOptions(smoothing=1.0))
    rng = np.random.default_rng(0)
    header = SetHeader("image", derive("preprocess", {}), BYTES, label_names=NAMES)
    with create_set(tmp_path / "train.h5", header) as writer:
        for index in range(30):
            kind = "normal" if index % 3 else "caries"
            image, _, _ = pictures(rng, kind)
            split = "train" if index % 2 else "val"
            writer.write(Case(f"t{index}", {"image": image, "label": np.array([NAMES.index(kind)])}, split))
    copies = Reconstructor(lambda images: images, "digest")  # a VAE that keeps lesions, as bad as can be
    with open_set(tmp_path / "train.h5", random_access=True) as training, open_set(path, random_access=True) as stored:
        assert normal_rows(training).tolist() == [index for index in range(30) if index % 3 and index % 2]
        with pytest.raises(DataError, match="does not say which cases are normal"):
            normal_rows(training, "fine")
        section = measure(inputs_of(stored, vae=copies, training=training), OPTIONS)
    detectors = section.result["detectors"]
    assert list(detectors) == [
        *("normalizer", "normalizer_pixel", "normalizer_gradient", "normalizer_laplacian"),
        *("vae", "vae_pixel", "nearest", "nearest_pixel"),
    ]
    assert detectors["vae"]["pixel_auroc"]["value"] == pytest.approx(0.5)  # all differences are 0
    assert detectors["nearest"]["pixel_auroc"]["value"] > 0.6
    assert (
        detectors["normalizer"]["pixel_average_precision"]["value"]
        > detectors["nearest"]["pixel_average_precision"]["value"]
    )
    main, marking, kinds = section.tables
    assert [row[0] for row in main.rows][-1] == "guessing"
    assert len(main.rows) == len(detectors) + 1
    assert len(kinds.rows) == 2 * 3
    assert len(marking.rows) == len(main.rows)
    assert "optimistic" in " ".join(marking.columns)
    assert section.galleries
    assert len(section.scores["dice_per_image"].values) == 16


def test_without_masks_images_are_told_apart_alone(tmp_path: Path) -> None:
    result = measured(make_maps(tmp_path / "maps.h5", masks=False))
    found = result["detectors"]["normalizer"]
    assert found["image_auroc"]["value"] == 1.0
    assert found["pixel_auroc"] is found["dice"] is found["lesion_recall"] is None
    assert result["ill_share_of_pixels"] is None


def test_without_held_out_normal_images_there_is_no_threshold(tmp_path: Path) -> None:
    path = make_maps(tmp_path / "maps.h5")
    with open_set(path) as reader, create_set(tmp_path / "b.h5", reader.header) as writer:
        for case in reader:
            if case.split == "test":
                writer.write(case)
    with open_set(tmp_path / "b.h5", random_access=True) as stored:
        section = measure(inputs_of(stored), OPTIONS)
    found = section.result["detectors"]["normalizer"]
    assert found["dice"] is found["threshold"] is found["lesion_recall"] is None
    assert found["pixel_auroc"]["value"] > 0.99
    assert any("no threshold could be fitted" in warning for warning in section.warnings)


def test_contradictions_and_gaps_are_named(tmp_path: Path) -> None:
    path = make_maps(tmp_path / "maps.h5")
    with pytest.raises(DataError, match=r"no class is called 'healthy', its classes are .*--set anomaly\.normal=NAME"):
        measured(path, AnomalyEvaluationOptions(normal="healthy"))
    with open_set(path) as reader, create_set(tmp_path / "b.h5", reader.header) as writer:
        for case in reader:
            writer.write(Case(case.id, {**case.arrays, "label": np.array([2])}, case.split))
    with pytest.raises(DataError, match="labelled 'normal', yet its mask marks pixels"):
        measured(tmp_path / "b.h5")
    with open_set(path, random_access=True) as stored:
        assert ANOMALY.lacking(inputs_of(stored)) == ""
        assert choose(None, inputs_of(stored)) == ["anomaly"]


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_baseline_with_the_same_normal_versions_gets_the_same_numbers(tmp_path: Path, calibrated: bool) -> None:
    """Weights, smoothing, foreground, scores and calibration are those of the set's own maps."""
    options = AnomalyOptions(
        pixel=0.5, laplacian=0.1, smoothing=1.5, foreground=0.1, score="quantile", score_share=0.05
    )
    path = make_maps(tmp_path / "maps.h5", options=options)
    if calibrated:
        with open_set(path) as reader:
            calibration = calibrate(normal_maps(reader.header, reader, options), options.calibration)
        with open_set(path) as reader:
            cases = list(reader)
            images = SetHeader("image", derive("preprocess", {}), BYTES, label_names=NAMES)
        header = map_header(images, derive("anomaly-map", {}), options, calibrated=True)
        with create_set(tmp_path / "calibrated.h5", header) as writer:
            found = [(case, Case(case.id, {"image": case["normalized"]}, case.split)) for case in cases]
            for case in map_cases(found, BYTES, options, calibration):
                writer.write(case)
        path = tmp_path / "calibrated.h5"
    with open_set(path) as reader:
        known = {BYTES.normalized(case["image"]).tobytes(): BYTES.normalized(case["normalized"]) for case in reader}
    same = Reconstructor(
        lambda images: torch.from_numpy(np.concatenate([known[one.numpy().tobytes()] for one in images[:, None]])),
        "same",
    )
    detectors = measured(path, vae=same)["detectors"]
    assert detectors["vae"] == detectors["normalizer"]
    assert detectors["vae_pixel"] == detectors["normalizer_pixel"]
    assert detectors["vae"]["false_positive_rate"]["value"] == pytest.approx(0.01, abs=0.01)
