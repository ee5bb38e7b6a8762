"""Thin slices against the truth, at places in mm, beside what needs no model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.diffusion.slice_profile import cubic_matrix, linear_matrix, profile_matrix
from medgen.errors import DataError, UsageError
from medgen.evaluation.evaluate import choose
from medgen.evaluation.features.extractors import builtin_extractor
from medgen.evaluation.features.features import FeatureBank
from medgen.evaluation.inputs import Inputs, Reconstructor
from medgen.evaluation.interpolation.declaration import InterpolationOptions
from medgen.evaluation.interpolation.metric import measure
from medgen.evaluation.interpolation.thin_pairs import find_trios
from medgen.evaluation.section import Section
from medgen.reporting import Silent

SIDE = 24
HU = Intensity(window=(-1000.0, 1000.0))
Volume = np.ndarray[Any, np.dtype[np.float32]]


def write(path: Path, cases: list[Case], intensity: Intensity = HU) -> Path:
    with create_set(path, SetHeader("image", derive("preprocess", {}), intensity=intensity), force=True) as writer:
        for case in cases:
            writer.write(case)
    return path


def thin_volume(seed: int, depth: int = 25) -> Volume:
    """Smooth in the plane, rough along z."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0.0, 250.0, (depth, SIDE // 4, SIDE // 4))
    return np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2)[:, None].astype(np.float32)


def thin_case(name: str, volume: Volume, spacing: float = 1.0, start: float = 0.0, **facts: Any) -> Case:
    return Case(name, {"image": volume}, spacing=(spacing, 2.0, 2.0), origin=(5.0, 6.0, start), **facts)


def thickened(case: Case, ratio: int = 5, **facts: Any) -> Case:
    image = case["image"].reshape(-1, ratio, 1, SIDE, SIDE).mean(axis=1).astype(np.float32)
    start = float(case.positions[:ratio].mean())
    return replace(
        case,
        arrays={"image": image},
        spacing=(float(ratio), 2.0, 2.0),
        origin=(5.0, 6.0, start),
        thickness=ratio,
        **facts,
    )


def section(folder: Path, output: list[Case], thick: list[Case], truth: list[Case], **inputs: Any) -> Section:
    intensity = inputs.pop("intensity", HU)
    sets = {"o": output, "t": thick, "r": truth}
    paths = [write(folder / f"{name}.h5", cases, intensity) for name, cases in sets.items()]
    with contextlib.ExitStack() as stack:
        stored = [stack.enter_context(open_set(path, random_access=True)) for path in paths]
        bank = FeatureBank(builtin_extractor(torch.device("cpu")))
        options = inputs.pop("options", InterpolationOptions())
        trio = Inputs(stored[0], bank, Silent().progress, reference=stored[2], thick=stored[1], **inputs)
        return measure(trio, options)


@pytest.fixture
def truth() -> list[Case]:
    return [thin_case(f"case{seed}", thin_volume(seed), frame=f"f{seed}") for seed in range(4)]


def noisy(cases: list[Case], deviation: float = 20.0) -> list[Case]:
    rng = np.random.default_rng(9)
    return [
        replace(
            case, arrays={"image": case["image"] + rng.normal(0, deviation, case["image"].shape).astype(np.float32)}
        )
        for case in cases
    ]


def test_scores_are_those_of_scikit_image_at_each_place(tmp_path: Path, truth: list[Case]) -> None:
    output, thick = noisy(truth), [thickened(case) for case in truth]
    found = section(tmp_path, output, thick, truth)
    result = found.result
    assert (result["cases"], result["patients"], result["slices"]) == (4, 4, 100)
    assert [result[kind]["slices"] for kind in ("measured", "between", "beyond")] == [20, 64, 16]
    position = np.arange(25.0)
    kinds = {"measured": position % 5 == 2, "beyond": (position < 2) | (position > 22)}
    kinds["between"] = ~(kinds["measured"] | kinds["beyond"])
    centres = torch.arange(2.0, 25.0, 5.0)
    for method, matrix in (
        ("cubic", cubic_matrix(position.tolist(), centres)),
        ("linear", linear_matrix(position.tolist(), centres)),
    ):
        for kind, where in kinds.items():
            psnr, ssim, mae = [], [], []
            for case, source in zip(truth, thick, strict=True):
                made = np.tensordot(matrix.numpy(), source["image"][:, 0], axes=1)
                for index in np.flatnonzero(where):
                    a, b = ((np.clip(x, -1000, 1000) + 1000) / 2000 for x in (made[index], case["image"][index, 0]))
                    psnr.append(peak_signal_noise_ratio(b, a, data_range=1))
                    mae.append(np.abs(a - b).mean() * 2000)
                    options: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
                    ssim.append(structural_similarity(b, a, data_range=1, full=True, **options)[1][5:-5, 5:-5].mean())
            told = result[kind][method]
            assert told["psnr"]["value"] == pytest.approx(np.mean(psnr), abs=1e-3)
            assert told["mae"]["value"] == pytest.approx(np.mean(mae), rel=1e-4)
            assert told["ssim"]["value"] == pytest.approx(np.mean(ssim), abs=1e-4)
    assert result["between"]["set"]["mae"]["value"] == pytest.approx(20 * np.sqrt(2 / np.pi), rel=0.02)
    assert [step["distance_mm"] for step in result["by_distance"]] == [0.0, 1.0, 2.0]
    difference = result["between"]["set_minus_cubic"]["psnr"]
    gain = result["between"]["set"]["psnr"]["value"] - result["between"]["cubic"]["psnr"]["value"]
    assert difference["value"] == pytest.approx(gain, abs=1e-9)
    assert 0 < difference["low"] < gain < difference["high"]
    assert [table.title for table in found.tables] == [
        "64 slices between thick slices, 4 patients",
        "20 slices at centres of thick slices, 4 patients",
        "16 slices beyond the outermost centres, 4 patients",
        "residual of the measurement, 20 thick slices, box profile",
    ]
    assert [row[0] for row in found.tables[0].rows] == ["this set", "cubic", "linear", "this set - cubic"]
    assert len(found.scores["psnr"].values) == 64
    assert len(found.galleries[0].rows) == 4
    assert found.warnings == []


def test_the_truth_has_no_say_in_anything_but_the_comparison(tmp_path: Path, truth: list[Case]) -> None:
    output, thick = noisy(truth), [thickened(case) for case in truth]
    noise = [replace(case, arrays={"image": thin_volume(100 + number)}) for number, case in enumerate(truth)]
    measured = [section(tmp_path, output, thick, real).result for real in (truth, noise)]
    for name in ("set", "cubic", "linear"):
        assert measured[0]["measurement"][name] == measured[1]["measurement"][name]
    assert measured[0]["measurement"]["truth"]["mae"] < 1e-4 < measured[1]["measurement"]["truth"]["mae"]
    images = []
    for real in (truth, noise):
        paths = [write(tmp_path / f"{n}.h5", cases) for n, cases in (("o", output), ("t", thick), ("r", real))]
        with contextlib.ExitStack() as stack:
            stored = [stack.enter_context(open_set(path, random_access=True)) for path in paths]
            trio = find_trios(*stored).cases[0]
            images.append({name: source.at(matrix)[0] for name, (source, matrix) in trio.matrices.items()})
    for name in images[0]:
        assert torch.equal(images[0][name], images[1][name])


def test_the_measurement_is_held_against_the_thick_input(tmp_path: Path, truth: list[Case]) -> None:
    thick = [thickened(case) for case in truth]
    shifted = [replace(case, arrays={"image": case["image"] + np.float32(7.0)}) for case in truth]
    residual = section(tmp_path, shifted, thick, truth).result["measurement"]
    assert residual["slices"] == 20
    for name in ("mae", "rmse", "largest"):
        assert residual["set"][name] == pytest.approx(7.0, abs=1e-3)
        assert residual["truth"][name] == pytest.approx(0.0, abs=1e-3)
        assert residual["cubic"][name] > 1.0
    gaussian = InterpolationOptions(profile="gaussian")
    other = section(tmp_path, shifted, thick, truth, options=gaussian).result["measurement"]
    assert other["profile"] == "gaussian"
    assert other["slices"] < 20  # its tails hang over the ends
    assert other["truth"]["mae"] > 1.0
    untold = [replace(case, thickness=0.0) for case in thick]
    assert section(tmp_path, shifted, untold, truth).result["measurement"] == residual
    thinner = InterpolationOptions(thickness=3.0)
    assert section(tmp_path, shifted, untold, truth, options=thinner).result["measurement"]["truth"]["mae"] > 1.0


def test_nan_and_constant_slices_are_counted_and_spoil_nothing_else(tmp_path: Path, truth: list[Case]) -> None:
    output, thick = noisy(truth), [thickened(case) for case in truth]
    output[0]["image"][7, 0, 3, 3] = np.nan
    truth[1]["image"][11] = -1000.0
    truth[2]["image"][13, 0, 0, 0] = np.inf
    thick[3]["image"][2] = np.nan  # spoils the slice at its centre, and the spline through all between others
    found = section(tmp_path, output, thick, truth)
    result = found.result
    assert result["constant"] == 1
    assert result["non_finite"] == 1 + 1 + 17
    assert result["slices"] + result["constant"] + result["non_finite"] == 100
    names = {name.rpartition("/")[0] for name in found.scores["psnr"].values}
    assert names == {"case0", "case1", "case2"}
    assert f"{result['non_finite']} slices hold NaN" in found.warnings[0]
    assert "1 slices of the truth show one value only" in found.warnings[1]
    assert result["measurement"]["non_finite"] >= 3
    assert all(np.isfinite(result["between"]["set"]["psnr"][end]) for end in ("value", "low", "high"))


def test_pairs_are_found_by_frame_of_reference_where_ids_differ(tmp_path: Path, truth: list[Case]) -> None:
    """One set holds both series of each patient, as preprocess makes it of a hospital's folder."""
    thick = [thickened(case, id=f"thick-{case.id}") for case in truth]
    both = [case for pair in zip(thick, truth, strict=True) for case in pair]
    output = [replace(case, id=f"thick-{case.id}") for case in noisy(truth)]
    mixed = section(tmp_path, output, both, both).result
    plain = section(tmp_path, noisy(truth), [thickened(case) for case in truth], truth).result
    assert mixed["between"] == plain["between"]
    assert mixed["measurement"] == plain["measurement"]
    stranger = replace(output[0], id="stranger", frame="")
    found = section(tmp_path, [*output, stranger], both, both)
    assert found.result["unpaired_cases"] == {"without_thick": 1, "without_truth": 0}
    assert "1 cases lack the thick input" in found.warnings


def test_slices_elsewhere_than_the_truth_are_resampled_and_said(tmp_path: Path) -> None:
    position = np.arange(60) * 1.0
    ramp = (8.0 * position)[:, None, None, None] + np.arange(SIDE)[None, None, None, :] * np.ones((60, 1, SIDE, 1))
    truth = [thin_case("a", ramp.astype(np.float32))]
    thick = [thickened(truth[0])]
    fine = (8.0 * (np.arange(40) * 1.25 + 2.3))[:, None, None, None] + ramp[:40] * 0 + ramp[:1]
    found = section(tmp_path, [thin_case("a", fine.astype(np.float32), 1.25, 2.3)], thick, truth)
    assert found.result["resampled"] == found.result["slices"] == 50  # from 2 to 51 mm
    assert found.result["outside"] == 10
    assert found.result["between"]["set"]["mae"]["value"] < 0.2  # a ramp survives
    assert any("lie between those of the set" in warning for warning in found.warnings)
    assert "only one patient: there are no intervals" in found.warnings
    assert found.result["between"]["set"]["psnr"]["low"] is None


def test_scales_of_each_case_are_warned_of(tmp_path: Path, truth: list[Case]) -> None:
    relative = Intensity(unit="relative", window=(-1000.0, 1000.0))
    found = section(tmp_path, noisy(truth), [thickened(case) for case in truth], truth, intensity=relative)
    assert any("scaled by its own percentiles" in warning for warning in found.warnings)


def test_the_vae_has_its_own_line(tmp_path: Path, truth: list[Case]) -> None:
    thick = [thickened(case) for case in truth]
    vae = Reconstructor(lambda images: images + 0.01, "abc")
    found = section(tmp_path, noisy(truth), thick, truth, vae=vae)
    told = found.result["between"]["vae"]
    assert told["mae"]["value"] == pytest.approx(0.01 * 1000, rel=1e-3)
    assert found.result["vae_digest"] == "abc"
    assert "VAE of the truth" in [row[0] for row in found.tables[0].rows]


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_an_honest_spread_is_told_from_a_bold_one(tmp_path: Path, truth: list[Case], scale: float) -> None:
    rng = np.random.default_rng(1)
    output = []
    for case in truth:
        spread = rng.uniform(5.0, 40.0, case["image"].shape).astype(np.float32)
        image = case["image"] + (spread * rng.standard_normal(spread.shape)).astype(np.float32)
        output.append(replace(case, arrays={"image": image, "spread": (scale * spread).astype(np.float16)}))
    found = section(tmp_path, output, [thickened(case) for case in truth], truth)
    told = found.result["calibration"]
    assert told["voxels"] == 64 * SIDE**2
    assert told["rms_spread"] == pytest.approx(scale * told["rms_error"], rel=0.03)
    assert told["within_one"] == pytest.approx(0.683 if scale == 1 else 0.383, abs=0.02)
    assert told["within_two"] == pytest.approx(0.954 if scale == 1 else 0.683, abs=0.02)
    assert told["correlation"] > 0.3
    assert found.tables[-1].title.startswith("spread of the samples")


def spoiled(change: str) -> Callable[[list[Case]], tuple[list[Case], list[Case], list[Case]]]:
    def make(truth: list[Case]) -> tuple[list[Case], list[Case], list[Case]]:
        output, thick = noisy(truth), [thickened(case) for case in truth]
        if change == "no thick":
            thick = [replace(case, id=f"x{case.id}", frame="") for case in thick]
        elif change == "no truth":
            truth = [replace(case, id=f"x{case.id}", frame="") for case in truth]
        elif change == "flaws":
            truth = [replace(case, flaws="uneven gaps") for case in truth]
        elif change == "plane":
            truth = [replace(case, origin=(45.0, 6.0, 0.0)) for case in truth]
        elif change == "size":
            thick = [replace(case, arrays={"image": case["image"][:, :, :8]}) for case in thick]
        return output, thick, truth

    return make


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("no thick", "4 lack the thick input"),
        ("no truth", "4 the thin truth"),
        ("flaws", "of 4 the truth is unevenly spaced"),
        ("plane", "case case0: its reference lies elsewhere in the plane"),
        ("size", "case case0: images of 1 x 24 x 24 in the set, of 1 x 8 x 24 in the thick input"),
    ],
)
def test_sets_that_do_not_belong_together_are_refused(
    tmp_path: Path, truth: list[Case], change: str, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        section(tmp_path, *spoiled(change)(truth))


def test_thick_slices_ask_for_interpolation_alone(tmp_path: Path, truth: list[Case]) -> None:
    with open_set(write(tmp_path / "a.h5", truth), random_access=True) as stored:
        bank = FeatureBank(builtin_extractor(torch.device("cpu")))
        both = Inputs(stored, bank, Silent().progress, reference=stored, thick=stored)
        assert choose(None, both) == ["interpolation"]
        assert choose(["fidelity", "interpolation"], both) == ["fidelity", "interpolation"]
        assert "interpolation" not in choose(None, replace(both, thick=None))
        with pytest.raises(UsageError, match="interpolation needs the thick slices: give --thick"):
            choose(["interpolation"], replace(both, thick=None))
        with pytest.raises(UsageError, match="interpolation needs the thin truth: give --reference"):
            choose(["interpolation"], replace(both, reference=None))


def test_the_profile_matters_for_thick_slices_with_gaps(tmp_path: Path, truth: list[Case]) -> None:
    gapped = []
    for case in truth:
        matrix = profile_matrix([2.0, 8.0, 14.0, 20.0], case.positions.tolist(), 3.0).numpy()
        image = np.tensordot(matrix, case["image"], axes=1).astype(np.float32)
        arrays = {"image": image}
        gapped.append(replace(case, arrays=arrays, spacing=(6.0, 2.0, 2.0), origin=(5.0, 6.0, 2.0), thickness=3.0))
    residual = section(tmp_path, noisy(truth, 0.0), gapped, truth).result["measurement"]
    assert residual["slices"] == 16
    assert residual["set"]["largest"] < 1e-2
