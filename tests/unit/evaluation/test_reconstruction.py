from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case, Intensity, SetHeader
from medgen.artifacts.sets import create_set, open_set
from medgen.errors import DataError, MedgenError
from medgen.evaluation.features.extractors import builtin_extractor
from medgen.evaluation.features.features import FeatureBank
from medgen.evaluation.inputs import Inputs
from medgen.evaluation.reconstruction.declaration import ReconstructionOptions
from medgen.evaluation.reconstruction.metric import compare_sets, compare_with_model, measure
from medgen.evaluation.reconstruction.pair_scores import PairScores, Place
from medgen.reporting import Silent

HU = Intensity()


def pair(count: int = 4, side: int = 64, noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    reference = torch.rand(count, 1, side, side, generator=random) * 1.6 - 0.8
    return reference + noise * torch.randn(reference.shape, generator=random).clamp(-1, 1), reference


def places(images: torch.Tensor) -> list[Place]:
    return [Place(str(number), number) for number in range(len(images))]


def scored(images: torch.Tensor, references: torch.Tensor) -> dict:
    scores = PairScores(HU)
    scores.add(images, references, places(images))
    return scores.result()


def test_agrees_with_scikit_image() -> None:
    images, references = pair()
    result = scored(images, references)
    a, b = ((x[:, 0].double().numpy() + 1) / 2 for x in (images, references))
    psnr = [peak_signal_noise_ratio(y, x, data_range=1) for x, y in zip(a, b, strict=True)]
    assert result["psnr"]["mean"] == pytest.approx(np.mean(psnr), rel=1e-9)
    assert result["psnr"]["std"] == pytest.approx(np.std(psnr), rel=1e-6)
    assert result["mse"]["mean"] == pytest.approx(((a - b) ** 2).mean(), rel=1e-9)
    options = {"data_range": 1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    # Only windows that lie wholly inside count, as in the original method.
    ssim = [structural_similarity(y, x, **options)[1][5:-5, 5:-5].mean() for x, y in zip(a, b, strict=True)]
    assert result["ssim"]["mean"] == pytest.approx(np.mean(ssim), abs=1e-6)


def test_ms_ssim_agrees_with_torchmetrics_and_its_scales_are_said() -> None:
    images, references = pair(count=2, side=176)
    result = scored(images, references)
    assert result["ms_ssim_scales"] == 5
    expected = multiscale_structural_similarity_index_measure((images + 1) / 2, (references + 1) / 2, data_range=1.0)
    assert result["ms_ssim"]["mean"] == pytest.approx(float(expected), abs=1e-4)
    assert scored(*pair(side=64))["ms_ssim_scales"] == 3
    assert scored(*pair(side=8))["ms_ssim_scales"] == 0
    assert "ms_ssim" not in scored(*pair(side=8))


def test_physical_errors_are_in_the_unit_of_the_window() -> None:
    references = torch.linspace(-0.5, 0.5, 16 * 16).reshape(1, 1, 16, 16)
    result = scored(references + 0.1, references)
    assert result["unit"] == "HU"
    assert result["mae_physical"]["mean"] == pytest.approx(0.05 * 1400, rel=1e-5)
    assert result["rmse_physical"]["mean"] == pytest.approx(70, rel=1e-5)
    assert result["mae"]["mean"] == pytest.approx(0.05, rel=1e-5)


def test_nan_constant_and_identical_pairs_are_counted_and_not_averaged() -> None:
    images, references = pair(count=6)
    clean = scored(images[:3], references[:3])
    images[3, 0, 1, 1] = float("nan")
    references[4] = 0.25
    images[5] = references[5]
    result = scored(images[:5], references[:5])
    assert (result["pairs"], result["non_finite"], result["constant"], result["identical"]) == (5, 1, 1, 0)
    for name in ("psnr", "ssim", "mse"):
        assert result[name] == clean[name]
    with_identical = scored(images, references)
    assert with_identical["identical"] == 1
    assert with_identical["psnr"] == clean["psnr"]
    assert with_identical["mse"]["mean"] == pytest.approx(clean["mse"]["mean"] * 3 / 4)


def test_only_bad_pairs_give_no_score() -> None:
    result = scored(torch.full((2, 1, 16, 16), float("nan")), torch.zeros(2, 1, 16, 16))
    assert result["non_finite"] == 2
    assert "psnr" not in result


def write(path: Path, cases: dict[str, np.ndarray], intensity: Intensity = HU) -> Path:
    with create_set(path, SetHeader("image", derive("preprocess", {}), intensity=intensity)) as writer:
        for name, image in cases.items():
            writer.write(Case(name, {"image": image}))
    return path


def images(depth: int, seed: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 400, (depth, 1, side, side)).astype(np.int16)


def test_cases_are_paired_by_id_not_by_order(tmp_path: Path) -> None:
    one, two = images(2, 0), images(3, 1)
    a = write(tmp_path / "a.h5", {"one": one, "two": two, "more": images(1, 2)})
    b = write(tmp_path / "b.h5", {"two": two + 10, "one": one + 10, "other": images(1, 3)})
    with open_set(a, random_access=True) as first, open_set(b, random_access=True) as second:
        scores = PairScores(HU)
        result = {**compare_sets(first, second, scores), **scores.result()}
    assert [place.name for place in scores.places] == ["one/0", "one/1", "two/0", "two/1", "two/2"]
    assert (result["cases"], result["pairs"]) == (2, 5)
    assert result["unpaired_cases"] == {"set": 1, "reference": 1}
    assert result["mae_physical"]["mean"] <= 10.001  # clipped at the upper end of the window
    assert result["mae_physical"]["mean"] > 9.5


def test_sets_that_do_not_pair_are_refused(tmp_path: Path) -> None:
    a = write(tmp_path / "a.h5", {"one": images(2, 0)})
    others = {
        "no case of the set": write(tmp_path / "b.h5", {"two": images(2, 0)}),
        "case one: 2 slices in the set, 3 in the reference": write(tmp_path / "c.h5", {"one": images(3, 0)}),
        "case one: images of 1 x 16 x 16 in the set, of 1 x 8 x 8": write(tmp_path / "d.h5", {"one": images(2, 0, 8)}),
        "preprocess both with one window": write(
            tmp_path / "e.h5", {"one": images(2, 0)}, Intensity(window=(-160.0, 240.0))
        ),
    }
    for reason, path in others.items():
        with (
            open_set(a, random_access=True) as first,
            open_set(path, random_access=True) as second,
            pytest.raises(DataError, match=reason),
        ):
            compare_sets(first, second, PairScores(HU))


def test_a_model_is_compared_with_its_input(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", {"one": images(40, 0)})
    with open_set(path, random_access=True) as stored:
        same, halved = PairScores(HU), PairScores(HU)
        compare_with_model(stored, lambda x: x.clone(), same)
        assert same.result()["identical"] == 40
        compare_with_model(stored, lambda x: x * 0.5, halved)
    worse = halved.result()
    assert worse["pairs"] == 40
    assert worse["mae"]["mean"] > 0.1


def test_only_the_foreground_counts() -> None:
    images, references = pair(count=3, side=32)
    inside = torch.zeros(3, 1, 32, 32, dtype=torch.bool)
    inside[:2, :, 8:24, 4:20] = True
    spoiled = torch.where(inside, images, -references)
    whole, part = PairScores(HU), PairScores(HU)
    whole.add(images[:2, :, 8:24, 4:20], references[:2, :, 8:24, 4:20], places(images[:2]))
    part.add(spoiled, references, places(images), inside)
    for name in ("psnr", "mse", "mae_physical"):
        assert part.result()[name]["mean"] == pytest.approx(whole.result()[name]["mean"], rel=1e-9)
    assert part.result()["without_foreground"] == 1
    assert "ms_ssim" not in part.result()
    options = {"data_range": 1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    expected = []
    for image, reference in zip(spoiled[:2, 0], references[:2, 0], strict=True):
        a, b = ((x.clamp(-1, 1).double().numpy() + 1) / 2 for x in (image, reference))
        expected.append(structural_similarity(b, a, **options)[1][8:24, 5:20].mean())  # the margin of 5 has no window
    assert part.result()["ssim"]["mean"] == pytest.approx(np.mean(expected), abs=1e-6)


def test_a_foreground_that_ssim_cannot_see_is_not_replaced_by_the_whole_image() -> None:
    images, references = pair(count=3, side=32)
    inside = torch.zeros(3, 1, 32, 32, dtype=torch.bool)
    inside[:2, :, 8:24, 4:20] = True
    inside[2, :, :, :3] = True
    both, two = PairScores(HU), PairScores(HU)
    both.add(images, references, places(images), inside)
    two.add(images[:2], references[:2], places(images[:2]), inside[:2])
    assert both.result()["ssim"] == two.result()["ssim"]
    assert (both.result()["at_margin"], two.result()["at_margin"]) == (1, 0)
    assert both.result()["mae"]["mean"] != two.result()["mae"]["mean"]
    assert [place.name for _, place, _ in both.worst][:2] == [place.name for _, place, _ in two.worst]


def test_the_interval_is_over_cases_and_the_worst_pairs_are_kept() -> None:
    images, references = pair(count=12)
    images[7] = -references[7]
    images[2] = 0.3 * references[2]
    scores = PairScores(HU)
    names = [Place(f"case{number // 4}/{number % 4}", number // 4) for number in range(12)]
    for start in range(0, 12, 5):  # batches must not matter
        rows = slice(start, start + 5)
        scores.add(images[rows], references[rows], names[rows])
    low, high = scores.result()["ssim"]["interval"]
    assert low < scores.result()["ssim"]["mean"] < high
    worst = [place.name for _, place, _ in scores.worst]
    assert len(worst) == 4
    assert worst[0] == "case1/3"
    assert scores.values("ssim").argmin() == 7
    assert [value for value, _, _ in scores.worst] == sorted(scores.values("ssim"))[:4]


def test_section_names_every_score_and_pair(tmp_path: Path) -> None:
    a = write(tmp_path / "a.h5", {"one": images(2, 0, 32), "two": images(1, 1, 32)})
    b = write(tmp_path / "b.h5", {"one": images(2, 2, 32), "two": images(1, 3, 32)})
    with open_set(a, random_access=True) as stored, open_set(b, random_access=True) as reference:
        bank = FeatureBank(builtin_extractor())
        inputs = Inputs(stored, bank, Silent().progress, reference=reference)
        section = measure(inputs, ReconstructionOptions(foreground="-500"))
        assert section.result["foreground"] == "-500"
        assert set(section.scores["ssim"].values) == {"one/0", "one/1", "two"}
        assert "foreground (-500) only" in section.tables[0].title
        assert {row[0] for row in section.tables[0].rows} >= {"PSNR (dB)", "SSIM", "MAE (HU)"}
        assert len(section.galleries[0].rows) == 3
        for wrong in ("bone", "mask"):
            with pytest.raises(MedgenError, match="--foreground"):
                measure(inputs, ReconstructionOptions(foreground=wrong))
