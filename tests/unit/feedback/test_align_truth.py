"""What is told beside an alignment's score: whether images show what was asked, and what a chain of them costs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from test_align import NETWORK, Reporter, aligned, bright, folder, options_of, write_model
from test_align_rehearsal import learner_of

from medgen.artifacts.model_file import Model, open_model, save_model
from medgen.artifacts.provenance import derive
from medgen.artifacts.schema import Case
from medgen.artifacts.sets import open_set
from medgen.config import plain
from medgen.errors import DataError
from medgen.feedback.alignment.align_options import AlignOptions, DDPOOptions, NFTOptions
from medgen.feedback.alignment.bound import Bound, Standing, fewer
from medgen.feedback.alignment.chain import first_distance
from medgen.feedback.alignment.learner import Shown
from medgen.feedback.alignment.truth import Truth
from medgen.models.policy import Policy
from medgen.nets.unet import UNet

__all__ = ["folder"]  # a fixture


@pytest.mark.parametrize("gained", [0, 1, 4, 30])
@pytest.mark.parametrize("lost", [0, 1, 5, 6, 12, 40, 900])
def test_fewer_is_the_exact_test_of_mcnemar(lost: int, gained: int) -> None:
    before = [True] * lost + [False] * gained + [True, False, None, True]
    now = [False] * lost + [True] * gained + [True, False, True, None]
    changed = lost + gained
    chance = stats.binomtest(lost, changed, alternative="greater").pvalue if changed else 1.0
    assert fewer(before, now) == (chance <= 0.025)


def settled(before: Standing, after: Standing) -> tuple[Reporter, dict[str, float]]:
    told, reporter = [before, after], Reporter()
    return reporter, Bound(Policy(UNet(NETWORK)), lambda: told.pop(0), 9.0, 4, reporter).settle(4)


def standing(score: float | None, shown: int, of: int = 40) -> Standing:
    return Standing(1.0, score, None, [True] * shown + [False] * (of - shown))


def test_a_score_that_rises_while_fewer_images_show_what_was_asked_is_called_reward_hacking() -> None:
    reporter, figures = settled(standing(2.0, 30), standing(3.5, 20))
    (warning,) = reporter.warnings
    assert "50% after 75%" in warning
    assert "from 2 to 3.5" in warning
    assert "reward hacking (belief up, truth down)" in warning
    assert (figures["verified_before"], figures["verified_after"]) == (0.75, 0.5)
    assert any("50% show what was asked" in told for told in reporter.said)


def test_fewer_images_without_a_higher_score_are_told_but_not_called_hacking() -> None:
    for score in (None, 1.0):
        reporter, _ = settled(standing(score and 2.0, 30), standing(score, 20))
        (warning,) = reporter.warnings
        assert "50% after 75%" in warning
        assert "hacking" not in warning


def test_what_chance_explains_and_what_is_better_or_not_verified_is_not_warned_of() -> None:
    for after in (standing(3.5, 26), standing(3.5, 38), Standing(1.0, 3.5)):
        assert not settled(standing(2.0, 30), after)[0].warnings
    _, figures = settled(Standing(1.0, 2.0), Standing(1.0, 3.5))
    assert not any(name.startswith("verified") for name in figures)
    assert Standing(1.0, None, None, [None, True, None, False]).verified == 0.5
    assert Standing(1.0, None, None, [None]).verified is None


def test_only_the_images_that_are_scored_are_verified(folder: Path) -> None:
    seen: list[Sequence[int]] = []

    def verdict(shown: Any) -> list[bool | None]:
        assert torch.is_grad_enabled()  # a segmenter or a probe may be trained here
        seen.extend(numbers for _, numbers in shown)
        return [True, None, False, True]

    learner = learner_of(folder, options_of(NFTOptions, check_images=4), verdict=verdict)
    assert learner.bound.begun.verified == 2 / 3
    assert seen == [[0, 1, 2, 3]]


def test_an_image_of_nan_is_not_judged_as_the_grey_one_that_is_stored_for_it() -> None:
    class Passes:
        told: ClassVar[list[object]] = []

        def judged(self, case: Case, refused: Any, number: int = 0) -> bool:
            return True

    class Draws:
        def shown(self, images: Tensor, numbers: Sequence[int], asked: Any, texts: Any) -> list[Case]:
            return [Case(str(number), {"image": np.zeros((1, 1, 2, 2))}) for number in numbers]

    class Asks:
        def arrays(self, numbers: Sequence[int]) -> dict[str, Any]:
            return {}

        told = arrays

    images = torch.zeros(3, 1, 2, 2)
    images[1, 0, 0, 0] = float("nan")
    parts: tuple[Any, Any, Any] = (Passes(), Draws(), Asks())
    assert Truth(*parts)([(images, [4, 5, 6])]) == [True, None, True]


def test_checks_of_all_alignments_draw_alike(folder: Path) -> None:
    one, other = (learner_of(folder, options_of(NFTOptions, check_images=4, seed=seed)) for seed in (0, 1))
    assert one.bound.begun == other.bound.begun


def test_what_cannot_be_verified_is_refused_before_the_first_update(folder: Path, tmp_path: Path) -> None:
    scored: list[int] = []

    def reward(images: Tensor, numbers: Sequence[int]) -> Tensor:
        scored.extend(numbers)
        return bright(images, numbers)

    def refuses(shown: Shown) -> list[bool | None]:
        raise DataError("nothing to verify")

    options = options_of(NFTOptions, check_images=4)
    with pytest.raises(DataError, match="nothing to verify"):
        aligned(folder, tmp_path / "out.safetensors", options, reward, verdict=refuses)
    assert len(scored) == 4


def test_the_bound_holds_since_the_first_alignment() -> None:
    """10 % above 1.0, though the model at hand stands at 1.05."""
    told, reporter = [Standing(distance, None) for distance in (1.05, 1.09, 1.12, 1.12)], Reporter()
    policy = Policy(UNet(NETWORK))
    bound = Bound(policy, lambda: told.pop(0), 0.1, 4, reporter, first=1.0)
    for done in (4, 8, 12):
        bound.check(done)
    assert bool(policy.broken)
    told.append(Standing(1.09, None))
    figures = bound.settle(12)
    assert (figures["updates"], figures["frechet_first"], figures["frechet_before"]) == (4, 1.0, 1.05)
    assert "risen by 12% since the first alignment" in reporter.warnings[0]


def test_a_distance_that_is_not_a_number_is_beyond_the_bound() -> None:
    policy = Policy(UNet(NETWORK))
    told = [Standing(1.0, None), *[Standing(float("nan"), None)] * 2]
    bound = Bound(policy, lambda: told.pop(0), 0.1, 4, Reporter())
    for done in (4, 8):
        bound.check(done)
    assert bool(policy.broken)


def aligned_model(path: Path, reference: Path, options: AlignOptions, **facts: Any) -> Model:
    write_model(path)
    before = open_model(path)
    with open_set(reference, random_access=True) as stored:
        inputs = [stored, before]
        return save_model(
            path, kind="denoiser", config=before.config, weights=before.weights(), facts=before.facts | facts,
            provenance=derive("align", plain(options), inputs=inputs), inputs=inputs, force=True,
        )  # fmt: skip


def test_a_first_distance_counts_only_where_it_was_measured_alike(folder: Path, tmp_path: Path) -> None:
    options = options_of(NFTOptions)
    model = aligned_model(tmp_path / "model.safetensors", folder / "real.h5", options, frechet_first=1.5)
    with open_set(folder / "real.h5", random_access=True) as stored:
        assert first_distance(model, stored, options) == 1.5
        assert first_distance(model, stored, msgspec.structs.replace(options, seed=7, group=4)) == 1.5
        for change in ({"check_images": 8}, {"sampler": "heun"}, {"sampling_steps": 4}):
            assert first_distance(model, stored, msgspec.structs.replace(options, **change)) is None
        assert first_distance(model, stored, options_of(DDPOOptions)) is None
        assert first_distance(open_model(folder / "model.safetensors"), stored, options) is None
        earlier = aligned_model(tmp_path / "earlier.safetensors", folder / "real.h5", options)
        assert first_distance(earlier, stored, options) is None
        stored.tail = msgspec.structs.replace(stored.tail, digest="f" * 64)
        assert first_distance(model, stored, options) is None
